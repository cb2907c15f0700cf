"""Standard output belongs to the command: whatever code of the user prints goes to standard error."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_STDIN, _STDOUT, _STDERR = range(3)
_SHARED = object()
# The handle of the running command; None where standard output was closed.
_private: Any = _SHARED


def stdout() -> Any:
    """Return the standard output of the command; None if it was closed when the command started."""
    return sys.stdout if _private is _SHARED else _private


def owning_stdout(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command, run inside `private_stdout`."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        with private_stdout():
            return command(*args, **options)

    return run


@contextlib.contextmanager
def private_stdout() -> Iterator[None]:
    """Make `stdout()` a handle that only this package knows.

    Meanwhile `sys.stdout` and file descriptor 1, which C code and child processes write to, are standard error. Closing
    or replacing them closes neither.
    """
    global _private
    given, before = sys.stdout, _private
    with contextlib.ExitStack() as undo:
        undo.callback(_set_private, before)
        if _number(given) == _STDOUT:
            _private = undo.enter_context(_moved(given))
        else:  # memory, or closed
            _private = given
            undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def keep_descriptors_open() -> None:
    """Open what was closed at the start on the null device: the next file that is opened would take its number."""
    for number in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def give_up_stdout() -> None:
    """Point file descriptor 1 to standard error for good: code of the user may still print when the process ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.dup2(_STDERR, _STDOUT)


def _set_private(stream: Any) -> None:
    global _private
    _private = stream


def _number(stream: Any) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def _moved(given: TextIO) -> Iterator[TextIO]:
    """Yield standard output under another number, with 1 pointing to standard error."""
    form = {"encoding": given.encoding, "errors": given.errors}
    given.flush()
    private = os.fdopen(os.dup(_STDOUT), "w", **form)
    os.dup2(_STDERR, _STDOUT)
    sys.stdout = open(_STDOUT, "w", buffering=1, closefd=False, **form)  # noqa: SIM115 (it stays open)
    try:
        yield private
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os.dup2(private.fileno(), _STDOUT)
        sys.stdout = given
        with contextlib.suppress(OSError):
            private.close()
