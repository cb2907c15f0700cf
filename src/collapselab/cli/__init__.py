"""The command line: one file per command."""

from collapselab.cli.app import main

__all__ = ["main"]
