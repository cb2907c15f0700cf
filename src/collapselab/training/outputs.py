"""Class scores among the outputs of a network in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes.candidates import scores_among
from collapselab.probes.inputs import Path
from collapselab.probes.scores import tensors_by_path
from collapselab.user_code import user_code

_MAX_SHOWN = 60


class ClassScores:
    """Runs a network and takes the class scores among its outputs: those that `profile` would take.

    Args:
        num_classes: the least number of scores per sample.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._chosen: dict[tuple[tuple[Path, int], ...], Path] = {}

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Shaped[Tensor, "n ..."]
    ) -> Float[Tensor, "n c"]:
        """Return the class scores of a batch.

        Args:
            model: in whichever mode; what it returns may depend on it.
            inputs: (n, …).
            labels: one per sample, or shares of classes.

        Raises:
            InputError: the network fails, or it is not clear which of its outputs are class scores.
        """
        with user_code("training", f"check that the model takes inputs of shape {tuple(inputs.shape)}"):
            output = model(inputs)
        found = dict(tensors_by_path(output))
        # Chosen once: in a captured step, values cannot be compared.
        form = tuple((path, tensor.shape[-1] if tensor.ndim else 0) for path, tensor in found.items())
        path = self._chosen.get(form)
        if path is None:
            path = scores_among(found, len(labels), self._num_classes)
        if path is None or found[path].shape[:1] != labels.shape[:1]:
            fits = any(tensor.ndim == 2 and tensor.shape[1] >= self._num_classes for tensor in found.values())
            problem = "none of which is clearly" if fits and len(found) > 1 else "but training needs"
            raise InputError(
                f"training: the model returns {_form(output)}, {problem} class scores of {self._num_classes} classes, "
                f"floating-point and of shape ({len(labels)}, {self._num_classes}); return them alone, or as 'logits' of a "
                "dict"
            )
        self._chosen[form] = path
        return found[path]


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
