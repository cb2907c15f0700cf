"""`MetricInputs`: the statistics of one split, and quantities derived from them that several metrics share.

A metric is a function of this object and nothing else. Each derived quantity is computed when a metric first
reads it, so that a metric requested alone costs only what it needs.

Letters: n samples, p features, c classes, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.decompositions import (
    ThinSVD,
    descending_eigenvalues,
    thin_svd,
    thin_svd_by_gram,
    well_conditioned_inverse_root,
)
from collapselab.metrics.eigenvalues import largest_eigenvalue
from collapselab.metrics.matrices import FewRows, ScaledTotal, eigenvalues_by_samples
from collapselab.metrics.pairs import MEAN_ROUNDING32, PairGeometry, pair_geometry
from collapselab.numerics import EPS32, EPS64, middle_factor
from collapselab.statistics import ClassStats, SketchedSpectrum, Weighting, nystrom

# A float32 product is trusted while its rounding is estimated to move a metric by less than this, relative.
_PRODUCT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class NearestCentreCounts:
    """How often the nearest of frozen class means is the right one.

    Attributes:
        num_samples: number of samples.
        num_correct: samples whose nearest class mean is that of their label.
        num_agreeing: samples whose nearest class mean is the network's decision; None without decisions.
    """

    num_samples: int
    num_correct: int
    num_agreeing: int | None


@dataclass
class MetricInputs:
    """Everything the metrics of one split are computed from.

    Args:
        stats: class statistics of the split's features.
        weighting: weighting of Sigma_W, Sigma_B, Sigma_T and mu_G.
        weight: weight of the layer that reads the features, (out, p); for the classifier (C, p); for a layer that
            reads q channels at p / q positions (out, q). It is moved to the device of the statistics.
        is_classifier: whether `weight` is that of the last layer, with one row per class.
        channels_first: where the weight reads channels: whether features are laid out as (q, positions), like maps, or
            as (positions, q), like sequences.
        nearest_centre: counts of a second pass, if there was one.
        top_class_eigenvalues: largest eigenvalue of each class's own covariance, if the statistics do not
            store these covariances but the rows were in memory.
        kmeans: values of metrics that k-means gives, by name, if there was such a pass.
        rcond: overrides the relative cut-offs of both pseudo-inverses.
        warnings: everything unusual, in order of occurrence.
        wants_float64_products: whether float32 products are too coarse for a metric: the caller can measure again.
        memo: values of metrics that others build on.
    """

    stats: ClassStats
    weighting: Weighting = "balanced"
    weight: Float[Tensor, "out p"] | None = None
    is_classifier: bool = True
    channels_first: bool = True
    nearest_centre: NearestCentreCounts | None = None
    top_class_eigenvalues: Float[Tensor, " c"] | None = None
    kmeans: dict[str, float | None] = field(default_factory=dict)
    rcond: float | None = None
    warnings: list[str] = field(default_factory=list)
    wants_float64_products: bool = False
    memo: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight is not None and self.stats.has_samples:
            self.weight = self.weight.to(self.stats.device)

    def warn(self, message: str) -> None:
        """Record a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def ratio(self, numerator: float, denominator: float, name: str, what: str) -> float | None:
        """Return `numerator / denominator`, or None, with a warning that says which denominator is zero."""
        if denominator > 0:
            return numerator / denominator
        self.warn(f"{name} is undefined: {what}")
        return None

    # ---------------------------------------------------------------- means and traces

    @property
    def num_classes(self) -> int:
        return self.stats.num_classes

    @property
    def dim(self) -> int:
        return self.stats.dim

    @property
    def max_between_rank(self) -> int:
        """Largest rank that Sigma_B can have: r = min(p, C-1)."""
        return min(self.dim, self.num_classes - 1)

    @cached_property
    def pi(self) -> Float[Tensor, " c"]:
        return self.stats.class_weights(self.weighting)

    @cached_property
    def class_means(self) -> Float[Tensor, "c p"]:
        return self.stats.class_means

    @cached_property
    def centred_means(self) -> Float[Tensor, "c p"]:
        """Centred class means M: rows mu_c - mu_G."""
        # Relative to the first class mean, so that a common offset causes no rounding.
        shifted = self.class_means - self.class_means[0]
        return shifted.sub_(self.pi @ shifted)

    @cached_property
    def class_variances(self) -> Float[Tensor, " c"]:
        return self.stats.class_variances

    @cached_property
    def mean_rounding(self) -> float:
        """Largest squared distance between two equal class means that rounding alone can cause."""
        low, high = torch.stack(torch.aminmax(self.class_means)).tolist()
        return self.dim * (16 * EPS64 * max(-low, high)) ** 2

    @cached_property
    def within_trace(self) -> float:
        return float(self.pi @ self.class_variances)

    @cached_property
    def between_trace(self) -> float:
        trace = float(self.pi @ torch.linalg.vector_norm(self.centred_means, dim=1).square_())
        return trace if trace > self.mean_rounding + MEAN_ROUNDING32 * self.within_trace else 0.0

    @cached_property
    def total_trace(self) -> float:
        # Equal float64 features differ from their mean by its rounding.
        no_spread = self.between_trace == 0 and self.within_trace <= self.mean_rounding
        return 0.0 if no_spread else self.within_trace + self.between_trace

    @cached_property
    def pairs(self) -> PairGeometry:
        return pair_geometry(self.centred_means, self.class_variances, self.mean_rounding)

    # ---------------------------------------------------------------- matrices and spectra

    @cached_property
    def few(self) -> FewRows | None:
        """The samples themselves, if they are fewer than features: all matrices are then products between samples."""
        found = self.stats.few_rows()
        return None if found is None else FewRows(*found, self.pi / self.stats.counts)

    @property
    def is_sketched(self) -> bool:
        """Whether no more than a sketch of Sigma_W is known."""
        return self.stats.scatter == "sketch" and self.few is None

    def within_times(self, directions: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """Return Sigma_W times directions."""
        if self.few is None:
            return self.within_covariance @ directions
        return self.few.within.T @ (self.few.within @ directions)

    @cached_property
    def within_variances(self) -> Float[Tensor, " p"]:
        """The diagonal of Sigma_W."""
        if self.few is None:
            return self.within_covariance.diagonal().clamp_min(0)
        return self.few.within.square().sum(0)

    @cached_property
    def class_covariances(self) -> Float[Tensor, "c p p"] | None:
        """Covariance of each class, if the statistics store it."""
        return self.stats.class_covariances() if self.stats.scatter == "per_class" else None

    @cached_property
    def within_covariance(self) -> Float[Tensor, "p p"]:
        return self.stats.within_covariance(self.weighting)

    @cached_property
    def weighted_means(self) -> Float[Tensor, "c p"]:
        """Rows sqrt(pi_c) (mu_c - mu_G), whose Gram matrix is Sigma_B."""
        return self.centred_means * self.pi.sqrt()[:, None]

    @property
    def total_covariance(self) -> Float[Tensor, "p p"]:
        """Sigma_T; computed at each reading, because it is quick to compute and large to store."""
        return self.within_covariance + self.weighted_means.T @ self.weighted_means

    @cached_property
    def within_eigenvalues(self) -> Float[Tensor, " p"]:
        if self.few is not None:
            return eigenvalues_by_samples(self.few.within)
        return descending_eigenvalues(self.within_covariance)

    @cached_property
    def largest_within_eigenvalue(self) -> float:
        if "within_eigenvalues" in self.__dict__:
            return float(self.within_eigenvalues[0])
        if self.few is not None:
            return largest_eigenvalue(self.few.within @ self.few.within.T)
        return largest_eigenvalue(self.within_covariance)

    @cached_property
    def total_eigenvalues(self) -> Float[Tensor, " p"]:
        if self.few is not None:
            return eigenvalues_by_samples(self.total_rows)
        return descending_eigenvalues(self.total_covariance)

    @property
    def total_rows(self) -> Float[Tensor, "m p"]:
        """Rows T with Sigma_T = T^T T, m = n + C: the weighted deviations of few samples, then the weighted means."""
        assert self.few is not None
        return torch.cat((self.few.within, self.weighted_means))

    @cached_property
    def between_svd(self) -> ThinSVD:
        """Singular values s and right-singular vectors V of the weighted means: Sigma_B = V diag(s^2) V^T.

        The condition number of the means is the square root of that of Sigma_B; and only r values are computed, so
        that no rank is guessed from rounding.
        """
        cutoff = max(self.dim, self.num_classes) * EPS64 if self.rcond is None else self.rcond
        svd = thin_svd(self.weighted_means, max_rank=self.max_between_rank, cutoff=cutoff)
        if svd.num_dropped:
            self.warn(
                f"the class means span only {svd.rank} of the {self.max_between_rank} dimensions that they can: "
                f"{svd.num_dropped} of {self.max_between_rank} singular values of the class means are below "
                f"{svd.cutoff:.2g} times the largest and are ignored"
            )
        return svd

    @cached_property
    def scaled_total(self) -> ScaledTotal:
        """Root of Sigma_T^+ for scaled features: scaling changes neither rank nor VCI, but makes one cut-off fit all."""
        total = self.total_covariance if self.few is None else self.total_rows
        variances = total.diagonal() if self.few is None else total.square().sum(0)
        # The variance of a constant feature is the rounding of its mean, and not exactly zero after a merge.
        noise = (16 * EPS64 * self.class_means.abs().amax(0)) ** 2
        varying = (variances > noise).nonzero()[:, 0]
        scale = variances[varying].rsqrt()
        if self.few is not None:
            # With T T^T = U L U^T, the eigenvectors of T^T T are T^T U L^-1/2; the last rows of T are the class means.
            rows = total[:, varying] * scale
            values, vectors = torch.linalg.eigh(rows @ rows.T)
            kept = self._kept_of_total(values, len(varying))
            vectors = vectors[:, kept]
            return ScaledTotal(scale, varying, rows.T @ vectors / values[kept], vectors[-self.num_classes :])

        def scaled() -> Tensor:
            matrix = total
            if len(varying) < self.dim:
                matrix = matrix[varying][:, varying]
            return (matrix * scale).mul_(scale[:, None])

        if self.rcond is None:
            root = well_conditioned_inverse_root(scaled())
            if root is not None:
                return ScaledTotal(scale, varying, root)
        values, vectors = torch.linalg.eigh(scaled())
        kept = self._kept_of_total(values, len(varying))
        return ScaledTotal(scale, varying, vectors[:, kept] / values[kept].sqrt())

    def _kept_of_total(self, values: Float[Tensor, " m"], num_varying: int) -> Tensor:
        """Return which eigenvalues of the scaled Sigma_T are not zero up to rounding; a warning says how many are."""
        cutoff = self.dim * EPS64 if self.rcond is None else self.rcond
        kept = (values > cutoff * values[-1:]).nonzero()[:, 0]
        num_dropped = num_varying - len(kept)
        if num_dropped:
            constant = self.dim - num_varying
            self.warn(
                f"Sigma_T has rank {len(kept)} with {self.dim} features. Number of constant features: {constant}. "
                + f"Number of eigenvalues below {cutoff:.2g} times the largest one: {num_dropped}. "
                + ("Such eigenvalues are zero up to rounding. " if self.rcond is None else "")
                + "vci is computed without them"
                + ("; its value is not affected" if self.rcond is None else "")
            )
        return kept

    @cached_property
    def sketched_spectrum(self) -> SketchedSpectrum:
        """Leading eigenvalues of Sigma_W from the sketch; a second pass replaces them by sharper ones."""
        sketch, omega = self.stats.within_sketch(self.weighting)
        return nystrom(sketch, omega, self.within_trace, product_eps=self.product_eps)

    @property
    def product_eps(self) -> float:
        """Relative rounding of the products: see `nystrom`."""
        return 8 * (EPS32 if self.stats.product_dtype == torch.float32 else EPS64)

    def spectra(self) -> dict[str, list[float]]:
        """Return the eigenvalues of the three covariances and the singular values of the weight, largest first."""
        singular = torch.linalg.svdvals(self.weighted_means)[: self.max_between_rank]
        between = torch.zeros(self.dim, dtype=torch.float64)
        between[: len(singular)] = singular.square()
        out = {
            "within_eigenvalues": self.within_eigenvalues.tolist(),
            "between_eigenvalues": between.tolist(),
            "total_eigenvalues": self.total_eigenvalues.tolist(),
        }
        if self.weight is not None:
            out["weight_singular_values"] = torch.linalg.svdvals(self.weight.double()).tolist()
        return out

    def check_products(self, name: str, shift: float, value: float) -> None:
        """Warn where float32 products are estimated to move a metric by more than rounding should.

        Args:
            name: name of the metric.
            shift: first-order change of the metric, over eps32, if every scatter entry is off by eps32 relative to the
                geometric mean of its two diagonal entries.
            value: scale with which `shift` is compared.
        """
        if self.few is not None:  # their products are float64
            return
        if self.stats.product_dtype == torch.float32 and EPS32 * shift > _PRODUCT_TOLERANCE * value:
            self.wants_float64_products = True
            error = EPS32 * shift / value if value > 0 else 1.0
            self.warn(
                f"{name} has a relative accuracy of only about {error:.1g}: the spectrum of Sigma_W is too "
                "wide for float32 products; use product_dtype=torch.float64"
            )

    # ---------------------------------------------------------------- the weight that reads the features

    @property
    def weight_reads_features(self) -> bool:
        """Whether the weight has one column per feature, rather than one per channel of several positions."""
        return self.weight is not None and self.weight.shape[1] == self.dim

    @cached_property
    def channel_means_svd(self) -> ThinSVD:
        """Singular values and right-singular vectors of M as the weight reads it: one row per class and position, one
        column per channel. The span of these rows can have more than C - 1 dimensions.
        """
        if self.weight is None or self.weight_reads_features:
            return self.between_svd
        num_channels, means = self.weight.shape[1], self.centred_means
        if self.channels_first:
            means = means.view(len(means), num_channels, -1).movedim(1, -1)
        means = means.reshape(-1, num_channels)
        return thin_svd(means, max_rank=min(means.shape), cutoff=max(means.shape) * EPS64)

    @cached_property
    def weight_factor(self) -> float:
        """See `middle_factor`; 1 without a weight."""
        return 1.0 if self.weight is None else middle_factor(self.weight)

    @cached_property
    def weight_svd(self) -> ThinSVD | None:
        """Singular values of W above max(shape) * eps(dtype of W) * largest, with right-singular vectors; None without W.

        For half precision the eps of float32 is used: its own eps, times a usual shape, exceeds one.
        """
        if self.weight is None:
            return None
        matrix = self.weight.double() * self.weight_factor
        cutoff = max(matrix.shape) * min(torch.finfo(self.weight.dtype).eps, EPS32)
        svd = thin_svd_by_gram(matrix, cutoff=cutoff)
        svd = svd or thin_svd(matrix, max_rank=min(matrix.shape), cutoff=cutoff)
        return replace(svd, values=svd.values / self.weight_factor)


Value = TypeVar("Value")


def once(function: Callable[[MetricInputs], Value]) -> Callable[[MetricInputs], Value]:
    """Decorate a metric that others build on: it is computed once per `MetricInputs`."""

    @wraps(function)
    def cached(inputs: MetricInputs) -> Value:
        if function.__name__ not in inputs.memo:
            inputs.memo[function.__name__] = function(inputs)
        return inputs.memo[function.__name__]

    return cached
