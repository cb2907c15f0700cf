"""Hui's three variances of every measured step, over the references of the last one.

Train and strong test variance follow from the stored class means and scatters. Weak test variance needs the test
features of the last layer at every step: they are taken again from the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from collapselab.metrics.generalization import (
    Reference,
    fit_weak_reference,
    labelled_variance,
    squared_distances_to_nearest,
)
from collapselab.probes import capture_inputs, weight_layers
from collapselab.probes.capture import evaluating

if TYPE_CHECKING:
    from torch import Tensor, nn

    from collapselab.data import DataSplits
    from collapselab.training.recipe import Recipe
    from collapselab.training.run_folder import RunFolder


def final_reference_rows(recipe: Recipe, data: DataSplits, folder: RunFolder) -> Iterator[dict[str, Any]]:
    """One row per measured step, split and layer: `{"step", "split", "layer", "depth", "metrics": {…}}`.

    Metrics are `train_variance` on train; `strong_test_variance` on test, and at the last layer
    `weak_test_variance`.
    """
    from collapselab.training.loop import build_model

    model = build_model(recipe, data)
    layers = list(weight_layers(model))
    final = folder.read_statistics(recipe.steps)
    weak = _WeakVariance(model, layers[-1], data, folder, recipe.steps)
    for step in recipe.measured_steps():
        now = folder.read_statistics(step)
        for depth, layer in enumerate(layers):
            for split, name in (("train", "train_variance"), ("test", "strong_test_variance")):
                place = f"{split}/{layer}"
                value = labelled_variance(
                    now[f"{place}/counts"],
                    now[f"{place}/class_means"],
                    now[f"{place}/class_variances"],
                    Reference(final[f"{place}/class_means"]),
                )
                metrics = {name: value}
                if split == "test" and layer == layers[-1]:
                    metrics["weak_test_variance"] = weak.at(step)
                yield {"step": step, "split": split, "layer": layer, "depth": depth, "metrics": metrics}


class _WeakVariance:
    """Weak test variance of one layer at any checkpoint, over k-means centres at the last."""

    def __init__(
        self, model: nn.Module, layer: str, data: DataSplits, folder: RunFolder, last_step: int
    ) -> None:
        self._model, self._layer, self._data, self._folder = model, layer, data, folder
        self._reference = fit_weak_reference(self._features(last_step), data.num_classes)

    def at(self, step: int) -> float | None:
        if self._reference is None or self._reference.spread == 0:
            return None
        distances = squared_distances_to_nearest(self._features(step), self._reference)
        return float(distances.mean()) / self._reference.spread

    def _features(self, step: int) -> Tensor:
        self._model.load_state_dict(self._folder.read_weights(step))
        caught: list[Tensor] = []
        layers = {self._layer: weight_layers(self._model)[self._layer]}
        with evaluating(self._model), capture_inputs(layers, lambda _, features: caught.append(features)):
            self._model(self._data.test.inputs)
        return torch.cat(caught)
