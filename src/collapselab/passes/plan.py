"""What to measure on a split: points, metrics, and how their statistics are accumulated.

Letters: c classes, k labels of the label space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.decompositions import ThinSVD
from collapselab.metrics import Metric
from collapselab.metrics.registry import Need
from collapselab.passes.stream import Point
from collapselab.statistics import ClassStats, Scatter, Weighting


@dataclass
class PointWeight:
    """The weight that reads the features of a point.

    Attributes:
        matrix: its rows read features or their channels; None where there is no weight.
        svd: its singular vectors once a metric needed them, so that they are computed once for both splits.
    """

    matrix: Float[Tensor, "out q"] | None
    svd: ThinSVD | None = None


@dataclass(frozen=True)
class TrainReference:
    """What test data are compared with.

    Attributes:
        classes: (c,) label numbers of the train split, in ascending order.
        class_means: (c, p) their means, by source of features.
    """

    classes: Int[Tensor, " c"]
    class_means: dict[str, Tensor]


@dataclass(frozen=True)
class SplitPlan:
    """What to measure on one split, and how.

    Attributes:
        points: where features are measured.
        weights: the weights that read them, by name of the point.
        metrics: to evaluate at every point.
        scatter: which part of the within-class scatter is accumulated, by source of features.
        weighting: weighting of the covariances.
        spectra: whether eigenvalues of whole covariances are returned.
        rcond: overrides the relative cut-offs of pseudo-inverses.
        product_dtype: dtype of the covariance products. None for the features' own, and for float64 in another pass
            where that proves too coarse.
        exact_dim: up to this width products are float64 from the start.
        sketch_size, seed: columns and seed of sketches.
        max_per_class: in an open label space, the number of labels beyond which covariances of single classes are
            pooled; None for no limit.
    """

    points: tuple[Point, ...]
    weights: dict[str, PointWeight]
    metrics: tuple[Metric, ...]
    scatter: dict[str, Scatter]
    weighting: Weighting
    spectra: bool = False
    rcond: float | None = None
    product_dtype: torch.dtype | None = None
    exact_dim: int = 0
    sketch_size: int = 32
    seed: int = 0
    max_per_class: int | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """What the metrics need beyond counts, means and traces."""
        return frozenset[Need]().union(*(metric.needs for metric in self.metrics))

    def create_stats(
        self,
        source: str,
        num_labels: int,
        declared: Int[Tensor, " k"] | None,
        *,
        exact: bool = False,
        growing: bool = False,
    ) -> ClassStats:
        """Return empty statistics of a source of features over the whole label space.

        Args:
            num_labels: k.
            declared: samples of each label, where known.
            exact: whether products are float64 in any case.
            growing: whether more labels may come.
        """
        dim = next(point.dim for point in self.points if point.source == source)
        n = 0 if declared is None else int(declared.sum())
        # With p >= n - 1 every eigenvalue beyond rank n - 1 is rounding: it must be float64 rounding.
        exact = exact or dim <= self.exact_dim or dim >= n - 1 > 0
        return ClassStats(
            num_labels,
            dim,
            self.scatter[source],
            class_counts=declared if self.weighting == "balanced" else None,
            product_dtype=torch.float64 if exact and self.scatter[source] != "sketch" else self.product_dtype,
            sketch_size=self.sketch_size,
            seed=self.seed,
            growing=growing,
            max_per_class=self.max_per_class if growing else None,
        )
