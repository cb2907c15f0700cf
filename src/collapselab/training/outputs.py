"""Class scores among the outputs of a network in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes.batches import logits_of
from collapselab.user_code import user_code

_MAX_SHOWN = 60


def class_scores(
    model: nn.Module, inputs: Tensor, labels: Int[Tensor, " n"], num_classes: int
) -> Float[Tensor, "n c"]:
    """Run a network and return the class scores among its outputs, as `profile` finds them.

    Args:
        model: in whichever mode.
        inputs: (n, …).
        labels: one per sample.
        num_classes: the least number of scores per sample.

    Raises:
        InputError: the network fails, or returns no class scores.
    """
    with user_code("training", f"check that the model takes inputs of shape {tuple(inputs.shape)}"):
        outputs = model(inputs)
    scores = logits_of(outputs, labels)
    if scores is None or scores.ndim != 2 or scores.shape[1] < num_classes or not scores.is_floating_point():
        raise InputError(
            f"training: the model returns {_form(outputs)}, but {len(labels)} samples of {num_classes} classes need "
            f"floating-point class scores of shape ({len(labels)}, {num_classes}); return them, alone or as 'logits' of a "
            "dict"
        )
    return scores


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
