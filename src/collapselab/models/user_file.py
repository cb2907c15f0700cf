"""Networks built by a function in a user's Python file."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from collapselab.errors import InputError
from collapselab.names import near_matches
from collapselab.user_code import user_code

_REMEDY = "correct the file"


def is_user_file(name: str) -> bool:
    """Return whether a model is named as `path/to/file.py:function`."""
    return name.endswith(".py") or ".py:" in name


def find_builder(name: str) -> Callable[..., Any]:
    """Return the function that `path/to/file.py:function` names, after running the file.

    Raises:
        InputError: no such file or function, or the file raises.
    """
    path, function = _parts(name)
    module = _import(path, name)
    builder = getattr(module, function, None)
    if builder is None:
        raise InputError(f"{path}: no function {function!r}; {_functions(path, function)}")
    if not callable(builder):
        raise InputError(
            f"{path}: {function} is a {type(builder).__name__}; name a function that returns a network"
        )
    return builder


def build(
    name: str, builder: Callable[..., Any], num_classes: int, input_shape: tuple[int, ...]
) -> nn.Module:
    """Call the function with those of `num_classes` and `input_shape` that it accepts, and return its network.

    Raises:
        InputError: the function raises, or does not return a network.
    """
    path, function = _parts(name)
    arguments = {"num_classes": num_classes, "input_shape": input_shape}
    with user_code(name, _REMEDY):
        model = builder(**_accepted(builder, arguments))
    if not isinstance(model, nn.Module):
        raise InputError(f"{path}: {function} returns a {type(model).__name__}; return a torch.nn.Module")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            f"{path}: {function} returns a network on the meta device, which stores no weights; use cpu"
        )
    return model


def _parts(name: str) -> tuple[Path, str]:
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py") or not function:
        path = Path(name.rstrip(":"))
        raise InputError(f"{name}: names no function; give {path}:FUNCTION, {_functions(path, '')}")
    if not Path(file).is_file():
        raise InputError(f"{file}: no such file; check the path of the model")
    return Path(file), function


def _functions(path: Path, function: str) -> str:
    """Return a hint about the functions that the file defines, without running it."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return "a function that returns a network"
    defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return near_matches(function, defined) if defined else "the file defines none"


def _import(path: Path, name: str) -> ModuleType:
    # Imported under another name, because the file may have the name of an installed package.
    spec = importlib.util.spec_from_file_location(f"collapselab_user_{path.stem}", path.resolve())
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # the file may import its neighbours
    try:
        with user_code(name, _REMEDY):
            spec.loader.exec_module(module)
    except InputError:
        del sys.modules[spec.name]
        raise
    finally:
        with suppress(ValueError):  # the file may have changed the list
            sys.path.remove(folder)
    return module


def _accepted(builder: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(builder).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return arguments
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in arguments.items() if name in names}
