"""Metrics without what a finite number of samples alone adds to them: VCI as for labels by chance, unbiased traces.

Every function takes `MetricInputs` and returns a float, or None with a warning where it is undefined. Formulas and
conditions are in the registry (`collapselab.metrics.registry`).

Letters: n samples, p features, c classes, a rank of Sigma_T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.metrics.generalization import Reference
from collapselab.metrics.inputs import MetricInputs, once
from collapselab.metrics.variability import explained

# The expectation for unbalanced classes is an approximation: it is used with a warning if it differs by more than this
# factor from that of balanced classes. Simulated expectations lie between the two.
_MOST_UNBALANCE = 1.1
_BISECTIONS = 100


@dataclass(frozen=True)
class _Classes:
    """Numbers of each class, (c,), float64, on the CPU: read once from the device of the statistics."""

    counts: Float[Tensor, " c"]
    variances: Float[Tensor, " c"]
    pi: Float[Tensor, " c"]


@once
def _classes(inputs: MetricInputs) -> _Classes:
    return _Classes(*torch.stack([inputs.stats.counts.double(), inputs.class_variances, inputs.pi]).cpu())


def vci_adjusted(inputs: MetricInputs) -> float | None:
    """1 - Tr(Sigma_T^+ Sigma_B)/r over its expectation for labels that say nothing about the features."""
    found, most, n = explained(inputs), inputs.num_classes - 1, inputs.stats.num_samples
    if found is None:
        inputs.warn("vci_adjusted is undefined: all class means coincide (Tr Sigma_B = 0)")
        return None
    if max(found.rank, most) >= n - 1:
        inputs.warn(
            f"vci_adjusted is undefined: rank Sigma_T = {found.rank} and C - 1 = {most} must both be below n - 1 = {n - 1}; "
            "use more samples"
        )
        return None
    r, classes = min(found.rank, most), _classes(inputs)
    by_chance = balanced = 1 - max(found.rank, most) / (n - 1)
    if inputs.weighting == "balanced" and classes.counts.min() < classes.counts.max():
        by_chance = 1 - explained_by_chance(classes.counts, classes.pi, found.rank) / r
        _warn_of_unbalance(inputs, balanced / by_chance)
    inputs.check_products("vci_adjusted", found.shift, r * by_chance)
    return max(1 - found.trace / r, 0.0) / by_chance


def _warn_of_unbalance(inputs: MetricInputs, factor: float) -> None:
    if factor > _MOST_UNBALANCE:
        low, high = (int(count) for count in torch.aminmax(_classes(inputs).counts))
        inputs.warn(
            f"vci_adjusted is an approximation: classes of {low} to {high} samples are weighted equally. It is exact "
            "with sample weighting"
        )


def explained_by_chance(counts: Float[Tensor, " c"], pi: Float[Tensor, " c"], rank: int) -> float:
    """Return the expectation of Tr(Sigma_T^+ Sigma_B) over labels that say nothing about the features.

    The weighted, centred rows of Gaussian features have the covariance K = Q D Q between samples: D holds the weight
    pi_c/n_c of each sample, Q removes the weighted mean. For many samples, the projector onto their span is
    t K (1 + t K)^-1 on average, with t such that its trace is the rank (a deterministic equivalent). Its trace on the
    span of the class indicators is returned. If all weights are equal, this is exactly a (C - 1)/(n - 1).

    Args:
        counts, pi: n_c, at least 1 each, and class weights; float64.
        rank: a, less than n - 1.
    """
    weights = pi / counts
    weights = weights / weights.mean()

    def traces(log_t: float) -> tuple[float, float]:
        rest = 1 / (1 + math.exp(log_t) * weights)  # (1 + t K)^-1 on differences within each class
        between = len(rest) - 1 - float(rest.sum() - (pi @ rest.square()) / (pi @ rest))
        return between + float((counts - 1) @ (1 - rest)), between

    low, high = -50.0, 50.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if traces(middle)[0] > rank else (middle, high)
    return traces(low)[1]


def squared_distance_debiased(inputs: MetricInputs) -> float | None:
    traces = _within_and_between(inputs, "squared_distance_debiased")
    return None if traces is None else traces[0] / traces[1]


def normalized_within_debiased(inputs: MetricInputs) -> float | None:
    traces = _within_and_between(inputs, "normalized_within_debiased")
    return None if traces is None else traces[0] / (traces[0] + traces[1])


def strong_test_variance_debiased(inputs: MetricInputs) -> float | None:
    counts, spread = _classes(inputs).counts, Reference(inputs.class_means).spread
    by_sample, by_class = counts / counts.sum(), torch.full_like(counts, 1 / len(counts))
    traces = unbiased_traces(inputs, "strong_test_variance_debiased", by_sample, by_class, spread)
    return None if traces is None else traces[0] / traces[1]


def _within_and_between(inputs: MetricInputs, name: str) -> tuple[float, float] | None:
    pi = _classes(inputs).pi
    return unbiased_traces(inputs, name, pi, pi, inputs.between_trace)


def unbiased_traces(
    inputs: MetricInputs, name: str, within: Float[Tensor, " c"], pi: Float[Tensor, " c"], spread: float
) -> tuple[float, float] | None:
    """Return unbiased estimates of the variance within classes and of the spread of the class means.

    The variance of class c is v_c n_c/(n_c - 1), and the variance of its mean a part of 1/n_c of that. The means add
    sum_c pi_c (1 - pi_c) times theirs to the spread.

    Args:
        name: of the metric that warnings name.
        within, pi: class weights of the variance and of the spread.
        spread: of the class means, with the weights `pi`.
    """
    counts = _classes(inputs).counts
    singles = int((counts < 2).sum())
    if singles:
        inputs.warn(f"{name} is undefined: {singles} classes have one sample")
        return None
    of_means = _classes(inputs).variances / (counts - 1)
    unbiased = spread - float((pi * (1 - pi)) @ of_means)
    if unbiased <= 0:
        inputs.warn(f"{name} is undefined: the class means differ by no more than their sampling errors")
        return None
    return float(within @ (of_means * counts)), unbiased
