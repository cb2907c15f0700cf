"""Read pickles of numbers from elsewhere, such as those of CIFAR, without running anything that they name.

A pickle is a program: it names functions, which the ordinary reader imports and calls. This reader knows four names,
those with which numpy describes an array and Python its bytes. Each of them stands for a function of this file; numpy's
own, which trust what they are given, are not called. All other names are refused.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.errors import InputError, one_line
from collapselab.storage import read_bytes

_MAX_BYTES = 2**30
_NUMBERS = (*(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8", "b1")


class _Array:
    """An array that is being described: its state comes after it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or type(content) is not bytes or type(shape) is not tuple:
            raise pickle.UnpicklingError("an array of something other than numbers")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise pickle.UnpicklingError("an array of no shape")
        kind = np.dtype(dtype.order + dtype.name)
        if math.prod(shape) * kind.itemsize != len(content):
            raise pickle.UnpicklingError("an array whose bytes do not fill its shape")
        flat = np.frombuffer(content, kind)
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """The type of the numbers of an array; its state says in which order their bytes are."""

    __slots__ = ("name", "order")

    def __init__(self, name: str) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        order = _ascii(state[1])
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unknown order of bytes")
        self.order = order


def _ascii(text: Any) -> Any:
    """Return text that Python 2 wrote, which arrives as bytes, as text."""
    return text.decode("ascii") if type(text) is bytes else text


class _Call:
    """A function that a pickle may call. It has no attributes that the pickle could change."""

    __slots__ = ()


class _NewArray(_Call):
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _NewDtype(_Call):
    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _Dtype:
        text = _ascii(name)
        if text not in _NUMBERS:
            raise pickle.UnpicklingError(f"an array of {text!r}")
        return _Dtype(text)


class _Encode(_Call):
    """How Python 3 writes bytes in old pickles: as text, to be encoded."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an unknown encoding")
        return text.encode("latin1")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy", "dtype"): _NewDtype(),
    ("_codecs", "encode"): _Encode(),
    # Only given to the first one, and ignored there.
    ("numpy", "ndarray"): None,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return _KNOWN[module_name, global_name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside")


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Return a dictionary of arrays, numbers, text and lists of these; bytes as keys become text.

    Raises:
        InputError: anything else in the file, damage, or more than 1 GiB.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise pickle.UnpicklingError("more than 1 GiB")
        content = _Reader(io.BytesIO(read_bytes(path)), encoding="bytes").load()
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, by what is damaged
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{path}: refused, since it is no pickle of plain arrays ({reason}); download it again, or save its arrays "
            "with numpy.savez"
        ) from error
    if type(content) is not dict:
        raise InputError(f"{path}: holds a {type(content).__name__}, not named arrays; download it again")
    return {_text(name): _plain(value) for name, value in content.items()}


def _text(name: Any) -> str:
    return name.decode("utf-8", "backslashreplace") if type(name) is bytes else str(name)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
