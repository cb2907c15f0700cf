"""The one kind of error that is the user's to mend. Nothing heavy is imported here: the command line starts fast."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in what the user passed. The message is one line that a person can act on."""


def one_line(text: object) -> str:
    """`text` on one line: white space folded, and what a terminal would obey shown as its escape."""
    folded = " ".join(str(text).split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in folded)
