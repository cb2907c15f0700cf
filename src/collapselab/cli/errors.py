"""Translate exceptions into one-line messages of the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import typer

from collapselab.errors import MAX_MESSAGE, InputError, one_line, shortened
from collapselab.user_code import is_out_of_memory

# Arguments of library functions that the command line gives another name.
_OTHER_NAMES = {"copies": "--data", "changes": "--set", "out": "FOLDER"}
_ARGUMENT = re.compile(
    r"""(?<!--set )(?<!--data )(?<![\w./='"-])(?P<name>[a-z_]+)=(?P<value>\{[^}]*\}|'[^']*'|"[^"]*"|[^\s;,)]*)"""
)
_NOTHING = re.compile("(?!)")
# What the user typed is shown as it is: a file can be called seed=0.npz.
_TYPED: ContextVar[re.Pattern[str]] = ContextVar("_TYPED", default=_NOTHING)
_PAIR = re.compile(r"\{'(\w+)': (\S+?)\}")


def error_line(error: Exception, app: Any, arguments: Sequence[str]) -> str | None:
    """Return a one-line message of at most `MAX_MESSAGE` characters for an error that the user can fix; None for a bug.

    Args:
        error: what was raised.
        app: the command group of Click.
        arguments: the arguments of the command line.
    """
    line = _message(error, app, arguments)
    return None if line is None else shortened(line, MAX_MESSAGE - len("error: "))


def warning_line(message: object, app: Any, arguments: Sequence[str]) -> str:
    """Return a warning of the library on one line, with options in place of arguments of Python."""
    return in_options(one_line(message), _options(app, arguments))


def _message(error: Exception, app: Any, arguments: Sequence[str]) -> str | None:
    if isinstance(error, InputError):
        return in_options(str(error), _options(app, arguments))
    if isinstance(error, ImportError):
        return one_line(error)
    if is_out_of_memory(error):
        return f"out of memory ({one_line(error) or 'no details'}); measure fewer features or samples at once"
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return one_line(f"{where}{error.strerror or error}; check the path and its permissions")
    # Typer's own copy of Click or Click itself, by version of Typer: both have this method and nothing else does.
    return _usage_line(error) if hasattr(error, "format_message") else None


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Leave what looks like an argument of Python as it is where it was typed: a path, or one of its parts."""
    values = (text.partition("=")[2] if text.startswith("--") else text for text in arguments)
    names = {name for value in values for name in (value, *value.split("/")) if "=" in name}
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    token = _TYPED.set(re.compile("|".join(longest_first)) if names else _NOTHING)
    try:
        yield
    finally:
        _TYPED.reset(token)


def in_options(message: str, options: Mapping[str, str]) -> str:
    """Translate arguments of Python in a message into options: `reduce='gap'` becomes `--reduce gap`.

    Names in quotes and what is `typed` are left as they are.

    Args:
        message: message of a library function, in which arguments appear as `name=` or `name=value`.
        options: the command's options by the name of their argument.
    """

    def option(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]
        if match[0] in options:  # a switch turned off
            return options[match[0]]
        value = _PAIR.sub(r"\1=\2", match["value"].strip("'\""))
        return f"{options[match['name']]} {value}".rstrip() if match["name"] in options else match[0]

    return re.sub(f"{_TYPED.get().pattern}|{_ARGUMENT.pattern}", option, message)


def _options(app: Any, arguments: Sequence[str]) -> dict[str, str]:
    """Return the options and arguments of the current command by parameter name."""
    return _options_of(next((app.commands[name] for name in arguments if name in app.commands), None))


def options_of(command: Callable[..., Any]) -> dict[str, str]:
    """Return the options and arguments of the command that a function implements, by parameter name."""
    alone = typer.Typer()
    alone.command()(command)
    return _options_of(typer.main.get_command(alone))


def _options_of(command: Any) -> dict[str, str]:
    params = [] if command is None else command.params
    own = {
        param.name.rstrip("_"): max(param.opts, key=len)
        if param.opts[0].startswith("-")
        else str(param.metavar)
        for param in params
    }
    off = {f"{param.name}=False": param.secondary_opts[0] for param in params if param.secondary_opts}
    return {name: option for name, option in _OTHER_NAMES.items() if option in own.values()} | own | off


def _usage_line(error: Any) -> str:
    message = one_line(error.format_message()).rstrip(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "collapselab"
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"
