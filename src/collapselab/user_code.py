"""Code of the user that runs in this process: its failures in one line, and its own working directory.

A model file is executed with the rights of whoever starts the command; nothing here is a sandbox.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from collapselab.errors import InputError, one_line

_MAX_REASON = 160
_PACKAGE = str(Path(__file__).resolve().parent)
_INSTALLED = tuple(
    {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


@contextmanager
def user_code(place: str, remedy: str) -> Iterator[None]:
    """Report what the code raises, also `SystemExit`, as one line; if the code changes the working directory, it finds
    that directory again the next time, and nothing else is affected.

    Args:
        place: what runs, at the start of the line.
        remedy: what to do, at its end.

    Raises:
        InputError: `place: net.py, line 12: ValueError: reason; remedy`, with the exception as its cause. Want of
            memory and any InputError pass unchanged.
    """
    with own_working_directory():
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            raise InputError(f"{place}: {described(error)}; {remedy}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, of Python or of torch, is for want of memory."""
    named = "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and named)


def described(error: BaseException) -> str:
    """Return `net.py, line 12: ValueError: reason`, without file and line if no code of the user was running."""
    # Python adds file and line to the text of a syntax error; they come first here.
    reason = one_line(error.msg if isinstance(error, SyntaxError) else error)
    if isinstance(error, SystemExit):
        reason = f"{reason or 'no status'}, it may not end the process"
    elif len(reason) > _MAX_REASON:
        reason = reason[:_MAX_REASON] + "…"
    where = _place(error)
    return f"{'' if where is None else where + ': '}{type(error).__name__}: {reason or 'no message'}"


def is_of_user(file: str | None) -> bool:
    """Whether a source file belongs to the user: neither to this package, nor to Python, nor installed beside them."""
    if not file or file.startswith("<"):
        return False
    path = Path(os.path.realpath(file))
    installed = any(path.is_relative_to(folder) for folder in (_PACKAGE, *_INSTALLED))
    return not installed and not {"site-packages", "dist-packages"} & set(path.parts)


def _place(error: BaseException) -> str | None:
    """Return file and line of the innermost code of the user."""
    if isinstance(error, SyntaxError) and is_of_user(error.filename) and error.lineno:
        return f"{one_line(Path(str(error.filename)).name)}, line {error.lineno}"
    calls = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    file, line = next((call for call in reversed(calls) if is_of_user(call[0])), (None, 0))
    return None if file is None else f"{one_line(Path(file).name)}, line {line}"


# Where code of the user left the process, and where this package had been.
_directories: dict[str, str] = {}


@contextmanager
def own_working_directory() -> Iterator[None]:
    """Give code its own working directory: a change inside is undone on exit, and made again on the next entry."""
    ours = _directory()
    if ours in _directories:
        with suppress(OSError):
            os.chdir(_directories[ours])
    try:
        yield
    finally:
        theirs = _directory()
        if ours is not None and theirs != ours:
            os.chdir(ours)
            if theirs is not None:
                _directories[ours] = theirs
        elif ours is not None:
            _directories.pop(ours, None)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
