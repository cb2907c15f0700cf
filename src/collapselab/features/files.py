"""Feature files, read array by array and row by row.

Their bytes are not trusted: nothing is ever unpickled, and no more memory is allocated than a file can fill.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from collapselab.errors import InputError, one_line
from collapselab.storage import check_regular

SUFFIXES = (".npz", ".safetensors")

# deflate, the strongest compression that numpy writes, packs at most 1032 bytes into one.
_MAX_PACKING = 1100
_PIECE_BYTES = 2**24
_REMEDY = "write it again"

_Stream = Any  # zipfile.ZipExtFile: its stub says IO[bytes], which is wrong at run time


@runtime_checkable  # the tests check annotations at run time
class FeatureFile(Protocol):
    """One file of named arrays.

    Attributes:
        path: path of the file.
        names: names of its arrays.
    """

    path: Path
    names: tuple[str, ...]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, without reading its values."""
        ...

    def empty(self, name: str) -> npt.NDArray[np.generic] | Tensor:
        """Return an empty array with the dtype of an array."""
        ...

    def read(self, name: str) -> npt.NDArray[np.generic] | Tensor:
        """Return a whole array, in its own dtype."""
        ...

    def rows(self, name: str, step: int) -> Iterator[npt.NDArray[np.generic] | Tensor]:
        """Yield `step` rows of a 2-D array at a time, each time in newly allocated memory."""
        ...


def open_file(path: Path) -> FeatureFile:
    """Open the `.npz` or `.safetensors` file at `path`.

    Raises:
        InputError: another suffix, contents that do not match the suffix, damage, no permission. The methods of the
            result raise it too.
    """
    readers: dict[str, Callable[[Path], FeatureFile]] = {".npz": NpzFile, ".safetensors": SafetensorsFile}
    suffix = path.suffix.lower()
    if suffix not in readers:
        kind = f"unknown kind of file {path.suffix!r}" if suffix else "a file without a suffix"
        raise InputError(f"{path}: {kind}; use .npz or .safetensors")
    return readers[suffix](path)


@contextmanager
def _refusing_damage(path: Path, what: str) -> Iterator[None]:
    """Report any failure inside the context as damage of the file.

    zipfile, zlib, numpy and safetensors raise more kinds of exception for damaged bytes than can be listed:
    from struct.error to RecursionError.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check its permissions") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{path}: {what} is damaged or cut off ({reason}); {_REMEDY}") from error


def _check_start(path: Path, expected: bytes, what: str) -> None:
    check_regular(path)
    with _refusing_damage(path, "the file"), path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise InputError(f"{path}: the file is empty; {_REMEDY}")
    if expected == b"PK" and start[:2] != b"PK":
        found = "looks like a .safetensors file" if start[8:9] == b"{" else "is something else"
        raise InputError(f"{path}: not {what}: its content {found}; rename it or {_REMEDY} with numpy.savez")
    if expected == b"{" and start[8:9] not in (b"{", b""):
        found = "looks like an .npz file" if start[:2] == b"PK" else "is something else"
        raise InputError(f"{path}: not {what}: its content {found}; rename it or {_REMEDY} with safetensors")


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


class NpzFile:
    """Arrays as `numpy.savez` and `numpy.savez_compressed` write them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_start(path, b"PK", "an .npz file")
        with _refusing_damage(path, "the archive"), zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        self._members = {name.removesuffix(".npy"): name for name in members}
        if len(self._members) < len(members):
            twice = next(
                name for name in self._members if members.count(name) + members.count(f"{name}.npy") > 1
            )
            raise InputError(f"{path}: contains {twice!r} twice; {_REMEDY}")
        self.names = tuple(self._members)

    def shape(self, name: str) -> tuple[int, ...]:
        with self._member(name) as (_, header):
            return header.shape

    def empty(self, name: str) -> npt.NDArray[np.generic]:
        with self._member(name) as (_, header):
            return np.empty(0, header.dtype)

    def read(self, name: str) -> npt.NDArray[np.generic]:
        with self._member(name) as (file, header):
            flat = np.empty(math.prod(header.shape), header.dtype)
            _fill(file, flat)
        return flat.reshape(header.shape, order="F" if header.fortran else "C")

    def rows(self, name: str, step: int) -> Iterator[npt.NDArray[np.generic]]:
        with self._member(name) as (file, header):
            n, p = header.shape
            if not header.fortran:
                for start in range(0, n, step):
                    piece = np.empty((min(step, n - start), p), header.dtype)
                    _fill(file, piece)
                    yield piece
                return
        whole = self.read(name)  # in Fortran order a row is spread over the whole array
        for start in range(0, n, step):
            yield whole[start : start + step].copy(order="C")

    @contextmanager
    def _member(self, name: str) -> Iterator[tuple[_Stream, _Header]]:
        with (
            _refusing_damage(self.path, name),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self._members[name]) as file,
        ):
            info = archive.getinfo(self._members[name])
            header = self._read_header(file, name)
            size = info.file_size - file.tell()
            needed = math.prod(header.shape) * header.dtype.itemsize
            most = min(info.compress_size, self.path.stat().st_size) * _MAX_PACKING
            if size != needed or info.file_size > most:
                raise InputError(
                    f"{self.path}: {name} is damaged or cut off (its header says shape {header.shape} of "
                    f"{header.dtype}, {needed} bytes, but {size} are there); {_REMEDY}"
                )
            yield file, header

    def _read_header(self, file: _Stream, name: str) -> _Header:
        if (magic := file.read(8))[:6] != b"\x93NUMPY":
            raise InputError(f"{self.path}: {name} is not an array; {_REMEDY} with numpy.savez")
        # Version 2 differs from 1 in the width of one length field; 3 is 2 with field names in UTF-8.
        version_1 = magic[6] == 1
        read = np.lib.format.read_array_header_1_0 if version_1 else np.lib.format.read_array_header_2_0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # numpy warns of unusual headers: a second line beside the error
                shape, fortran, dtype = read(file)
        except MemoryError as error:  # the parser raises it for deep nesting: memory is not short
            raise ValueError("its header cannot be parsed") from error
        if dtype.hasobject:
            raise InputError(
                f"{self.path}: {name} contains Python objects, which are never unpickled; save it as an array of numbers"
            )
        if min(shape, default=0) < 0:
            raise InputError(f"{self.path}: {name} is damaged (its header says shape {shape}); {_REMEDY}")
        return _Header(shape, fortran, dtype)


def _fill(file: _Stream, array: npt.NDArray[np.generic]) -> None:
    """Read the bytes of `array` in pieces, because decompressed bytes exist twice while they are copied."""
    if not array.nbytes:
        return
    target = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(target):
        piece = file.read(min(_PIECE_BYTES, len(target) - done))
        if not piece:
            raise EOFError(f"{len(target) - done} bytes are missing")
        target[done : done + len(piece)] = piece
        done += len(piece)


class SafetensorsFile:
    """Tensors as `safetensors.torch.save_file` writes them; bfloat16 included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_start(path, b"{", "a .safetensors file")
        with self._open("the file") as archive:
            self.names = tuple(archive.keys())

    @contextmanager
    def _open(self, what: str) -> Iterator[Any]:
        from safetensors import safe_open

        with _refusing_damage(self.path, what), safe_open(str(self.path), framework="pt") as archive:
            yield archive

    def shape(self, name: str) -> tuple[int, ...]:
        with self._open(name) as archive:
            return tuple(archive.get_slice(name).get_shape())

    def empty(self, name: str) -> Tensor:
        with self._open(name) as archive:
            part = archive.get_slice(name)
            return (part[:0] if part.get_shape() else archive.get_tensor(name).new_empty(0)).flatten()

    def read(self, name: str) -> Tensor:
        with self._open(name) as archive:
            return archive.get_tensor(name)

    def rows(self, name: str, step: int) -> Iterator[Tensor]:
        with self._open(name) as archive:
            part = archive.get_slice(name)
            for start in range(0, part.get_shape()[0], step):
                yield part[start : start + step].clone(memory_format=torch.contiguous_format)
