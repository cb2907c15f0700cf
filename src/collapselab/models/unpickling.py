"""Read files that `torch.save` wrote: tensors and plain containers are restored, everything else is replaced.

Only torch's own reader of weights (`weights_only=True`) is used. It restores tensors and plain containers. It
refuses every other class and function by name; here each of these names stands for `StandIn`, which only records
what it is given. So nothing that a file names is imported, called or looked up.
"""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PICKLES_BEFORE_TENSORS = (
    4  # in files before torch 1.6: a magic number, the protocol, the system, the content
)


class StandIn:
    """An object of a class that is not restored; its state is kept, since weights can be in it.

    Attributes:
        state: what the object was saved with; None without.
    """

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _MappingStandIn:
    """A mapping of a class that is not restored, as an ordered one: torch puts entries into no other class."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:
        return OrderedDict()


def read_pickled(path: Path) -> Any:
    """Return the content of a file written by `torch.save`, on the CPU.

    Raises:
        pickle.UnpicklingError: damage, an instruction that torch's reader refuses, or a call of a function that starts
            programs.
        Exception: damage, of more kinds than can be listed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of unusual files before it refuses them: a second line
        try:
            return _load(path, {})
        except pickle.UnpicklingError:
            names = _unknown_names(path)
            if not names:
                raise
        try:
            return _load(path, dict.fromkeys(names, StandIn))
        except pickle.UnpicklingError:
            # Arrays of numpy are never mappings, and their state is none that a mapping accepts.
            kinds = {name: StandIn if name.startswith("numpy.") else _MappingStandIn for name in names}
            return _load(path, kinds)


def _load(path: Path, kinds: Mapping[str, type]) -> Any:
    # As an open file: of a path, torch looks at the suffix.
    with path.open("rb") as file, torch.serialization.safe_globals([(kind, n) for n, kind in kinds.items()]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _unknown_names(path: Path) -> list[str]:
    """Return the full names of classes and functions that torch does not restore, read without running anything."""
    if zipfile.is_zipfile(path):
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    return sorted(set(_names_in_pickles(path)))


def _names_in_pickles(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for _ in range(_PICKLES_BEFORE_TENSORS):
            for operation, argument, _ in pickletools.genops(file):
                # The names of torch are those of tensors; its reader knows which of them are safe.
                if operation.name == "GLOBAL" and not str(argument).startswith(("torch", "collections ")):
                    yield str(argument).replace(" ", ".")


def entries(value: Any) -> Mapping[Any, Any]:
    """Return what a mapping contains, or the attributes that an object was saved with; empty for all else.

    A whole network (`torch.save(model)`) has the tensors of its state dict, under their names there.
    """
    if isinstance(value, Mapping):
        return value
    state = value.state if isinstance(value, StandIn) else None
    if not isinstance(state, Mapping):
        return {}
    return dict(_tensors_of_module(state)) if _is_module(state) else state


def _is_module(state: Mapping[Any, Any]) -> bool:
    return all(isinstance(state.get(name), Mapping) for name in ("_parameters", "_buffers", "_modules"))


def _tensors_of_module(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the state dict of a network that was saved as an object."""
    passing = state.get("_non_persistent_buffers_set") or ()
    for name, tensor in (*state["_parameters"].items(), *state["_buffers"].items()):
        if isinstance(tensor, Tensor) and name not in passing:
            yield f"{prefix}{name}", tensor
    for name, module in state["_modules"].items():
        inner = module.state if isinstance(module, StandIn) else None
        # A network cannot contain itself, but a file can: names of a hundred parts are none.
        if isinstance(inner, Mapping) and _is_module(inner) and prefix.count(".") < 100:
            yield from _tensors_of_module(inner, f"{prefix}{name}.")
