"""What a finite number of samples adds to VCI and to ratios of traces, and that adjusted metrics remove it.

Exact statements are tested over all labellings or draws, the others by simulation: within four standard errors of the
simulated mean, plus what the docstring derives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product

import numpy as np
import pytest
import torch
from families import inputs_of, random_case

from collapselab import measure
from collapselab.metrics import BY_NAME, MetricInputs
from collapselab.metrics.finite_samples import explained_by_chance, unbiased_traces
from collapselab.statistics import WEIGHTINGS, ClassStats, Weighting
from helpers import EPS64, assert_close, simplex, uneven_labels

Array = np.ndarray
NAMES = [name for name in BY_NAME if name.endswith(("_adjusted", "_debiased"))]


def value(name: str, features: Array, labels: Array, weighting: Weighting = "balanced") -> float:
    found = BY_NAME[name].function(inputs_of(features, labels, weighting=weighting))
    assert found is not None
    return found


def labellings(counts: list[int]) -> Iterator[Array]:
    """All ways to divide samples into classes of these sizes; names of equally large classes do not matter."""
    for drawn in sorted(set(permutations(np.repeat(np.arange(len(counts)), counts).tolist()))):
        first = [(size, drawn.index(label)) for label, size in enumerate(counts)]
        if first == sorted(first):
            yield np.array(drawn)


def assert_mean(values: list[float], expected: float, bias: float = 0.0) -> None:
    """The mean is within four standard errors and `bias` of what is expected."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) <= 4 * error + bias, (np.mean(values), error, expected)


# ---------------------------------------------------------------- VCI where labels say nothing


@pytest.mark.parametrize(
    ("counts", "dim", "weighting"),
    [
        ([4, 4], 3, "balanced"),
        ([2, 2, 2], 2, "balanced"),
        ([2, 2, 2, 2], 2, "balanced"),
        ([3, 5], 4, "sample"),
        ([1, 2, 4], 2, "sample"),
        ([1, 2, 2, 2], 2, "sample"),
    ],
    ids=str,
)
def test_mean_of_vci_over_all_labellings(counts: list[int], dim: int, weighting: Weighting) -> None:
    """Exactly 1 - max(a, C-1)/(n-1) for any features: here with an outlier and classes of one sample."""
    features = np.exp(2 * np.random.default_rng(0).standard_normal((sum(counts), dim)))
    pairs = [
        (value("vci", features, labels, weighting), value("vci_adjusted", features, labels, weighting))
        for labels in labellings(counts)
    ]
    vci, adjusted = np.mean(pairs, axis=0)
    expected, b = 1 - max(dim, len(counts) - 1) / (sum(counts) - 1), len(counts) - 1
    # vci divides by min(p, C-1), which is min(a, C-1) here.
    assert min(dim, b) == min(np.linalg.matrix_rank(features - features.mean(0)), b)
    assert_close(vci, expected, rel=1e-9, scale=1.0, why="float64, condition numbers up to 1e3")
    assert_close(adjusted, 1.0, rel=1e-8, why="the same, divided by at least 1/7")


def test_the_exact_mean_needs_equal_weights_of_samples() -> None:
    """Balanced weights on unbalanced data: the classes explain more by chance."""
    features = np.random.default_rng(0).standard_normal((8, 2))
    mean = np.mean([value("vci", features, labels) for labels in labellings([2, 6])])
    assert mean < 1 - 2 / 7 - 0.05


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equal_weights_of_samples_have_the_exact_expectation(weighting: Weighting) -> None:
    """The approximation for unequal weights is the exact formula where weights are equal."""
    counts = torch.tensor([7.0, 7, 7, 7] if weighting == "balanced" else [3.0, 5, 20]).double()
    pi = counts / counts.sum() if weighting == "sample" else torch.full((4,), 0.25, dtype=torch.float64)
    n, b = int(counts.sum()), len(counts) - 1
    for rank in (1, 2, 10, n - 2):
        found = explained_by_chance(counts, pi, rank)
        assert_close(found, rank * b / (n - 1), rel=1e-12, why="bisection to eps64")


def gaussian(rng: np.random.Generator, n: int, p: int) -> Array:
    return rng.standard_normal((n, p))


def rectified(rng: np.random.Generator, n: int, p: int) -> Array:
    """Features of a network: mostly zero, dependent, skewed."""
    return np.maximum(rng.standard_normal((n, p)) @ rng.standard_normal((p, p)) / np.sqrt(p) - 0.5, 0)


@pytest.mark.parametrize(
    ("counts", "draw", "bias"),
    [
        ([10, 50, 60], gaussian, 0.02),
        ([10, 90], gaussian, 0.02),
        ([20, 40, 40], rectified, 0.06),
        ([60, 40], rectified, 0.06),
    ],
    ids=lambda found: getattr(found, "__name__", str(found)),
)
@pytest.mark.parametrize("dim", [5, 40])
def test_adjusted_vci_of_unbalanced_classes_by_chance(
    counts: list[int], draw: Callable[..., Array], bias: float, dim: int
) -> None:
    """1 on average: to 2 % of a hundred Gaussian samples; the catalogue states 0.03 of about 0.5 for class sizes up to 1 : 2."""
    rng = np.random.default_rng(0)
    values = [
        value("vci_adjusted", draw(rng, sum(counts), dim), uneven_labels(rng, counts)) for _ in range(80)
    ]
    assert_mean(values, 1.0, bias)


def test_the_formula_of_balanced_classes_is_wrong_for_unbalanced_ones() -> None:
    """What the tests above would find without the approximation."""
    rng = np.random.default_rng(0)
    values = [
        value("vci", gaussian(rng, 100, 40), uneven_labels(rng, [10, 90])) / (1 - 40 / 99) for _ in range(50)
    ]
    assert np.mean(values) < 0.6


# ---------------------------------------------------------------- VCI and its population value


def drawn_vci(scales: Array, distance: float, draws: int) -> tuple[float, Array, Array]:
    """Population VCI of Gaussian classes with these standard deviations, (C,), and VCI of draws, plain and adjusted."""
    rng = np.random.default_rng(0)
    c, p, n = len(scales), 20, 60
    means = distance / np.sqrt(p) * rng.standard_normal((c, p))
    means -= means.mean(axis=0)
    between = means.T @ means / c
    within = np.eye(p) * (scales**2).mean()
    population = 1 - np.trace(np.linalg.solve(within + between, between)) / (c - 1)
    labels = np.arange(n) % c
    found = []
    for _ in range(draws):
        features = means[labels] + scales[labels, None] * rng.standard_normal((n, p))
        inputs = inputs_of(features, labels)
        found.append([BY_NAME[name].function(inputs) for name in ("vci", "vci_adjusted")])
    plain, adjusted = np.array(found, dtype=np.float64).T
    return float(population), plain, adjusted


@pytest.mark.parametrize("distance", [1.0, 2.0, 4.0])
def test_adjusted_vci_estimates_that_of_the_population(distance: float) -> None:
    """To 0.01 beside the standard error: it is exact where labels say nothing and at collapse, and near it between."""
    population, plain, adjusted = drawn_vci(np.ones(4), distance, 100)
    assert_mean(list(adjusted), population, 0.01)
    assert plain.mean() < 0.8 * population
    rmse = [np.sqrt(np.mean((values - population) ** 2)) for values in (plain, adjusted)]
    assert rmse[1] < 0.5 * rmse[0]


def test_unequal_scales_of_classes_leave_a_bias_of_about_a_tenth() -> None:
    """As the catalogue says, for standard deviations between 1/e and e."""
    population, _, adjusted = drawn_vci(np.exp([-1, -0.3, 0.3, 1.0]), 4.0, 60)
    assert 0.03 < population - adjusted.mean() < 0.2


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_features_of_lower_rank_than_the_class_means_can_have(weighting: Weighting) -> None:
    """Collapsed on a line in five dimensions: vci is 1 - 1/3, since it divides by C - 1, and vci_adjusted is 0."""
    labels = np.repeat(np.arange(4), [5, 6, 7, 8])
    features = np.outer(np.array([0.0, 1.0, 3.0, 4.0])[labels], np.arange(1.0, 6.0))
    assert value("vci", features, labels, weighting) == pytest.approx(2 / 3)
    assert_close(value("vci_adjusted", features, labels, weighting), 0.0, rel=1e-9, scale=1.0, why="float64")


# ---------------------------------------------------------------- ratios of traces


def test_both_traces_are_unbiased() -> None:
    """Over all draws of two and three samples from two points per class, of unequal variances."""
    points = np.array([[[0.0, 0.0], [1.0, 2.0]], [[9.0, 8.0], [8.0, 12.0]]])
    labels, pi = np.array([0, 0, 1, 1, 1]), torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = []
    for drawn in product((0, 1), repeat=5):
        inputs = inputs_of(points[labels, np.array(drawn)], labels)
        means = inputs.class_means - pi @ inputs.class_means
        found.append(unbiased_traces(inputs, "", pi, pi, float(pi @ means.square().sum(1))))
    variances = ((points - points.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2)) / 2
    between = 0.3 * 0.7 * ((points[0].mean(0) - points[1].mean(0)) ** 2).sum()
    assert_close(np.mean(found, axis=0), [pi.numpy() @ variances, between], rel=1e-13, why="float64")


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", [name for name in NAMES if "_debiased" in name])
def test_debiased_ratios_estimate_those_of_the_population(name: str, weighting: Weighting) -> None:
    """Unbalanced classes of unequal variance. A ratio of unbiased traces is biased by about the squared relative error of the
    denominator, less than 0.003 for 500 features.
    """
    rng = np.random.default_rng(0)
    counts, p = np.array([3, 4, 6, 8, 12, 5]), 500
    labels, scales = np.repeat(np.arange(6), counts), np.array([1.0, 2.0, 0.5, 1.5, 1.0, 1.2])
    means = rng.standard_normal((6, p))
    pi = np.full(6, 1 / 6) if weighting == "balanced" or "strong" in name else counts / counts.sum()
    by = counts / counts.sum() if "strong" in name else pi
    within, between = p * by @ scales**2, pi @ ((means - pi @ means) ** 2).sum(axis=1)
    expected = within / (within + between) if "normalized" in name else within / between
    values = [
        value(name, means[labels] + scales[labels, None] * rng.standard_normal((38, p)), labels, weighting)
        for _ in range(60)
    ]
    assert_mean(values, expected, 0.003 * expected)


def test_squared_distance_saturates_and_its_debiased_form_does_not() -> None:
    """The formula that the catalogue gives, where the population has 4 and classes have 4 samples; see above for 0.003."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((10, 800))
    means -= means.mean(axis=0)
    labels, scale = np.arange(40) % 10, np.sqrt(4 * (means**2).sum() / 10 / 800)
    draws = [means[labels] + scale * rng.standard_normal((40, 800)) for _ in range(60)]
    plain, debiased = (
        [value(name, drawn, labels) for drawn in draws]
        for name in ("squared_distance", "squared_distance_debiased")
    )
    assert_mean(plain, 4 * (1 - 1 / 4) / (1 + 4 * (1 - 1 / 10) / 4), 0.003 * 4)
    assert_mean(debiased, 4.0, 0.003 * 4)


# ---------------------------------------------------------------- null, and warnings that say why


def warned(name: str, inputs: MetricInputs) -> str:
    assert BY_NAME[name].function(inputs) is None
    return next(text for text in inputs.warnings if text.startswith(f"{name} is undefined: "))


@pytest.mark.parametrize("name", [name for name in NAMES if "_debiased" in name])
def test_debiased_ratios_are_null_where_they_cannot_be_estimated(name: str) -> None:
    single = random_case([1, 30, 1, 20], 5)
    assert "2 classes have one sample" in warned(name, single.inputs())
    rows = np.random.default_rng(0).standard_normal((30, 5))
    shifted = np.concatenate([rows, rows + 0.01])
    assert "no more than their sampling errors" in warned(name, inputs_of(shifted, np.repeat([0, 1], 30)))
    assert "no more than" in warned(name, inputs_of(np.ones((6, 2)), np.arange(6) % 2))


def test_adjusted_vci_is_null_where_vci_is_zero_for_any_features() -> None:
    rng = np.random.default_rng(0)
    many = inputs_of(rng.standard_normal((20, 30)), np.arange(20) % 2)
    assert "rank Sigma_T = 19 and C - 1 = 1 must both be below n - 1 = 19" in warned("vci_adjusted", many)
    alone = inputs_of(rng.standard_normal((6, 2)), np.arange(6))
    assert "rank Sigma_T = 2 and C - 1 = 5 must both be below n - 1 = 5" in warned("vci_adjusted", alone)
    equal = inputs_of(np.tile(rng.standard_normal((5, 3)), (2, 1)), np.repeat([0, 1], 5))
    assert "all class means coincide" in warned("vci_adjusted", equal)


@pytest.mark.parametrize(
    ("counts", "weighting", "is_approximate"),
    [([10, 90], "balanced", True), ([10, 90], "sample", False), ([45, 55], "balanced", False)],
    ids=str,
)
def test_strongly_unbalanced_classes_are_a_warning(
    counts: list[int], weighting: Weighting, is_approximate: bool
) -> None:
    inputs = random_case(counts, 40).inputs(weighting)
    assert BY_NAME["vci_adjusted"].function(inputs) is not None
    found = any("classes of 10 to 90 samples are weighted equally" in text for text in inputs.warnings)
    assert found == is_approximate


# ---------------------------------------------------------------- as all metrics


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_merged_statistics_give_the_same_values(weighting: Weighting) -> None:
    case = random_case([12, 30, 20], 6)
    counts = torch.bincount(torch.as_tensor(case.labels)) if weighting == "balanced" else None
    parts = [ClassStats(3, 6, class_counts=counts) for _ in range(3)]
    for at, part in enumerate(parts):
        part.update(torch.as_tensor(case.features[at::3]), torch.as_tensor(case.labels[at::3]))
    merged = MetricInputs(ClassStats.merge(parts), weighting=weighting)
    for name in NAMES:
        whole = value(name, case.features, case.labels, weighting)
        assert_close(BY_NAME[name].function(merged), whole, rel=1e6 * EPS64, why="condition numbers of 1e4")


def test_measure_gives_them_on_both_splits_and_the_test_variance_on_one() -> None:
    train, test = random_case([30, 30, 30], 6), random_case([10, 12, 9], 6, seed=1)
    found = measure(train.features, train.labels, test=(test.features, test.labels), metrics=NAMES)
    splits = {
        split: [name for name in NAMES if values.get(name) is not None]
        for split, values in found.splits.items()
    }
    assert splits == {"train": NAMES[:-1], "test": NAMES}
    assert NAMES[-1] == "strong_test_variance_debiased"


def test_traces_need_no_covariance() -> None:
    """For layers whose covariance is not stored."""
    case = random_case([12, 30, 20], 6)
    stats = ClassStats(3, 6, "trace")
    stats.update(torch.as_tensor(case.features), torch.as_tensor(case.labels))
    for name in NAMES:
        if "_debiased" in name:
            found = BY_NAME[name].function(MetricInputs(stats))
            assert_close(found, value(name, case.features, case.labels), rel=1e-12, why="the same traces")


def test_full_collapse_is_zero_with_few_samples() -> None:
    labels = np.repeat(np.arange(4), 2)
    features = simplex(4, 5, np.random.default_rng(0))[labels]
    for name in NAMES:
        assert_close(value(name, features, labels), 0.0, rel=1e-12, scale=1.0, why="float64")


@pytest.mark.parametrize(("n", "is_coarse"), [(70, True), (200, False)])
def test_products_are_repeated_in_float64_where_the_adjustment_multiplies_their_rounding(
    n: int, is_coarse: bool
) -> None:
    """64 features: VCI is multiplied by 14 or 1.5."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    features = (rng.standard_normal((n, 64)) + labels[:, None]).astype(np.float32)
    inputs = inputs_of(features, labels, dtype=torch.float32)
    found = BY_NAME["vci_adjusted"].function(inputs)
    assert inputs.wants_float64_products == is_coarse
    assert any("vci_adjusted has a relative accuracy" in text for text in inputs.warnings) == is_coarse
    exact = value("vci_adjusted", features.astype(np.float64), labels)
    assert_close(found, exact, rel=1e-4, why="float32 products, with condition numbers of 1e4")
    again = measure(features, labels, metrics=["vci_adjusted"])["vci_adjusted"]
    assert_close(again, exact, rel=1e-6, why="check_products allows this much, relative to r")
