"""The error for invalid user input. Nothing heavy is imported here, so that the command line starts fast."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user passed. The message is one line that a person can act on."""


def one_line(text: object) -> str:
    """Return `text` on one line: white space is folded, and control characters are replaced by their escapes."""
    folded = " ".join(str(text).split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in folded)
