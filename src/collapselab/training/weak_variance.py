"""Weak test variance: distance of test features from their k-means centres."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from collapselab.metrics.kmeans import KMeansCentres, fit_kmeans, kmeans_warnings, sample_rows


@dataclass(frozen=True)
class Centres:
    """k-means centres of test features.

    Attributes:
        reference: the centres; None with fewer than k distinct samples.
        warnings: what is unusual about them.
    """

    reference: KMeansCentres | None
    warnings: tuple[str, ...]

    def variance(self, features: Float[Tensor, "n p"]) -> float | None:
        """Return the mean squared distance to the nearest centre over the spread of the centres; None where undefined."""
        return None if self.reference is None else self.reference.variance(features)


def fit_centres(features: Float[Tensor, "n p"], num_classes: int) -> Centres:
    """Fit k-means with k = `num_classes`, on a seeded sample where there are very many rows."""
    chosen = sample_rows(len(features))
    reference = fit_kmeans(features if chosen is None else features[chosen], num_classes)
    return Centres(reference, tuple(kmeans_warnings(len(features), num_classes, reference)))
