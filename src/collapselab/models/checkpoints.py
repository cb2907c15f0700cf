"""Load weights from a file into a network. Only tensors and plain containers are ever unpickled."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.errors import InputError, InputNote, one_line
from collapselab.models.states import State, fitted, states_in
from collapselab.models.unpickling import read_pickled
from collapselab.models.weights import tied_names
from collapselab.storage import check_regular, load_tensors
from collapselab.text import listed
from collapselab.user_code import user_code

_SAFETENSORS_START = 8  # bytes that hold the length of the header, a JSON object
_SHOWN = 3


def load_checkpoint(model: nn.Module, path: Path, key: str | None = None) -> None:
    """Set all parameters and buffers of `model` to those in a file.

    Args:
        model: the network.
        path: a file of safetensors, or one saved by torch, whatever its name: a state dict, alone or anywhere in nested
            mappings, or a whole network. Objects other than tensors are never restored. Prefixes that wrappers and
            trainers add to names are removed, with a warning. Tensors that the model ties to others may be missing.
            Floating-point numbers of another precision are converted, with a warning.
        key: place of the weights in the file (`model_ema`), or what their names begin with; default: those that fit.

    Raises:
        InputError: no such file, damage, keys or shapes that do not fit, tensors that are not dense numbers of the
            model's kind, weights that are NaN or infinite.
    """
    load_state(model, fitted(model, read_checkpoint(path, key), path), path)


def read_checkpoint(path: Path, key: str | None = None) -> dict[str, State]:
    """Return all mappings of tensors in a file, by their place in it, on the CPU.

    Raises:
        InputError: see `load_checkpoint`.
    """
    check_regular(path)
    if not path.is_file():
        problem = "is no file" if path.exists() else "no such file"
        raise InputError(f"{path}: {problem}; check the path of the checkpoint")
    try:
        _check_sizes(path)
        content = load_tensors(path) if _is_safetensors(path) else read_pickled(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, since it is no file of weights, calls functions of the system, or is damaged; save only "
            "the state dict: torch.save(model.state_dict(), file), or as .safetensors"
        ) from error
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # torch, zipfile and safetensors raise more kinds of exception for damage than can be listed.
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read, damaged or cut off, or no file of weights ({reason}); copy or save it again"
        ) from error
    return states_in(content, path, key)


def is_weights(path: Path) -> bool:
    """Whether a file begins as files of weights do; its name does not matter."""
    with path.open("rb") as file:
        start = file.read(4)
    return _is_safetensors(path) or start[:2] in (b"PK", b"\x80\x02")


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_SAFETENSORS_START + 1)
    if path.suffix.lower() == ".safetensors":  # a damaged one is reported as such
        return start[:2] != b"PK"
    return start[_SAFETENSORS_START:] == b"{"


def load_state(model: nn.Module, state: State, path: Path) -> None:
    """Set the weights of `model` to tensors of a file under the model's own names; see `load_checkpoint`."""
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    state = _with_tied(state, wanted, path)
    problems = [
        # Checkpoints of old versions of torch do not have this count of batches, and nothing depends on it.
        _listed("missing", [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]),
        _listed("unexpected", [name for name in state if name not in wanted]),
        _listed("misshapen", [_shapes(name, state, wanted) for name in misshapen(model, state)]),
    ]
    if any(problems):
        raise InputError(
            f"{path}: does not fit the model: {'; '.join(filter(None, problems))}; give the checkpoint of this model"
        )
    state = _converted(model, state, wanted, path)
    with user_code(f"{path}: loading", "give the checkpoint of this model"):
        model.load_state_dict(state, strict=False)


def _with_tied(state: State, wanted: Mapping[str, Tensor], path: Path) -> State:
    """Return `state` with the tensors that the model ties to others, which some formats store once.

    Raises:
        InputError: the file has different values for them.
    """
    tied, full = tied_names(wanted), dict(state)
    for name, first in tied.items():
        if name in full:
            full.setdefault(first, full[name])
    for name, first in tied.items():
        if first in full and not torch.equal(full.setdefault(name, full[first]), full[first]):
            raise InputError(
                f"{path}: has different values of {first} and {name}, which the model ties; give the checkpoint of this model"
            )
    return full


def _converted(model: nn.Module, state: State, wanted: Mapping[str, Tensor], path: Path) -> State:
    """Return `state` as numbers of the model's types; a warning says which are converted.

    Raises:
        InputError: numbers of another kind, or parameters that are NaN or infinite.
    """
    types = set()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    full = {}
    for name, tensor in state.items():
        if _kind(tensor) != _kind(wanted[name]) and not name.endswith("num_batches_tracked"):
            raise InputError(
                f"{path}: {name} has numbers of type {_dtype(tensor)} where the model has {_dtype(wanted[name])}; save "
                "weights of the model's own type"
            )
        if tensor.dtype != wanted[name].dtype and tensor.is_floating_point():
            types.add((_dtype(tensor), _dtype(wanted[name])))
        full[name] = tensor.to(wanted[name].dtype)
        # Buffers may be infinite, such as attention masks.
        count = int((~full[name].isfinite()).sum()) if name in parameters else 0
        if count:
            raise InputError(
                f"{path}: {name} has {count} NaN or infinite values as {_dtype(full[name])}, as after training that "
                "diverged; give an earlier checkpoint"
            )
    for before, after in sorted(types):
        warnings.warn(f"{path}: weights are converted from {before} to {after}", InputNote, stacklevel=4)
    return full


def misshapen(model: nn.Module, state: State) -> list[str]:
    """Return the names that occur in both with different shapes."""
    wanted = model.state_dict()
    return [
        name
        for name, value in wanted.items()
        if name in state and isinstance(value, Tensor) and state[name].shape != value.shape
    ]


def _check_sizes(path: Path) -> None:
    """Check before reading that the file is as long as it says, and says everything once.

    Raises:
        InputError: it is not.
    """
    size = path.stat().st_size
    if _is_safetensors(path):
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(_SAFETENSORS_START).ljust(_SAFETENSORS_START, b"\0"))[0]
            if length <= size - _SAFETENSORS_START:  # else the library says what is wrong
                json.loads(file.read(length), object_pairs_hook=lambda pairs: _unique(pairs, path))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _unique([(entry.filename, entry) for entry in entries], path)
            if sum(entry.file_size for entry in entries) > size:
                raise InputError(f"{path}: compressed, or damaged; save the state dict again with torch.save")
            # torch does not look at the checksums that it writes; it writes zeros where they are turned off.
            if any(entry.CRC for entry in entries) and archive.testzip() is not None:
                raise InputError(f"{path}: damaged: a checksum is wrong; copy or save it again")


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """Return a dict of `pairs`; readers differ in which of two entries of one name they take."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise InputError(f"{path}: damaged: has an entry twice; copy or save it again")
    return content


def _kind(tensor: Tensor) -> str:
    """Return `real`, `complex` or `whole`: none of them becomes another without loss or doubt."""
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else "whole"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shapes(name: str, state: State, wanted: Mapping[str, Any]) -> str:
    return f"{name} {tuple(state[name].shape)} where the model has {tuple(wanted[name].shape)}"


def _listed(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({one_line(listed(names, _SHOWN))})" if names else ""
