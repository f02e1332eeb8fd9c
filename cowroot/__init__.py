"""cowroot: boot a Linux image copy-on-write from a read-only disk."""

__version__ = "0.1.0"
