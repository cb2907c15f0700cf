"""Write text to a terminal or a pipe."""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import suppress

from collapselab.cli.stdout import stdout
from collapselab.errors import InputError, one_line, printable, printable_lines

# A code with which tables are styled (kept), or characters to escape.
_STYLE = re.compile(r"(\x1b\[[\d;]*m)|[^\n\t\x20-\x7e]")
# The exit code that a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130


class ReaderLeft(Exception):
    """The reader of standard output has closed it: not an error, but there is nothing left to do."""


def print_text(text: str) -> None:
    """Print lines to stdout; control characters are escaped, and characters that its encoding lacks are replaced.

    Raises:
        InputError: stdout cannot be written, for example because the disk is full.
        ReaderLeft: the reader has closed stdout.
    """
    out = stdout()
    if out is None:
        raise InputError("standard output is closed; redirect it to a file")
    text = _STYLE.sub(lambda style: style[1] or printable(style[0]), text)
    encoding = out.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate({ord("─"): "-", ord("–"): "-", ord("…"): "..."})
        text = text.encode(encoding, errors="backslashreplace").decode(encoding)
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        # Nothing more can be written, and the interpreter must not try to when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from error
        raise InputError(
            f"standard output cannot be written ({one_line(error.strerror or error)}); free space or redirect it"
        ) from error


def note(text: str) -> None:
    """Print a line to stderr, also where code of the user closed or replaced `sys.stderr`.

    Control characters are escaped.
    """
    text = printable_lines(text)
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        with suppress(OSError):
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def terminal_width() -> int | None:
    """Number of columns of the terminal; None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def uses_colour() -> bool:
    """Whether stdout is a terminal and NO_COLOR is not set."""
    return is_terminal() and "NO_COLOR" not in os.environ


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    out = stdout()
    return out is not None and out.isatty()
