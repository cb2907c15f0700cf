"""The within-class cosine regulariser of Xu and Liu 2023, sec. 6.3, after Kornblith et al. 2021."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes import weight_layers
from collapselab.probes.containers import tensors_in
from collapselab.records.recipe import Recipe
from collapselab.training.building import classifier_name


def within_class_cosine(
    features: Float[Tensor, "n p"], labels: Int[Tensor, " n"], num_classes: int
) -> Float[Tensor, ""]:
    """Return the mean, over the classes of a batch, of the mean cosine within a class divided by its number of samples.

    Pairs of a sample with itself count, as in the metric `cosine_similarity`: the mean cosine of a class is the squared
    norm of its mean direction. A sample of norm zero has no direction and is left out.

    Source: Xu and Liu 2023, sec. 6.3.
    """
    norms = torch.linalg.vector_norm(features, dim=1)
    has_direction = norms > 0
    directions = features / norms.masked_fill(~has_direction, 1.0)[:, None]
    # A product with one-hot labels: sums by index differ from run to run on a GPU.
    members = nn.functional.one_hot(labels, num_classes).to(features.dtype) * has_direction[:, None]
    counts = members.sum(dim=0)
    sizes = counts.clamp_min(1)
    cosines = (members.T @ directions).square().sum(dim=1) / sizes.square()
    return (cosines / sizes).sum() / (counts > 0).sum().clamp_min(1)


class WithinClassCosine:
    """Catches the inputs of the classifier in a forward pass, and adds the regulariser of a recipe to the loss.

    Args:
        recipe: its `within_class_cosine` is the factor; with 0, nothing is caught or added.
        model: to be trained.
        num_classes: of the data.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, num_classes: int) -> None:
        self._factor, self._num_classes = recipe.within_class_cosine, num_classes
        self._layer = weight_layers(model)[classifier_name(model)] if self._factor else None
        self._features: Tensor | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch what the classifier reads while the context is open."""
        if self._layer is None:
            yield
            return
        handle = self._layer.register_forward_pre_hook(self._catch, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _catch(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read = next(tensors_in((args, kwargs)), None)
        self._features = read if isinstance(read, Tensor) else None

    def added_to(self, loss: Tensor, labels: Tensor) -> Tensor:
        """Return the loss plus the penalty of the features caught last, computed in float32.

        Raises:
            InputError: the classifier did not run, or does not read one row per sample.
        """
        if self._layer is None:
            return loss
        features, self._features = self._features, None
        if features is None or len(features) != len(labels):
            raise InputError(
                "within_class_cosine: the last weight layer of the model is not used, or does not read one row per sample; "
                "set it to 0, or register the classifier last"
            )
        penalty = within_class_cosine(features.flatten(1).float(), labels, self._num_classes)
        return loss + self._factor * penalty
