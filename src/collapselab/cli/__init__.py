"""The command line: one file a command."""

from collapselab.cli.app import main

__all__ = ["main"]
