"""Every metric by name: what it computes, where it comes from, what it needs and what its values mean.

The metric catalogue of the documentation is generated from here, and the cheapest sufficient passes are chosen from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from collapselab.metrics import (
    alignment,
    decision,
    finite_samples,
    generalization,
    geometry,
    spectrum,
    variability,
)
from collapselab.metrics.inputs import MetricInputs
from collapselab.metrics.names import check_metrics
from collapselab.statistics import Scatter

Need = Literal[
    "covariance",
    "class covariances",
    "top eigenvalue",
    "weight",
    "classifier",
    "second pass",
    "decisions",
    "k-means",
]
# What no metric can be computed of without a matrix: the scatter, pooled or by class, or a sketch of it.
MATRICES: frozenset[Need] = frozenset({"covariance", "class covariances", "top eigenvalue"})
# Both, because run-time checks of annotations do not accept whole numbers as `float`.
Number = int | float
Direction = Literal["falls", "rises", "neither"]
Family = Literal[
    "NC1: variability",
    "NC2: geometry of the class means",
    "NC3: means and weights",
    "NC4: nearest class mean",
    "Ranks and spectra",
    "Generalization",
]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: name in tables, files and `metrics=`.
        function: returns the value for `MetricInputs`, or None where it is undefined.
        family: property of neural collapse that it measures.
        formula: in the notation of the catalogue.
        source: paper, section, equation.
        low, high: range; None where unbounded.
        at_collapse: value at full collapse; None if collapse does not determine it.
        direction: how it changes as features collapse.
        needs: what it needs beyond counts, means and traces.
        splits: splits on which it is defined.
        note: what a reader must know to use it.
    """

    name: str
    function: Callable[[MetricInputs], Number | None]
    family: Family
    formula: str
    source: str
    low: Number | None
    high: Number | None
    at_collapse: Number | None
    direction: Direction
    needs: frozenset[Need] = frozenset()
    splits: frozenset[str] = frozenset({"train", "test"})
    note: str = ""


_PAPYAN = "Papyan, Han, Donoho 2020"
_HUI = "Hui, Belkin, Nakkiran 2022, sec. 3.1"
_XU = "Xu, Liu 2023"
_RANGAMANI = "Rangamani et al. 2023"
_PROJECT = "this project"

_NC1: Family = "NC1: variability"
_NC2: Family = "NC2: geometry of the class means"
_NC3: Family = "NC3: means and weights"
_NC4: Family = "NC4: nearest class mean"
_RANKS: Family = "Ranks and spectra"
_GENERAL: Family = "Generalization"

_COVARIANCE = frozenset[Need]({"covariance"})
_TOP = frozenset[Need]({"top eigenvalue"})
_WEIGHT = frozenset[Need]({"weight"})
_BOTH = frozenset[Need]({"covariance", "weight"})
_TRAIN, _TEST = frozenset({"train"}), frozenset({"test"})
_SAMPLE_NOTE = (
    "With sample weighting, M is not centred at the mean of the class means: on unbalanced data even a perfect simplex "
    "has a large distance."
)
_DEBIASED_NOTE = (
    "Numerator and denominator are unbiased estimates. Null if a class has one sample, or if the class means differ by no more "
    "than their sampling errors."
)

METRICS: tuple[Metric, ...] = (
    Metric("within_trace", variability.within_trace, _NC1, "Tr Σ_W", f"{_RANGAMANI}, sec. 4", 0, None, 0, "falls"),
    Metric(
        "between_trace", variability.between_trace, _NC1, "Tr Σ_B", f"{_RANGAMANI}, sec. 4", 0, None, None, "neither"
    ),
    Metric(
        "total_trace", variability.total_trace, _NC1, "Tr Σ_T = Tr Σ_W + Tr Σ_B", f"{_RANGAMANI}, sec. 4", 0, None,
        None, "neither",
    ),
    Metric(
        "normalized_within", variability.normalized_within, _NC1, "Tr Σ_W / Tr Σ_T", f"{_RANGAMANI}, sec. 4, NC1",
        0, 1, 0, "falls", note="A layer is called collapsed if this is below epsilon = 0.2 on train data.",
    ),
    Metric(
        "normalized_within_debiased", finite_samples.normalized_within_debiased, _NC1,
        "W / (W + B), W and B as in squared_distance_debiased", _PROJECT, 0, 1, 0, "falls", note=_DEBIASED_NOTE,
    ),
    Metric("squared_distance", variability.squared_distance, _NC1, "Tr Σ_W / Tr Σ_B", f"{_XU}, eq. 4", 0, None, 0, "falls"),
    Metric(
        "squared_distance_debiased", finite_samples.squared_distance_debiased, _NC1,
        "W / B, W = Σ_c π_c v_c n_c/(n_c−1), B = Tr Σ_B − Σ_c π_c (1−π_c) v_c/(n_c−1)", _PROJECT, 0, None, 0, "falls",
        note="squared_distance itself saturates at n_c: where the population has V, it is about "
        f"V (1−1/n_c) / (1 + V (1−1/C)/n_c) with n_c samples in each class. {_DEBIASED_NOTE}",
    ),
    Metric(
        "fuzziness", variability.fuzziness, _NC1, "Tr(Σ_W Σ_B⁺)", f"{_XU}, sec. 3.2 and 4.3", 0, None, 0, "falls",
        _COVARIANCE, note="Invariant under linear maps of the features that preserve the span of the class means and its orthogonal "
        "complement; in general not under others.",
    ),
    Metric("nc1", variability.nc1, _NC1, "Tr(Σ_W Σ_B⁺) / C", _PAPYAN, 0, None, 0, "falls", _COVARIANCE),
    Metric(
        "vci", variability.vci, _NC1, "1 − Tr(Σ_T⁺ Σ_B) / min(p, C−1)", f"{_XU}, def. 5.3", 0, 1, 0, "falls",
        _COVARIANCE,
        note="Invariant under any invertible linear map of the features. With labels that say nothing about the features, its "
        "mean is not 1 but 1 − max(a, C−1)/(n−1), a = rank Σ_T: exactly, for classes of equal size or sample weighting "
        "(see vci_adjusted). If a = n − 1, it is 0 for almost any features, collapsed or not, and says nothing. This "
        "needs p ≥ n − 1.",
    ),
    Metric(
        "vci_adjusted", finite_samples.vci_adjusted, _NC1,
        "(1 − Tr(Σ_T⁺ Σ_B) / min(a, C−1)) · (n−1) / (n−1 − max(a, C−1)), a = rank Σ_T",
        f"{_XU}, def. 5.3, adjusted for chance by {_PROJECT}", 0, None, 0, "falls", _COVARIANCE,
        note="Use it to compare splits, layers and networks of different n or p: see the section on finite samples. Null if "
        "max(a, C−1) ≥ n − 1.",
    ),
    Metric(
        "cosine_similarity", variability.cosine_similarity, _NC1,
        "mean_c ‖m_c‖², m_c the mean of h/‖h‖ over class c", f"{_XU}, sec. 3.2", 0, 1, 1, "rises",
        note="The mean cosine over all pairs of samples of a class, including each sample with itself.",
    ),
    Metric(
        "class_separation", variability.class_separation, _NC1,
        "1 − (1 − mean_c ‖m_c‖²) / (1 − ‖mean_c m_c‖²)", "Kornblith et al. 2021", None, 1, 1, "rises",
    ),
    Metric(
        "cdnv", variability.cdnv, _NC1, "mean over c ≠ c′ of (v_c + v_c′) / (2 ‖μ_c − μ_c′‖²)", "Galanti et al. 2021",
        0, None, 0, "falls", note="v_c is the mean squared distance of class c from its mean.",
    ),
    Metric(
        "equinorm", geometry.equinorm, _NC2, "std_c ‖μ_c − μ_G‖ / mean_c ‖μ_c − μ_G‖",
        f"{_PAPYAN}; {_RANGAMANI}, fig. 2 bottom", 0, None, 0, "falls",
    ),
    Metric(
        "equiangularity", geometry.equiangularity, _NC2, "std over c ≠ c′ of cos(μ_c − μ_G, μ_c′ − μ_G)", _PAPYAN, 0, 1,
        0, "falls",
    ),
    Metric(
        "max_angle_gap", geometry.max_angle_gap, _NC2, "mean over c ≠ c′ of |cos + 1/(C−1)|", _PAPYAN, 0, 2, 0, "falls"
    ),
    Metric(
        "mean_cosine_gap", geometry.mean_cosine_gap, _NC2, "mean over c ≠ c′ of cos + 1/(C−1)",
        f"{_RANGAMANI}, fig. 2 top", 0, 2, 0, "falls",
    ),
    Metric(
        "etf_distance", geometry.etf_distance, _NC2, "‖M Mᵀ/‖M Mᵀ‖ − (I − 11ᵀ/C)/√(C−1)‖",
        "Zhu et al. 2021 (defined there for the weights)", 0, 2, 0, "falls", note=_SAMPLE_NOTE,
    ),
    Metric(
        "self_duality", alignment.self_duality, _NC3, "‖W/‖W‖ − M/‖M‖‖", f"{_RANGAMANI}, NC3; {_PAPYAN} plot its square",
        0, 2, 0, "falls", frozenset({"classifier"}), note="Defined at the last layer only.",
    ),
    Metric(
        "alignment", alignment.alignment, _NC3,
        "mean cosine of the k principal angles between span M and the top k right-singular vectors of W",
        f"{_RANGAMANI}, NC3", 0, 1, 1, "rises", _WEIGHT,
        note="k = min(C−1, rank M, rank W, p). At most about √(k/p) for random subspaces if p is large.",
    ),
    Metric(
        "alignment_random", alignment.alignment_random, _NC3, "E alignment of two random k-dimensional subspaces",
        f"{_RANGAMANI}, fig. 3, which shows the value at initialisation instead", 0, 1, None, "neither", _WEIGHT,
        note="An alignment is meaningful if it exceeds this value, which is a mean over random draws (seeded, accurate to about 1 %).",
    ),
    Metric(
        "weight_singular_spread", alignment.weight_singular_spread, _NC3,
        "std/mean of the C largest singular values of W", f"{_RANGAMANI}, NC3 and fig. 5", 0, None, None, "falls",
        _WEIGHT, note="Zero if all C singular values are equal. At full collapse it is 1/√(C−1): one of them is 0, and the others are equal.",
    ),
    Metric(
        "weight_top_spread", alignment.weight_top_spread, _NC3, "std/mean of the C−1 largest singular values of W",
        f"{_RANGAMANI}, NC3 and fig. 5, which take C", 0, None, 0, "falls", _WEIGHT, note="Zero at full collapse.",
    ),
    Metric(
        "weight_stable_rank", alignment.weight_stable_rank, _NC3, "‖W‖_F² / ‖W‖₂²", f"{_RANGAMANI}, fig. 5", 1, None,
        None, "neither", _WEIGHT, note="It is C − 1 if the rows of W form a simplex, as at full collapse.",
    ),
    Metric(
        "ncc_agreement", decision.ncc_agreement, _NC4, "share of samples whose nearest train class mean is the decision",
        f"{_PAPYAN}; {_RANGAMANI}, NC4", 0, 1, 1, "rises", frozenset({"second pass", "decisions"}),
    ),
    Metric(
        "ncc_mismatch", decision.ncc_mismatch, _NC4, "1 − ncc_agreement", _PAPYAN, 0, 1, 0, "falls",
        frozenset({"second pass", "decisions"}),
    ),
    Metric(
        "ncc_accuracy", decision.ncc_accuracy, _NC4, "share of samples whose nearest train class mean is the label",
        f"{_RANGAMANI}, fig. 4", 0, 1, 1, "rises", frozenset({"second pass"}),
        note="On test data, the value can be below 1 even if the train features have collapsed.",
    ),
    Metric(
        "stable_rank", spectrum.stable_rank, _RANKS, "Tr Σ_W / λ_max(Σ_W)", f"{_RANGAMANI}, sec. 5.2, fig. 5", 1, None,
        None, "neither", _TOP, note="If only a sketch of Σ_W is stored, this is an estimate between stable_rank_low and stable_rank_high.",
    ),
    Metric(
        "stable_rank_low", spectrum.stable_rank_low, _RANKS, "lower bound of Tr Σ_W / λ_max(Σ_W)",
        "Tropp et al. 2017, sec. 5, with Tr Σ_W known", 1, None, None, "neither", _TOP,
        note="Equal to stable_rank if Σ_W is stored whole.",
    ),
    Metric(
        "stable_rank_high", spectrum.stable_rank_high, _RANKS, "upper bound of Tr Σ_W / λ_max(Σ_W)",
        "Tropp et al. 2017, sec. 5", 1, None, None, "neither", _TOP,
        note="Equal to stable_rank if Σ_W is stored whole.",
    ),
    Metric(
        "stable_rank_per_class", spectrum.stable_rank_per_class, _RANKS,
        "mean over classes of Tr S_c / λ_max(S_c), S_c the class's own scatter", f"{_RANGAMANI}, sec. 5.2, fig. 5", 1,
        None, None, "neither", frozenset({"class covariances"}),
        note="Needs the scatter of every class: available if C p² ≤ 5e7, or if the features are in memory.",
    ),
    Metric(
        "stable_rank_published", spectrum.stable_rank_published, _RANKS, "mean over classes of n_c Tr S_c / λ_max(S_c)",
        f"code published with {_RANGAMANI}", 1, None, None, "neither", frozenset({"class covariances"}),
        note="That code forgets to divide the numerator by n_c. It equals n_c · stable_rank_per_class if class sizes are equal.",
    ),
    Metric(
        "within_in_weight_space", alignment.within_in_weight_space, _RANKS, "Tr(P Σ_W), P the projector onto the row space of W",
        f"{_XU}, prop. 4.1 and fig. 1", 0, None, 0, "falls", _BOTH,
    ),
    Metric(
        "within_off_weight_space", alignment.within_off_weight_space, _RANKS, "Tr((I − P) Σ_W)",
        f"{_XU}, prop. 4.1 and fig. 1", 0, None, 0, "falls", _BOTH,
        note="The classifier does not read this variance, so that it can remain even at zero loss.",
    ),
    Metric(
        "between_in_weight_space", alignment.between_in_weight_space, _RANKS, "Tr(P Σ_B)", f"{_XU}, fig. 1", 0, None,
        None, "neither", _WEIGHT,
    ),
    Metric(
        "between_off_weight_space", alignment.between_off_weight_space, _RANKS, "Tr((I − P) Σ_B)", f"{_XU}, fig. 1", 0,
        None, 0, "falls", _WEIGHT,
    ),
    *(
        Metric(
            f"components_{percent}", function, _RANKS, f"principal components of Σ_T for {percent} % of its trace",
            f"{_RANGAMANI}, sec. 5.2", 1, None, None, "falls", _COVARIANCE, note="At full collapse it is at most C − 1.",
        )
        for percent, function in (
            (90, spectrum.components_90),
            (95, spectrum.components_95),
            (99, spectrum.components_99),
        )
    ),
    Metric(
        "train_variance", generalization.current_variance, _GENERAL,
        "E_train ‖h − μ_y‖² / mean_c ‖μ_c − μ̄‖²", _HUI, 0, None, 0, "falls", splits=_TRAIN,
        note="Equal to squared_distance if the class sizes are equal.",
    ),
    Metric(
        "strong_test_variance", generalization.current_variance, _GENERAL,
        "E_test ‖h − μ_y‖² / mean_c ‖μ_c − μ̄‖², μ_c the class means of the test features", _HUI, 0, None, 0, "falls",
        splits=_TEST,
    ),
    Metric(
        "strong_test_variance_debiased", finite_samples.strong_test_variance_debiased, _GENERAL,
        "Σ_c (n_c/n) v_c n_c/(n_c−1) / (mean_c ‖μ_c − μ̄‖² − (1−1/C) mean_c v_c/(n_c−1))", _PROJECT, 0, None, 0, "falls",
        splits=_TEST, note=_DEBIASED_NOTE,
    ),
    Metric(
        "weak_test_variance", generalization.weak_test_variance, _GENERAL,
        "E_test min_c ‖h − κ_c‖² / mean_c ‖κ_c − κ̄‖², κ_c the C k-means centres of the test features, κ̄ their mean", _HUI, 0, None, 0,
        "falls", frozenset({"k-means"}), splits=_TEST,
        note="k-means is by far the most expensive metric. If (number of samples) × (number of centres) is at most 5 million, "
        "it runs 10 restarts, each until convergence. Otherwise it runs 3 restarts in float32, each until the inertia "
        "changes by less than a relative 1e-4, and warns. 10,000 samples of 2048 features and 1000 classes then take a "
        "minute on two cores. To omit it, name the metrics you need.",
    ),
    Metric(
        "weak_test_variance_trimmed", generalization.weak_test_variance_trimmed, _GENERAL,
        "weak_test_variance without the 0.1 % of the test samples (at least one) that are farthest from the mean of all", _PROJECT,
        0, None, 0, "falls", frozenset({"k-means"}), splits=_TEST,
        note="A single outlier can own a k-means centre. The distance of this centre from the others then dominates the "
        "denominator, and weak_test_variance is far too small. Here k-means is fitted again, without the farthest samples.",
    ),
    Metric(
        "smallest_cluster", generalization.smallest_cluster, _GENERAL,
        "min_c n_c / (n / C), n_c the size of the c-th k-means cluster of the test features", "this project", 0, 1, 1,
        "rises", frozenset({"k-means"}), splits=_TEST,
        note="The value is 1 for clusters of equal size. If it is near 0, a few outliers own a cluster: see weak_test_variance_trimmed.",
    ),
)  # fmt: skip

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}


# Metrics of means, traces and distances: no covariance, no decomposition of a weight, no k-means.
CHEAP_METRICS = tuple(
    metric.name for metric in METRICS if metric.needs <= {"second pass", "decisions", "classifier"}
)


def names_of(split: str) -> tuple[str, ...]:
    """Return the names of the metrics defined on a split (`train` or `test`), in catalogue order."""
    return tuple(metric.name for metric in METRICS if split in metric.splits)


def select(names: Iterable[str] | None, split: str) -> tuple[Metric, ...]:
    """Return the metrics defined on a split: all of them, or those of the given names.

    Raises:
        InputError: an unknown name, with near matches.
    """
    chosen = [metric for metric in METRICS if split in metric.splits]
    if names is None:
        return tuple(chosen)
    names = list(names)
    check_metrics(names)
    return tuple(metric for metric in chosen if metric.name in names)


def evaluate(metrics: Iterable[Metric], inputs: MetricInputs) -> dict[str, Number | None]:
    """Return the value of each metric by name, in the given order.

    A value is None, with a warning, where the statistics do not store what the metric needs.
    """
    metrics = tuple(metrics)
    missing = _NOT_STORED[inputs.stats.scatter] if inputs.few is None else frozenset[Need]()
    if inputs.top_class_eigenvalues is not None:
        missing -= {"class covariances"}
    without = [metric.name for metric in metrics if metric.needs & missing]
    if without:
        stored = {"sketch": "a sketch", "trace": "the trace"}[inputs.stats.scatter]
        inputs.warn(
            f"{', '.join(without)}: omitted, since only {stored} of the within-class scatter is stored"
        )
    return {metric.name: None if metric.name in without else metric.function(inputs) for metric in metrics}


_MATRIX = frozenset[Need]({"covariance", "class covariances"})
_NOT_STORED: dict[Scatter, frozenset[Need]] = {
    "full": frozenset(),
    "per_class": frozenset(),
    "sketch": _MATRIX,
    "trace": _MATRIX | _TOP,
}
