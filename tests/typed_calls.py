"""Check the types of calls inside collapselab, for a small part of what jaxtyping's own decorator costs.

That decorator binds the arguments of each call, checks them twice, and is built anew for every function within a function
whenever the outer one runs: together more than half of the time of all tests. Here beartype checks arguments and results
once, within jaxtyping's context where they have shapes. Functions within functions are left to the static type checker.
Imported before anything of collapselab.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isgeneratorfunction
from types import FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped: Any = jaxtyping.jaxtyped
_beartype = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def _hint(function: FunctionType, name: str, annotation: object) -> Any:
    """A type that is not defined yet when the function is, such as a method's own class, is not checked."""

    def holder() -> None: ...

    holder.__annotations__ = {name: annotation}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)[name]
    except Exception:
        return Any


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, hint if isinstance(hint, list) else get_args(hint)))


def _checked(function: FunctionType, typechecker: Callable[..., Any]) -> Any:
    if "<locals>" in function.__qualname__:
        return function
    annotations = function.__annotations__
    hints = {name: _hint(function, name, annotation) for name, annotation in annotations.items()}
    has_shapes = any(map(_has_shape, hints.values()))
    if has_shapes and isgeneratorfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    function.__annotations__ = hints
    checked = _beartype(function)
    function.__annotations__ = annotations

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:  # beartype draws random numbers
            return function(*args, **options)
        if not has_shapes:
            return checked(*args, **options)
        with _jaxtyped("context"):  # in which a name in shapes stands for one size
            return checked(*args, **options)

    # Its frames are a library's: messages of errors name lines of the user's files.
    call: Any = called
    call.__code__ = call.__code__.replace(co_filename=jaxtyping.__file__)
    return call


def _typed(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    def decorate(thing: Any) -> Any:
        if isinstance(thing, FunctionType):
            return _checked(thing, typechecker)
        return _jaxtyped(thing, typechecker=typechecker)

    return decorate


# What the hook of --jaxtyping-packages puts on every function and class.
jaxtyping.jaxtyped = _typed
