"""What an installation says in its carriers.yaml, checked as a whole: `carriers_file` is where to begin."""
