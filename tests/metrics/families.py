"""Families of labelled features with declared properties, drawn from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from collapselab.metrics import BY_NAME, MetricInputs, NearestCentreCounts
from collapselab.metrics.decision import nearest_class_centre, network_rule
from collapselab.metrics.spectrum import top_eigenvalues_of_rows
from collapselab.statistics import ClassStats, Weighting
from helpers import uneven_labels
from oracles import Oracle


@dataclass
class Case:
    """Features in float64, labels, and a classifier's weight."""

    features: np.ndarray[Any, np.dtype[np.float64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    weight: np.ndarray[Any, np.dtype[np.float64]]

    def oracle(self, weighting: str = "balanced") -> Oracle:
        return Oracle(self.features, self.labels, weighting, self.weight)

    def inputs(self, weighting: Weighting = "balanced", dtype: torch.dtype = torch.float64) -> MetricInputs:
        return inputs_of(self.features, self.labels, self.weight, weighting, dtype)

    def value(self, name: str, weighting: Weighting = "balanced") -> float | int | None:
        return BY_NAME[name].function(self.inputs(weighting))


def inputs_of(
    features: Any,
    labels: Any,
    weight: Any = None,
    weighting: Weighting = "balanced",
    dtype: torch.dtype = torch.float64,
    **kwargs: Any,
) -> MetricInputs:
    """Everything a metric may ask for, as `measure` would provide it."""
    rows, targets = torch.as_tensor(features).to(dtype), torch.as_tensor(labels)
    counts = torch.bincount(targets)
    stats = ClassStats(
        len(counts), rows.shape[1], "full", class_counts=counts if weighting == "balanced" else None
    )
    stats.update(rows, targets)
    means = stats.class_means
    nearest = nearest_class_centre(rows, means)
    matrix = None if weight is None else torch.as_tensor(weight)
    agreeing = None if matrix is None else int((network_rule(matrix, None)(rows) == nearest).sum())
    return MetricInputs(
        stats,
        weighting=weighting,
        weight=matrix,
        nearest_centre=NearestCentreCounts(len(rows), int((nearest == targets).sum()), agreeing),
        top_class_eigenvalues=top_eigenvalues_of_rows(rows, targets, means),
        **kwargs,
    )


def random_case(counts: list[int], dim: int, seed: int = 0, spread: float = 1.0) -> Case:
    """Gaussian classes of unequal scatter, a random weight."""
    rng = np.random.default_rng(seed)
    labels = uneven_labels(rng, counts)
    means = rng.standard_normal((len(counts), dim))
    mix = rng.standard_normal((len(counts), dim, dim)) / np.sqrt(dim)
    noise = np.einsum("ni,nij->nj", rng.standard_normal((len(labels), dim)), mix[labels])
    return Case(means[labels] + spread * noise + 2.0, labels, rng.standard_normal((len(counts), dim)))


CASES: dict[str, Case] = {
    "balanced": random_case([30, 30, 30, 30], 9),
    "unbalanced": random_case([5, 40, 60, 11, 24], 12),
    "more classes than features": random_case([20, 25, 9, 30, 14, 22, 17, 30], 4),
    "two classes": random_case([13, 50], 6),
    "one feature": random_case([13, 50, 20], 1),
    "a class of one sample": random_case([1, 30, 25], 5),
}
