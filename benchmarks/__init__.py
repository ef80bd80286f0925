"""What `make bench` runs: the whole product under load, beside the ceiling of what it is built on."""
