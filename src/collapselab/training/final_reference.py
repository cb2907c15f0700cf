"""Hui's three variances of every measured step, over the references of the last one.

Train and strong test variance follow from the stored class means and scatters; weak test variance from the last
layer's test features, which were kept at every measured step for this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from collapselab.metrics.generalization import (
    Reference,
    fit_weak_reference,
    kmeans_sampled,
    kmeans_undefined,
    labelled_variance,
    sample_rows,
    squared_distances_to_nearest,
)
from collapselab.records.run_folder import RunFolder


def final_reference_rows(folder: RunFolder, num_classes: int) -> Iterator[dict[str, Any]]:
    """One row per measured step, split and layer: `{"step", "split", "layer", "depth", "metrics": {…}}`.

    Metrics are `train_variance` on train; `strong_test_variance` on test, and at the last layer, where its test
    features were kept, `weak_test_variance`; what is unusual about that is in `warnings`.

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
                row = {"step": step, "split": split, "layer": layer, "depth": depth, "metrics": {name: value}}
                if split == "test" and depth == layers[-1][0] and weak.is_kept:
                    row["metrics"]["weak_test_variance"] = weak.at(step)
                    if weak.warnings:
                        row["warnings"] = weak.warnings
                yield row


class _WeakVariance:
    """Weak test variance of the last layer at any measured step, over k-means centres at the last.

    Attributes:
        is_kept: whether features are there.
        warnings: what is unusual about the centres.
    """

    def __init__(self, folder: RunFolder, num_classes: int, last_step: int) -> None:
        self._folder = folder
        final = folder.read_features(last_step)
        self.is_kept = final is not None
        self.warnings: list[str] = []
        self._reference = None
        if final is None:
            return
        chosen = sample_rows(len(final))
        if chosen is not None:
            self.warnings.append(kmeans_sampled(len(final)))
        self._reference = fit_weak_reference(final if chosen is None else final[chosen], num_classes)
        if self._reference is None:
            self.warnings.append(kmeans_undefined(num_classes))

    def at(self, step: int) -> float | None:
        features = self._folder.read_features(step)
        if self._reference is None or self._reference.spread == 0 or features is None:
            return None
        distances = squared_distances_to_nearest(features, self._reference)
        return float(distances.mean()) / self._reference.spread
