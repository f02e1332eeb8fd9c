"""The command line: one module per verb, each a thin click command over the rest of the package."""
