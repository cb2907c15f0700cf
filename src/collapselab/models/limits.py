"""Sizes of networks, checked before anything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping

from collapselab.errors import InputError

OWN = ("mlp", "convnet", "vgg11")
_OWN_SIZES = {"width": (1, 2**20), "units": (1, 2**20), "depth": (0, 10_000), "trained": (1, 10_001)}
_FIXED = ("etf", "identity", "orthogonal")
# Any whole number that the networks of libraries take.
_MAX_OPTION = 2**16
_FLOAT_BYTES = 4


def check_options(model: str, options: Mapping[str, object]) -> None:
    """Refuse options of our own networks, or whole numbers for the networks of libraries, that are out of range.

    Raises:
        InputError: naming the option.
    """
    for name, value in options.items():
        if model in OWN and name in _OWN_SIZES:
            _check_whole(model, name, value, *_OWN_SIZES[name])
        elif model in OWN and name == "dropout":
            _check_share(model, name, value)
        elif model in OWN and name == "fixed" and value not in _FIXED:
            raise InputError(f"{model}: fixed {value!r}: give {', '.join(_FIXED[:-1])} or {_FIXED[-1]}")
        elif model.startswith(("torchvision/", "timm/")):
            for one in value if isinstance(value, tuple | list) else (value,):
                if isinstance(one, int):
                    _check_whole(model, name, int(one), -_MAX_OPTION, _MAX_OPTION)


def _check_whole(model: str, name: str, value: object, low: int, high: int) -> None:
    """Refuse an option that is no whole number from `low` to `high`.

    Raises:
        InputError: naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        given = list(value) if isinstance(value, tuple) else value
        raise InputError(f"{model}: {name} {given}: give a whole number from {low} to {high:,}")


def _check_share(model: str, name: str, value: object) -> None:
    """Refuse an option that is not at least 0 and below 1.

    Raises:
        InputError: naming the option.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{model}: {name} {value}: give a number from 0 to below 1")


def check_parameters(model: str, count: int) -> None:
    """Refuse a network whose weights alone are more than the memory of this machine.

    Raises:
        InputError: with both sizes.
    """
    memory = _memory_bytes()
    if memory is not None and count * _FLOAT_BYTES > memory:
        raise InputError(
            f"{model}: {count:,} weights take {count * _FLOAT_BYTES / 2**30:,.0f} GiB, more than the {memory / 2**30:.0f} "
            "GiB of this machine; give a smaller width or depth"
        )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
