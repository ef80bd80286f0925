"""Single steps of a message's way, measured by pytest-benchmark: `make bench-micro`."""
