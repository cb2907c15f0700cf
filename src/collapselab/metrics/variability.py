"""NC1, variability collapse: distances of samples from their class mean.

Every function takes `MetricInputs` and returns a float, or None with a warning where it is undefined.
Formulas, sources, ranges and limits are in the registry (`collapselab.metrics.registry`).

Letters: p features, c classes, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.metrics.inputs import MetricInputs, once
from collapselab.numerics import EPS64, gram_norm, slice_elements

_NO_SPREAD = "all class means coincide (Tr Sigma_B = 0)"


def within_trace(inputs: MetricInputs) -> float:
    return inputs.within_trace


def between_trace(inputs: MetricInputs) -> float:
    return inputs.between_trace


def total_trace(inputs: MetricInputs) -> float:
    return inputs.total_trace


def normalized_within(inputs: MetricInputs) -> float | None:
    return inputs.ratio(
        inputs.within_trace,
        inputs.total_trace,
        "normalized_within",
        "the features do not vary (Tr Sigma_T = 0)",
    )


def squared_distance(inputs: MetricInputs) -> float | None:
    return inputs.ratio(inputs.within_trace, inputs.between_trace, "squared_distance", _NO_SPREAD)


@once
def fuzziness(inputs: MetricInputs) -> float | None:
    """Tr(Sigma_W Sigma_B^+) = sum_k v_k^T Sigma_W v_k / s_k^2 over the singular pairs of the class means."""
    if inputs.between_trace == 0:
        inputs.warn(f"fuzziness and nc1 are undefined: {_NO_SPREAD}")
        return None
    svd = inputs.between_svd
    scaled = svd.right / svd.values
    trace = (scaled * inputs.within_times(scaled)).sum().clamp_min(0.0)
    # d Tr(E Sigma_B^+) for independent entries of E is the Frobenius norm of Sigma_B^+ in units of Sigma_W.
    in_units = inputs.within_variances.sqrt()[:, None] * scaled
    value, shift = torch.stack([trace, gram_norm(in_units)]).tolist()
    inputs.check_products("fuzziness", shift, value)
    return value


def nc1(inputs: MetricInputs) -> float | None:
    value = fuzziness(inputs)
    return None if value is None else value / inputs.num_classes


def vci(inputs: MetricInputs) -> float | None:
    share = explained(inputs)
    if share is None:
        inputs.warn(f"vci is undefined: {_NO_SPREAD}")
        return None
    _warn_of_full_rank(inputs, share.rank)
    inputs.check_products("vci", share.shift, float(inputs.max_between_rank))
    return min(max(1 - share.trace / inputs.max_between_rank, 0.0), 1.0)


@dataclass(frozen=True)
class Explained:
    """What the classes explain of the features.

    Attributes:
        trace: Tr(Sigma_T^+ Sigma_B), Pillai's trace.
        rank: rank of Sigma_T.
        shift: change of the trace by rounding of float32 products, for `MetricInputs.check_products`.
    """

    trace: float
    rank: int
    shift: float


@once
def explained(inputs: MetricInputs) -> Explained | None:
    """Return Tr(Sigma_T^+ Sigma_B) as the squared norm of the means times a root of Sigma_T^+; None if they coincide.

    Computing v^T Sigma_B v from the p x p matrix instead would be off by up to 1e-4 at collapse.
    """
    if inputs.between_trace == 0:
        return None
    total, r = inputs.scaled_total, inputs.max_between_rank
    projections = total.projections
    if projections is None:
        projections = (inputs.weighted_means[:, total.varying] * total.scale) @ total.root
    rank = inputs.between_svd.rank
    if rank < r:
        inputs.warn(
            f"Sigma_B has rank {rank} of {r}: vci is at least {1 - rank / r:.4g} even at full collapse"
        )
    # d Tr(Sigma_T^+ Sigma_B) = -Tr(E K), K = Sigma_T^+ Sigma_B Sigma_T^+, in units of the scaled Sigma_W.
    units = inputs.within_variances[total.varying].sqrt() * total.scale
    in_units = (projections @ total.root.T) * units
    trace, shift = torch.stack([projections.square().sum(), gram_norm(in_units)]).tolist()
    found = Explained(trace, total.rank, shift)
    del total, inputs.scaled_total  # p x p, and not used by other metrics
    return found


def _warn_of_full_rank(inputs: MetricInputs, rank: int) -> None:
    # Constant and dependent features do not count: more features than samples do not imply this rank.
    n = inputs.stats.num_samples
    if rank >= n - 1:
        inputs.warn(
            f"Sigma_T has rank {n - 1}, the largest possible with {n} samples. vci is then 0 for almost any features, "
            "collapsed or not; use more samples"
        )


def cosine_similarity(inputs: MetricInputs) -> float | None:
    directions = _directions(inputs)
    return None if directions is None else float(directions.lengths.mean())


def class_separation(inputs: MetricInputs) -> float | None:
    directions = _directions(inputs)
    if directions is None:
        return None
    lengths, size = torch.stack([directions.lengths.mean(), directions.mean.square().sum()]).tolist()
    d_within, d_total = 1 - lengths, 1 - size
    if d_total <= 16 * EPS64:
        inputs.warn("class_separation is undefined: all samples have one direction (no angular spread)")
        return None
    return 1 - d_within / d_total


@dataclass(frozen=True)
class _Directions:
    """Mean directions of the classes that have a sample with a direction.

    Attributes:
        lengths: norm(m_c)^2 of each class.
        mean: mean of m_c over classes.
    """

    lengths: Float[Tensor, " k"]
    mean: Float[Tensor, " p"]


@once
def _directions(inputs: MetricInputs) -> _Directions | None:
    counts, unit_counts = inputs.stats.counts, inputs.stats.unit_counts
    usable = (unit_counts > 0).nonzero()[:, 0]
    missing, empty = int((counts - unit_counts).sum()), len(counts) - len(usable)
    if missing:
        classes = f", and with them {empty} classes" if empty else ""
        inputs.warn(
            f"{missing} samples of norm zero have no direction and are left out of cosine_similarity and "
            f"class_separation{classes}"
        )
    if not len(usable):
        inputs.warn("cosine_similarity and class_separation are undefined: every sample has norm zero")
        return None
    lengths, total = [], torch.zeros(inputs.dim, dtype=torch.float64, device=counts.device)
    # A few classes at a time, which stay in the processor's cache.
    for classes in usable.split(max(1, slice_elements(counts.device) // inputs.dim)):
        means = inputs.stats.unit_means_of(classes)
        lengths.append(torch.linalg.vector_norm(means, dim=1).square_())
        total += means.sum(0)
    return _Directions(torch.cat(lengths).clamp_max_(1.0), total / len(usable))


def cdnv(inputs: MetricInputs) -> float | None:
    pairs = inputs.pairs
    if pairs.coincident is not None:
        first, second = pairs.coincident
        inputs.warn(
            f"cdnv is undefined: the means of classes {first} and {second} (in sorted order) coincide"
        )
    return pairs.cdnv
