"""`make push` and `make pull`."""
