"""Packages whose names are loaded when they are first used: importing torch takes seconds, which a misspelt name should not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_loaded_from(homes: Mapping[str, str], package: str) -> Callable[[str], Any]:
    """Return the function `__getattr__` of a package.

    Args:
        homes: each name with the module that defines it.
        package: its own name.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
