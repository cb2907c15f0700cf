"""Load weights from a file into a network. Only tensors are ever unpickled."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.errors import InputError, one_line
from collapselab.storage import check_regular, load_tensors

SUFFIXES = (".safetensors", ".pt", ".pth")
_NESTINGS = ("state_dict", "model_state_dict", "model")
# Added by data parallel, by torch.compile, and by trainers that have the network as an attribute.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 3

State = dict[str, Tensor]


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Set all parameters and buffers of `model` to those in a file.

    Args:
        path: a `.safetensors` file, or a state dict saved by torch (`.pt`, `.pth`), also nested under
            `state_dict`, `model_state_dict` or `model`, also with the prefixes that wrappers add to its keys.

    Raises:
        InputError: no such file, damage, Python objects other than tensors, keys or shapes that do not fit, weights
            that are NaN or infinite.
    """
    load_state(model, read_checkpoint(path), path)


def read_checkpoint(path: Path) -> State:
    """Return the tensors in a file by name, on the CPU.

    Raises:
        InputError: see `load_checkpoint`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: not a checkpoint by its name; give a file ending in {', '.join(SUFFIXES)}")
    check_regular(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path of the checkpoint")
    try:
        content = _content(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, since it contains Python objects other than tensors, or is damaged; save only the state "
            "dict: torch.save(model.state_dict(), file), or as .safetensors"
        ) from error
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # torch, zipfile and safetensors raise more kinds of exception for damage than can be listed
        reason = one_line(error)[:200] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read, damaged or cut off ({reason}); copy or save it again"
        ) from error
    return _state(content, path)


def load_state(model: nn.Module, state: State, path: Path) -> None:
    """Set the weights of `model` to the tensors that `read_checkpoint` returned for `path`; see `load_checkpoint`."""
    state = fitted(model, state)
    wanted = model.state_dict()
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
    # Buffers may be infinite, such as attention masks.
    for name, _ in model.named_parameters():
        count = 0 if name not in state else int((~state[name].isfinite()).sum())
        if count:
            raise InputError(
                f"{path}: {name} has {count} NaN or infinite values, as after training that diverged; give an earlier "
                "checkpoint"
            )
    model.load_state_dict(state, strict=False)


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
    return [name for name in wanted if name in state and state[name].shape != wanted[name].shape]


def _content(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return load_tensors(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of unusual files before it refuses them: a second line
        return torch.load(path, map_location="cpu", weights_only=True)


def _state(content: Any, path: Path) -> State:
    """Return the state dict in the content of a file, also from inside other mappings."""
    while isinstance(content, Mapping) and not _is_state(content):
        inner = next((name for name in _NESTINGS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if isinstance(content, Mapping) and _is_state(content):
        return dict(content)
    found = _few([str(name) for name in content]) if isinstance(content, Mapping) else type(content).__name__
    raise InputError(
        f"{path}: contains no state dict but {one_line(found) or 'nothing'}; save model.state_dict(), alone or as "
        "'state_dict'"
    )


def _is_state(content: Mapping[Any, Any]) -> bool:
    named = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    return bool(content) and named


def _shapes(name: str, state: State, wanted: Mapping[str, Any]) -> str:
    return f"{name} {tuple(state[name].shape)} where the model has {tuple(wanted[name].shape)}"


def _listed(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({one_line(_few(names))})" if names else ""


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
