"""The error for invalid user input, and text that is safe to show.

Nothing heavy is imported here, so that the command line starts fast.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# The most characters of a message: about three lines of a terminal.
MAX_MESSAGE = 300
# Paths and names are cut to the first of these widths that makes the message fit.
_WORD_WIDTHS = (120, 80, 50)
_REASON_WIDTH = 60
_BRACKETS = re.compile(r"\((?:[^()]|\([^()]*\))*\)")


class InputError(ValueError):
    """A mistake in what the user passed. The message is one line that a person can act on.

    It has at most `MAX_MESSAGE` printable characters, whatever paths, names and reasons it contains.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(one_line(message)))


class InputNote(UserWarning):
    """How an input was read, where that was a choice: which weights of a file, which size of images."""


@contextmanager
def noted() -> Iterator[list[str]]:
    """While open, collect the notes about inputs instead of showing them; other warnings are shown at the end."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputNote)
        yield said
    for one in caught:
        if not issubclass(one.category, InputNote):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        elif str(one.message) not in said:
            said.append(str(one.message))


def printable(text: object) -> str:
    r"""Return `text` with everything that is not shown as itself replaced by its escape.

    These are control characters (a line break and the start of a terminal escape among them), bidirectional marks,
    zero-width characters, and halves of surrogate pairs, which stand for bytes of a file name that are not UTF-8.

    Example:
        >>> print(printable("layer\x1b[31m\u202e"))
        layer\x1b[31m\u202e
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    # A no-break space is not printable to Python, but harmless.
    return char if char.isprintable() or unicodedata.category(char) == "Zs" else ascii(char)[1:-1]


def printable_lines(text: str) -> str:
    """Return `printable` text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def encodable(text: str) -> str:
    """Return `text` with halves of surrogate pairs, which UTF-8 and JSON cannot hold, replaced by their escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def in_strings(change: Callable[[str], str], values: Any) -> Any:
    """Return nested mappings and lists with every string changed, names included."""
    if isinstance(values, str):
        return change(values)
    if isinstance(values, dict):
        return {in_strings(change, name): in_strings(change, value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [in_strings(change, value) for value in values]
    return values


def one_line(text: object) -> str:
    """Return `text` on one line: white space is folded, and what is not `printable` is replaced by its escape."""
    return printable(" ".join(str(text).split()))


def shortened(message: str, limit: int = MAX_MESSAGE) -> str:
    """Return a message of one line in at most `limit` characters: what is wrong, where, and what to do all remain.

    The longest text in brackets loses its middle first, then long words (paths and names), then what precedes and what follows
    the last semicolon: the problem and the remedy.
    """
    for part in sorted(_BRACKETS.findall(message), key=len, reverse=True):
        width = max(_REASON_WIDTH, len(part) + min(limit - len(message), 0))
        message = message.replace(part, without_middle(part, width), 1)
    for width in _WORD_WIDTHS:
        if len(message) <= limit:
            return message
        message = re.sub(
            rf"\S{{{width + 1},}}", lambda word, width=width: without_middle(word[0], width), message
        )
    problem, semicolon, remedy = message.rpartition("; ")
    remedy = without_middle(remedy, max(limit // 2, limit - len(problem + semicolon)))
    return without_middle(problem, limit - len(semicolon + remedy)) + semicolon + remedy


def without_middle(text: str, width: int) -> str:
    """Return the two ends of a text that is longer than `width`, joined by an ellipsis."""
    end = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - end]}…{text[len(text) - end :]}"
