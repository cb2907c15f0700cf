"""Containers of tensors, as loaders yield them and models take them; each stays of the type that it is."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


class Fields(dict[str, Any]):
    """The inputs in a named tuple: passed by keyword if the model has parameters of these names, else by position."""


def split_labels(raw: Any) -> tuple[Any, Any] | None:
    """Return the inputs and the labels of a batch that names its labels; None for any other.

    A mapping or a named tuple loses its labels. An object (a dataclass, or one that can be moved to a device, such as a
    batch of graphs) is passed on whole.
    """
    key = _label_key(raw)
    if key is None:
        return None
    if isinstance(raw, Mapping):
        return _without(raw, key), raw[key]
    if isinstance(raw, tuple):
        fields = {name: getattr(raw, name) for name in field_names(raw) if name != key}
        return (next(iter(fields.values())) if len(fields) == 1 else Fields(fields)), getattr(raw, key)
    return raw, getattr(raw, key)


def _label_key(raw: Any) -> str | None:
    if isinstance(raw, Mapping):
        return next((key for key in LABEL_KEYS if key in raw), None)
    if field_names(raw):
        return next((key for key in LABEL_KEYS if key in field_names(raw)), None)
    if isinstance(raw, Tensor | tuple | list) or not callable(getattr(raw, "to", None)):
        return None
    return next((key for key in LABEL_KEYS if getattr(raw, key, None) is not None), None)


def field_names(value: Any) -> tuple[str, ...]:
    """Return the names of the fields of a named tuple or dataclass; none for anything else."""
    if isinstance(value, PackedSequence | type):
        return ()
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return tuple(getattr(value, "_fields", ())) if isinstance(value, tuple) else ()


def _without(mapping: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    if type(mapping) is dict or not isinstance(mapping, MutableMapping):
        return {name: value for name, value in mapping.items() if name != key}
    duplicate = _copied(mapping)
    del duplicate[key]
    return duplicate


def _copied(mapping: MutableMapping[Any, Any]) -> MutableMapping[Any, Any]:
    """Return a mapping of the same type with the same values, and entries of its own."""
    if isinstance(mapping, dict) or hasattr(mapping, "__copy__"):
        return copy.copy(mapping)
    # A shallow copy may share the entries: everything but the values is copied.
    return copy.deepcopy(mapping, {id(value): value for value in mapping.values()})


def moved(value: Any, device: torch.device, *, non_blocking: bool = False) -> Any:
    """Return a container with its tensors on `device`; the container itself is not changed.

    Args:
        value: tensors, containers of them, or objects with a method `to`.
        device: where tensors are put.
        non_blocking: whether the host goes on before tensors are copied; nothing may write to them until then.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, PackedSequence):
        return value.to(device, non_blocking=non_blocking)  # pyright: ignore[reportArgumentType] typed for dtypes only
    if callable(getattr(value, "to", None)):
        try:
            duplicate = copy.copy(value)  # `to` may change it in place
        except Exception:  # some objects cannot be copied
            duplicate = value
        try:
            result = duplicate.to(device)
        except TypeError:  # another kind of `to`
            return value
        return duplicate if result is None else result
    return rebuilt(value, lambda _key, part: moved(part, device, non_blocking=non_blocking))


def rebuilt(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Return a container of the same type, with `change(key, part)` instead of each part; anything else as it is."""
    if isinstance(value, Mapping):
        entries = {key: change(key, item) for key, item in value.items()}
        if type(value) is dict or not isinstance(value, MutableMapping):
            return entries
        duplicate: Any = _copied(value)
        duplicate.update(entries)
        return duplicate
    if isinstance(value, list | tuple):
        items = [change(number, item) for number, item in enumerate(value)]
        return type(value)(*items) if field_names(value) else type(value)(items)
    if field_names(value):
        duplicate = copy.copy(value)
        for name in field_names(value):
            object.__setattr__(duplicate, name, change(name, getattr(value, name)))  # it may be frozen
        return duplicate
    return value


def tensors_in(value: Any) -> Iterator[Tensor | PackedSequence]:
    """Yield the tensors in a container, in order."""
    if isinstance(value, Tensor | PackedSequence):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    else:
        for name in field_names(value):
            yield from tensors_in(getattr(value, name, None))


def call(model: nn.Module, inputs: Any) -> Any:
    """Return what the model returns for `inputs`.

    A tuple is passed by position, a mapping by keyword. A named tuple or dataclass is passed by keyword if all of its
    fields (but the labels) are parameters of the model, otherwise whole; so is a mapping without the name of any
    parameter. Anything else is the only argument.
    """
    if type(inputs) is tuple:
        return model(*inputs)
    if isinstance(inputs, Fields):
        return model(**inputs) if _fits(model, inputs) else model(*inputs.values())
    if isinstance(inputs, Mapping):
        return model(inputs) if _is_one_argument(model, inputs) else model(**inputs)
    label = _label_key(inputs)
    fields = {name: getattr(inputs, name) for name in field_names(inputs) if name != label}
    return model(**fields) if fields and _fits(model, fields) else model(inputs)


def _fits(model: nn.Module, fields: Mapping[str, Any]) -> bool:
    """Return whether the model has a parameter for every field, and needs no other."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(**fields)
    except TypeError:
        return False
    return fields.keys() <= signature.parameters.keys()


def _is_one_argument(model: nn.Module, inputs: Mapping[Any, Any]) -> bool:
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return not all(isinstance(key, str) for key in inputs)
    return not parameters.keys() & inputs.keys()
