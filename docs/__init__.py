"""The documentation, and the programs that write the parts of it that come from the code: `make docs man`."""
