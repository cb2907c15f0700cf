"""Everything that a network and the random generators hold, as tensors and plain values: a run resumes exactly.

Beyond parameters and buffers, a network may keep counters in attributes, buffers that are not in its state dict, and
generators of its own. What cannot be found there, a module gives with torch's own `get_extra_state` and
`set_extra_state`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.training.plain import Plain, digest, restored_tensor
from collapselab.user_code import is_of_user, user_code

_REMEDY = "return tensors, numbers, text, or lists and dicts of them"


class NetworkState:
    """What a network holds, relative to how it was built: attributes that never change are not stored.

    Args:
        model: as it was built, on its device and in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        known: dict[int, bytes] = {}
        self._built = {
            name: {attribute: digest(value, known) for attribute, value in values.items()}
            for name, values in self.attributes()
        }

    def capture(self) -> dict[str, Any]:
        """Return tensors and plain values, which `restore` takes.

        Raises:
            InputError: `get_extra_state` of a module fails, or returns something else.
        """
        return {"modules": {name: _tensors(part) for name, part in self._model.named_modules()}} | {
            "attributes": dict(self.changed()),
            "extra": {
                name: _extra_state(name, part)
                for name, part in self._model.named_modules()
                if _has_extra(part)
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `capture` returned, into a network that was built alike.

        Raises:
            InputError: the network is another one.
        """
        parts, holders = dict(self._model.named_modules()), dict(self.holders())
        if parts.keys() != state["modules"].keys():
            raise InputError(
                "the saved state is that of another network; restore its model file, or remove the run"
            )
        for name, saved in state["modules"].items():
            _restore_tensors(parts[name], saved)
        plain = self._plain()
        for name, (values, gone) in state["attributes"].items():
            if name in holders:
                plain.restore(holders[name], values)
                for attribute in gone:
                    vars(holders[name]).pop(attribute, None)
        for name, form in state["extra"].items():
            with user_code(f"set_extra_state of {name or 'the network'}", "correct the model"):
                parts[name].set_extra_state(Plain().restored(None, form))

    def changed(self) -> Iterator[tuple[str, tuple[dict[str, Any], list[str]]]]:
        """Yield, by holder, the attributes that are not as they were built, and those that are gone."""
        holders, known = dict(self.holders()), dict[int, bytes]()
        for name, values in self.attributes():
            built = self._built.get(name, {})
            changed = {key: value for key, value in values.items() if built.get(key) != digest(value, known)}
            gone = [attribute for attribute in built if attribute not in vars(holders[name])]
            if changed or gone:
                yield name, (changed, gone)

    def attributes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the attributes of each holder in plain form."""
        plain = self._plain()
        for name, holder in self.holders():
            yield name, plain.attributes(holder)

    def holders(self) -> Iterator[tuple[str, object]]:
        """Yield the modules of the network, and the user's files that define them: files have variables too."""
        yield from self._model.named_modules()
        for name in sorted({type(part).__module__ for part in self._model.modules()}):
            module = sys.modules.get(name)
            if is_of_user(getattr(module, "__file__", None)):
                yield f"file {name}", module

    def _plain(self) -> Plain:
        return Plain((*self._model.parameters(), *self._model.buffers()), self._model.modules())


class HostState:
    """What running a network may change outside its tensors: attributes, which buffers there are, draws on the CPU.

    Args:
        model: as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._network = model, NetworkState(model)
        self._attributes = dict(self._network.attributes())
        self._names = {name: set(vars(holder)) for name, holder in self._network.holders()}
        self._buffers = {part: dict(part._buffers) for part in model.modules()}
        self._random = random_states(torch.device("cpu"))

    def put_back(self) -> bool:
        """Make it as it was, but for numbers in buffers; return whether anything had changed."""
        cpu = torch.device("cpu")
        changed = any(self._network.changed()) or digest(random_states(cpu)) != digest(self._random)
        for part, buffers in self._buffers.items():
            changed |= any(part._buffers.get(name) is not buffer for name, buffer in buffers.items())
            changed |= len(part._buffers) != len(buffers)
            part._buffers.clear()
            part._buffers.update(buffers)
        plain = Plain(self._model.parameters(), self._model.modules())
        for name, holder in self._network.holders():
            for attribute in set(vars(holder)) - self._names[name]:
                del vars(holder)[attribute]
            plain.restore(holder, self._attributes[name])
        restore_random_states(self._random, cpu)
        return changed


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all shared generators: Python's, numpy's, torch's on the CPU and on a device."""
    return {
        "python": Plain().stored(random.getstate()),
        "numpy": Plain().stored(np.random.get_state(legacy=False)),  # noqa: NPY002 (networks of users draw from it)
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `random_states` returned."""
    random.setstate(Plain().restored(None, states["python"]))
    np.random.set_state(Plain().restored(None, states["numpy"]))  # noqa: NPY002 (see above)
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


# ---------------------------------------------------------------- parameters and buffers


def _tensors(part: nn.Module) -> dict[str, Any]:
    """Return the parameters and buffers of one module, whether or not they are in its state dict."""
    return {
        "parameters": {
            name: None if tensor is None else (tensor.detach(), tensor.requires_grad)
            for name, tensor in part._parameters.items()
        },
        "buffers": {
            name: (None if tensor is None else tensor.detach(), name not in part._non_persistent_buffers_set)
            for name, tensor in part._buffers.items()
        },
    }


def _restore_tensors(part: nn.Module, saved: Mapping[str, Any]) -> None:
    for name, kept in saved["parameters"].items():
        now = part._parameters.get(name)
        if kept is None or now is None:
            part.register_parameter(name, None if kept is None else nn.Parameter(kept[0], kept[1]))
        elif now.shape != kept[0].shape:
            raise InputError(
                f"the saved state has {name} of shape {tuple(kept[0].shape)} where the network has {tuple(now.shape)}; "
                "restore its model file, or remove the run"
            )
        else:
            with torch.no_grad():
                now.copy_(kept[0])
            now.requires_grad_(kept[1])
    for name, (value, is_persistent) in saved["buffers"].items():
        now = part._buffers.get(name)
        restored = restored_tensor(now, value) if isinstance(value, Tensor) else None
        if name in part._buffers:
            part._buffers[name] = restored
        else:
            part.register_buffer(name, restored, is_persistent)
    for name in part._buffers.keys() - saved["buffers"].keys():
        del part._buffers[name]


def _has_extra(part: nn.Module) -> bool:
    return type(part).get_extra_state is not nn.Module.get_extra_state


def _extra_state(name: str, part: nn.Module) -> Any:
    place = f"get_extra_state of {name or 'the network'}"
    with user_code(place, _REMEDY):
        value = part.get_extra_state()
    form = Plain().stored(value)
    if _has_left(form):
        raise InputError(
            f"{place}: returns a {type(value).__name__} that cannot be stored without pickles; {_REMEDY}"
        )
    return form


def _has_left(form: Any) -> bool:
    if isinstance(form, dict):
        return form.get("kind") == "left" or any(_has_left(item) for item in form.values())
    return isinstance(form, list | tuple) and any(_has_left(item) for item in form)
