"""Weak test variance: distance of test features from their k-means centres."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from collapselab.metrics.generalization import (
    Reference,
    fit_weak_reference,
    kmeans_sampled,
    kmeans_undefined,
    sample_rows,
    squared_distances_to_nearest,
)


@dataclass(frozen=True)
class Centres:
    """k-means centres of test features.

    Attributes:
        reference: the centres; None with fewer than k distinct samples.
        warnings: what is unusual about them.
    """

    reference: Reference | None
    warnings: tuple[str, ...]

    def variance(self, features: Float[Tensor, "n p"]) -> float | None:
        """Return the mean squared distance to the nearest centre over the spread of the centres; None where undefined."""
        if self.reference is None or self.reference.spread == 0:
            return None
        return float(squared_distances_to_nearest(features, self.reference).mean()) / self.reference.spread


def fit_centres(features: Float[Tensor, "n p"], num_classes: int) -> Centres:
    """Fit k-means with k = `num_classes`, on a seeded sample where there are very many rows."""
    chosen = sample_rows(len(features))
    reference = fit_weak_reference(features if chosen is None else features[chosen], num_classes)
    warnings = () if chosen is None else (kmeans_sampled(len(features)),)
    if reference is None:
        warnings += (kmeans_undefined(num_classes),)
    return Centres(reference, warnings)
