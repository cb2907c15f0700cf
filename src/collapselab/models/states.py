"""Find the state dict in the content of a checkpoint, and fit its names to those of a network."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.errors import InputError, InputNote, one_line
from collapselab.models.unpickling import entries
from collapselab.names import near_matches
from collapselab.text import listed

# Where trainers put the weights, in the order in which they are preferred if several fit equally well.
_NESTINGS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "module")
_MOST_NESTED = 4
# Wrappers that can be anywhere in a network: torch.compile, FSDP, activation checkpoints.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_AVERAGED = ("ema", "averaged", "swa", "shadow")
_SHOWN = 3

State = dict[str, Tensor]


def states_in(content: Any, path: Path, key: str | None = None) -> dict[str, State]:
    """Return every mapping of tensors in the content of a file, by its place there: `state_dict`, `ema.model`.

    Args:
        content: of the file.
        path: of the file, for messages.
        key: place of the weights, or what their names begin with; None for all places.

    Raises:
        InputError: no tensors, or no such key.
    """
    content = content if key is None else _at(content, key, path)
    found = dict(_walked(content, key or ""))
    if found:
        return found
    inside = entries(content)
    text = listed(map(str, inside), _SHOWN) if inside else type(content).__name__
    raise InputError(
        f"{path}: contains no state dict but {one_line(text) or 'nothing'}; save model.state_dict(), alone or as "
        "'state_dict'"
    )


def _walked(content: Any, key: str) -> Iterator[tuple[str, State]]:
    """Yield all mappings of tensors, outer ones first; a mapping may contain itself."""
    level, seen = [(key, content)], set[int]()
    for _ in range(_MOST_NESTED + 1):
        below = []
        for place, value in level:
            inside = entries(value)
            if not inside or id(value) in seen or not all(isinstance(name, str) for name in inside):
                continue
            seen.add(id(value))
            tensors = {name: part for name, part in inside.items() if isinstance(part, Tensor)}
            if tensors:
                yield place, tensors
            below += [(f"{place}.{name}" if place else name, part) for name, part in inside.items()]
        level = below


def _at(content: Any, key: str, path: Path) -> Any:
    """Return what is at a key, whose parts are separated by dots; a part may itself have dots."""
    rest = key
    while rest:
        inside = entries(content)
        head = next((name for name in _heads(rest) if name in inside), None)
        if head is None:
            part = {name: value for name, value in inside.items() if str(name).startswith(rest + ".")}
            if part:
                return part
            raise InputError(
                f"{path}: nothing at checkpoint_key={key!r}; {near_matches(rest, map(str, inside))}"
            )
        content, rest = inside[head], rest[len(head) + 1 :]
    return content


def _heads(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))


# ---------------------------------------------------------------- fitting to a network


def fitted(model: nn.Module, states: Mapping[str, State], path: Path) -> State:
    """Return the weights that fit a network best, under the network's own names; notes say what was chosen and changed.

    Wrappers add prefixes to all names (`module.`, a trainer's attribute such as `backbone.`); the prefix under which most
    names are those of the network is removed, and tensors without it are not used. Of several mappings that fit
    equally well, averaged weights come last.

    Args:
        model: the network.
        states: as `states_in` returns them.
        path: of the file, for messages.

    Raises:
        InputError: tensors that are not dense.
    """
    wanted = {name for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    plain = {place: _without_wrappers(state, wanted) for place, state in states.items()}
    prefixes = {place: _prefix(state, wanted) for place, state in plain.items()}
    counts = {place: _count(plain[place], prefix, wanted) for place, prefix in prefixes.items()}
    place = max(states, key=lambda place: (counts[place], not _is_averaged(place), -_order(place)))
    prefix = prefixes[place]
    state = {name[len(prefix) :]: tensor for name, tensor in plain[place].items() if name.startswith(prefix)}
    for name, tensor in state.items():
        kind = _unusable(tensor)
        if kind is not None:
            raise InputError(f"{path}: {name} is {kind}; save the state dict with dense tensors")
    others = [other for other in states if other != place and counts[other] == counts[place] > 0]
    _tell(path, place, prefix, [name for name in plain[place] if not name.startswith(prefix)], others)
    return state


def _without_wrappers(state: State, wanted: Iterable[str]) -> State:
    used = [wrapper for wrapper in _WRAPPERS if not any(wrapper in name for name in wanted)]
    plain = {}
    for name, tensor in state.items():
        for wrapper in used:
            name = name.replace(wrapper, "")
        plain[name] = tensor
    return plain


def _prefix(state: State, wanted: set[str]) -> str:
    """Return the beginning of names after which most of them are those of the network; of equals the shortest."""
    counts = Counter[str]()
    for name in state:
        starts = [0, *(at + 1 for at, char in enumerate(name) if char == ".")]
        counts.update(name[:start] for start in starts if name[start:] in wanted)
    return max(
        counts, key=lambda prefix: (counts[prefix], not _is_averaged(prefix), -len(prefix)), default=""
    )


def _count(state: State, prefix: str, wanted: set[str]) -> int:
    return sum(name.startswith(prefix) and name[len(prefix) :] in wanted for name in state)


def _is_averaged(place: str) -> bool:
    return any(word in place.lower() for word in _AVERAGED)


def _order(place: str) -> int:
    return _NESTINGS.index(place) if place in _NESTINGS else len(_NESTINGS)


def _tell(path: Path, place: str, prefix: str, outside: list[str], others: list[str]) -> None:
    said = [f"the prefix {prefix!r} of the names of tensors was removed"] if prefix else []
    if outside:
        said.append(f"tensors without it are not used ({one_line(listed(outside, _SHOWN))})")
    if others:
        said.append(
            f"the weights are those at {place!r}; {one_line(listed(others, _SHOWN))} would fit too: give its name as "
            "checkpoint_key="
        )
    elif _is_averaged(place) or _is_averaged(prefix):
        said.append(f"the weights are averaged ones ({place or prefix!r})")
    if said:
        warnings.warn(f"{path}: {'; '.join(said)}", InputNote, stacklevel=4)


def _unusable(tensor: Tensor) -> str | None:
    """Return why the numbers of a tensor cannot be copied into a network, or None."""
    if tensor.is_meta:
        return "on the meta device, without numbers"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    return None if tensor.layout == torch.strided else "sparse"
