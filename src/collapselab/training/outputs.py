"""Class scores among the outputs of a network in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.user_code import user_code

_NAMES = ("logits", "out", "output", "outputs", "scores", "pred", "prediction")
_MAX_SHOWN = 60


def class_scores(
    model: nn.Module, inputs: Tensor, labels: Int[Tensor, " n"], num_classes: int
) -> Float[Tensor, "n c"]:
    """Run a network and return the class scores among its outputs.

    These are the output itself, or among several the one of a usual name, or the only one with a score per class.

    Args:
        model: in whichever mode.
        inputs: (n, …).
        labels: one per sample.
        num_classes: the least number of scores per sample.

    Raises:
        InputError: the network fails, or it is not clear which of its outputs are class scores.
    """
    with user_code("training", f"check that the model takes inputs of shape {tuple(inputs.shape)}"):
        outputs = model(inputs)
    found = [
        (keys, tensor)
        for keys, tensor in _tensors(outputs, ())
        if tensor.ndim == 2
        and len(tensor) == len(labels)
        and tensor.shape[1] >= num_classes
        and tensor.is_floating_point()
    ]
    named = [one for name in _NAMES for one in found if name in one[0]][:1]
    exact = [one for one in found if one[1].shape[1] == num_classes]
    chosen = named or exact or found
    if len(chosen) != 1:
        problem = "none of which is clearly" if chosen else "but training needs"
        raise InputError(
            f"training: the model returns {_form(outputs)}, {problem} class scores of {num_classes} classes, floating-point "
            f"and of shape ({len(labels)}, {num_classes}); return them, alone or as 'logits' of a dict"
        )
    return chosen[0][1]


def _tensors(value: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Yield the tensors in nested outputs, each with the keys that lead to it."""
    if isinstance(value, Tensor):
        yield keys, value
        return
    items: Iterable[tuple[Any, Any]] = [("logits", value.logits)] if hasattr(value, "logits") else []
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    for key, item in items:
        yield from _tensors(item, (*keys, key))


def _form(outputs: Any) -> str:
    """Describe the outputs of a network in a few words."""
    if isinstance(outputs, Tensor):
        kind = "" if outputs.is_floating_point() else f"{str(outputs.dtype).removeprefix('torch.')} "
        return f"a {kind}tensor of shape {tuple(outputs.shape)}"
    name, parts = type(outputs).__name__, []
    if isinstance(outputs, Mapping):
        parts = [f"{key}: {_short(value)}" for key, value in outputs.items()]
    elif isinstance(outputs, list | tuple):
        parts = [_short(value) for value in outputs]
    text = ", ".join(parts)
    text = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
    return f"a {name} ({text})" if text else f"a {name}"


def _short(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
