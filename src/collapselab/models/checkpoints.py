"""Load weights from a file into a network. Only tensors are ever unpickled."""

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

from collapselab.errors import InputError, one_line
from collapselab.models.weights import tied_names
from collapselab.storage import check_regular, load_tensors
from collapselab.text import listed
from collapselab.user_code import user_code

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_NESTINGS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "module")
_MOST_NESTED = 4
# Added by data parallel, by torch.compile, and by trainers that have the network as an attribute.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_EXTRA = "_extra_state"
_SHOWN = 3

State = dict[str, Tensor]


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Set all parameters and buffers of `model` to those in a file.

    Args:
        path: a `.safetensors` file, or a state dict saved by torch (`.pt`, `.pth`, `.bin`, `.ckpt`), also nested under
            `state_dict`, `model_state_dict` or `model`, also with the prefixes that wrappers add to its keys. Tensors
            that the model ties to others may be missing. Floating-point numbers of another precision are converted,
            with a warning.

    Raises:
        InputError: no such file, damage, Python objects other than tensors, keys or shapes that do not fit, tensors
            that are not dense numbers of the model's kind, weights that are NaN or infinite.
    """
    load_state(model, read_checkpoint(path), path)


def read_checkpoint(path: Path) -> State:
    """Return the tensors in a file by name, on the CPU.

    Raises:
        InputError: see `load_checkpoint`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown checkpoint format; use a file ending in {', '.join(SUFFIXES)}")
    check_regular(path)
    if not path.is_file():
        problem = "is no file" if path.exists() else "no such file"
        raise InputError(f"{path}: {problem}; check the path of the checkpoint")
    try:
        _check_sizes(path)
        content = _content(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, since it contains Python objects other than tensors, or is damaged; save only the state "
            "dict: torch.save(model.state_dict(), file), or as .safetensors"
        ) from error
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # torch, zipfile and safetensors raise more kinds of exception for damage than can be listed.
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read, damaged or cut off ({reason}); copy or save it again"
        ) from error
    return _state(content, path)


def load_state(model: nn.Module, state: State, path: Path) -> None:
    """Set the weights of `model` to the tensors that `read_checkpoint` returned for `path`; see `load_checkpoint`."""
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    state = _with_tied(fitted(model, state), wanted, path)
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
        warnings.warn(f"{path}: weights are converted from {before} to {after}", stacklevel=4)
    return full


def fitted(model: nn.Module, state: State) -> State:
    """Return `state` without the prefixes of wrappers, if its keys match those of `model` better that way."""
    wanted = set(model.state_dict())
    candidates = [state]
    for candidate in candidates:  # the list grows: wrappers can be wrapped
        for prefix in _PREFIXES:
            if candidate and all(name.startswith(prefix) for name in candidate):
                candidates.append({name.removeprefix(prefix): value for name, value in candidate.items()})
    return max(candidates, key=lambda candidate: len(wanted & set(candidate)))


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
    if path.suffix.lower() == ".safetensors":
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            if length <= size - 8:  # else the library says what is wrong
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


def _content(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return load_tensors(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of unusual files before it refuses them: a second line
        return torch.load(path, map_location="cpu", weights_only=True)


def _state(content: Any, path: Path) -> State:
    """Return the state dict in the content of a file, also from inside other mappings."""
    for _ in range(_MOST_NESTED):  # a mapping may contain itself
        if not isinstance(content, Mapping) or _is_state(content):
            break
        inner = next((name for name in _NESTINGS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping) or not _is_state(content):
        found = listed(content, _SHOWN) if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            f"{path}: contains no state dict but {one_line(found) or 'nothing'}; save model.state_dict(), alone or as "
            "'state_dict'"
        )
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in state.items():
        kind = _unusable(tensor)
        if kind is not None:
            raise InputError(f"{path}: {name} is {kind}; save the state dict with dense tensors")
    return state


def _is_state(content: Mapping[Any, Any]) -> bool:
    named = all(
        isinstance(name, str) and (isinstance(value, Tensor) or name.endswith(_EXTRA))
        for name, value in content.items()
    )
    return named and any(isinstance(value, Tensor) for value in content.values())


def _unusable(tensor: Tensor) -> str | None:
    """Return why the numbers of a tensor cannot be copied into a network, or None."""
    if tensor.is_meta:
        return "on the meta device, without numbers"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    return None if tensor.layout == torch.strided else "sparse"


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
