"""Hui's three variances of every measured step, over the references of the last one.

Train and strong test variance follow from the stored class means and scatters; weak test variance from the last
layer's test features, which were kept at every measured step for this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from collapselab.metrics.generalization import (
    MAX_KMEANS_ROWS,
    Reference,
    fit_weak_reference,
    labelled_variance,
    sample_rows,
    squared_distances_to_nearest,
)
from collapselab.training.run_folder import RunFolder


def final_reference_rows(folder: RunFolder, num_classes: int) -> Iterator[dict[str, Any]]:
    """One row per measured step, split and layer: `{"step", "split", "layer", "depth", "metrics": {…}}`.

    Metrics are `train_variance` on train; `strong_test_variance` on test, and at the last layer, where its test
    features were kept, `weak_test_variance`.

    Args:
        num_classes: k of k-means.
    """
    rows = folder.read_rows()
    steps = sorted({row["step"] for row in rows})
    layers = sorted({(row["depth"], row["layer"]) for row in rows})
    final = folder.read_statistics(steps[-1])
    weak = _WeakVariance(folder, num_classes, steps[-1])
    for step in steps:
        now = folder.read_statistics(step)
        for depth, layer in layers:
            for split, name in (("train", "train_variance"), ("test", "strong_test_variance")):
                place = f"{split}/{layer}"
                value = labelled_variance(
                    now[f"{place}/counts"],
                    now[f"{place}/class_means"],
                    now[f"{place}/class_variances"],
                    Reference(final[f"{place}/class_means"]),
                )
                metrics = {name: value}
                if split == "test" and depth == layers[-1][0] and weak.is_kept:
                    metrics["weak_test_variance"] = weak.at(step)
                yield {"step": step, "split": split, "layer": layer, "depth": depth, "metrics": metrics}


class _WeakVariance:
    """Weak test variance of the last layer at any measured step, over k-means centres at the last."""

    def __init__(self, folder: RunFolder, num_classes: int, last_step: int) -> None:
        self._folder = folder
        final = folder.read_features(last_step)
        self.is_kept = final is not None
        self._reference = None if final is None else fit_weak_reference(_sampled(final), num_classes)

    def at(self, step: int) -> float | None:
        features = self._folder.read_features(step)
        if self._reference is None or self._reference.spread == 0 or features is None:
            return None
        distances = squared_distances_to_nearest(features, self._reference)
        return float(distances.mean()) / self._reference.spread


def _sampled(features: Tensor) -> Tensor:
    """What k-means is fitted on: all rows, or as many as it takes."""
    rows = sample_rows(len(features)) if len(features) > MAX_KMEANS_ROWS else None
    return features if rows is None else features[rows]
