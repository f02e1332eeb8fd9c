"""The `cowroot` command."""

from __future__ import annotations

import click


@click.group()
def main() -> None:
    """Boot a Linux image copy-on-write from a read-only disk."""
