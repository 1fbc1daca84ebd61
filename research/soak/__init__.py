"""What runs for minutes or hours and counts what goes wrong; `make soak` runs all of it and writes one page."""
