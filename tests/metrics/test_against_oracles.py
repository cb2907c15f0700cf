"""Every metric against its definition, transcribed the slow way, and against the limits the registry states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import CASES, Case, inputs_of, random_case

from collapselab.metrics import BY_NAME, METRICS, Metric, MetricInputs
from collapselab.metrics.generalization import Reference, labelled_variance
from collapselab.statistics import WEIGHTINGS, Weighting
from helpers import accumulate, assert_close, simplex, tensors
from oracles import Oracle, nearest

# Covered on their own: they need a second pass or k-means, or are means of draws.
BY_KMEANS = {"weak_test_variance", "weak_test_variance_trimmed", "smallest_cluster"}
# Null where a class has one sample.
DEBIASED = {metric.name for metric in METRICS if metric.name.endswith("_debiased")}
ELSEWHERE = {"ncc_agreement", "ncc_mismatch", "ncc_accuracy", "alignment_random", *BY_KMEANS}
DIRECT = [metric.name for metric in METRICS if metric.name not in ELSEWHERE]
WHY = "float64 throughout; matrices of up to 12 features with condition numbers up to 1e5"

weightings = pytest.mark.parametrize("weighting", WEIGHTINGS)
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def test_every_metric_has_an_oracle() -> None:
    assert [name for name in DIRECT if not hasattr(Oracle, name)] == []


@weightings
@cases
@pytest.mark.parametrize("name", DIRECT)
def test_metric_equals_its_definition(name: str, case: Case, weighting: Weighting) -> None:
    expected = getattr(case.oracle(weighting), name)()
    value = case.value(name, weighting)
    if name in DEBIASED and min(np.bincount(case.labels)) == 1:
        assert value is expected is None
        return
    assert value is not None
    scale = abs(expected)
    if BY_NAME[name].high is not None:  # a cosine, a share or a gap can be zero by symmetry
        scale = 1.0
    elif "_weight_space" in name:  # shares of a trace, which can be zero too
        scale = case.oracle(weighting).total_trace()
    assert_close(value, expected, rel=1e-9, scale=scale, why=WHY)


@cases
def test_random_alignment_is_the_mean_of_drawn_subspaces(case: Case) -> None:
    oracle = case.oracle()
    # Each is the mean of at least 1000 draws; cosines of one random line in p = 5 and more vary by at most 0.6 of
    # their mean, so that 3 standard errors of the two are 6 % for the fewest directions and less for more.
    value = case.value("alignment_random")
    assert value is not None
    assert_close(value, oracle.alignment_random(1500), rel=0.06, why="two means of 1000 draws and more")


@weightings
@cases
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_is_in_its_range(metric: Metric, case: Case, weighting: Weighting) -> None:
    value = metric.function(case.inputs(weighting))
    if value is None:
        assert metric.name in BY_KMEANS | DEBIASED
        return
    assert metric.low is None or value >= metric.low
    assert metric.high is None or value <= metric.high


@pytest.mark.parametrize("name", [name for name in DIRECT if BY_NAME[name].at_collapse is not None])
@pytest.mark.parametrize("offset", [0.0, 1000.0], ids="offset{}".format)
@pytest.mark.parametrize("dim", [4, 30], ids="p{}".format)
def test_value_at_full_collapse(name: str, offset: float, dim: int) -> None:
    """Every sample at its vertex of a simplex about `offset`, which the weight is a multiple of."""
    rng = np.random.default_rng(0)
    means = simplex(5, dim, rng)
    labels = np.repeat(np.arange(5), 30)
    inputs = inputs_of(means[labels] + offset, labels, 3 * means)
    value = BY_NAME[name].function(inputs)
    if name in ("cosine_similarity", "class_separation"):
        # Relative to the angular spread of all samples, which is offset^-2 of one.
        assert_close(value, 1.0, rel=1e-13 * max(offset, 1.0) ** 2, why="1 - norm(m)^2 rounds by eps64")
        return
    assert_close(value, BY_NAME[name].at_collapse, rel=1e-9, scale=1.0, why="means about 1000 round by 1e-13")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_rounding_at_full_collapse_stays_in_range(metric: Metric, num_classes: int) -> None:
    """float32 features at a simplex, where many metrics are at the end of their range."""
    rng = np.random.default_rng(1)
    means = simplex(num_classes, 70, rng)
    labels = np.arange(20 * num_classes) % num_classes
    noise = 1e-6 * rng.standard_normal((len(labels), 1)) * means[0]
    inputs = inputs_of(means[labels] + noise, labels, means, dtype=torch.float32)
    value = metric.function(inputs)
    assert value is not None or metric.name in BY_KMEANS
    assert value is None or metric.low is None or value >= metric.low
    assert value is None or metric.high is None or value <= metric.high


@pytest.mark.parametrize("name", ["ncc_agreement", "ncc_mismatch", "ncc_accuracy"])
def test_decisions_at_full_collapse(name: str) -> None:
    means = simplex(5, 8, np.random.default_rng(0))
    labels = np.repeat(np.arange(5), 4)
    assert BY_NAME[name].function(inputs_of(means[labels], labels, means)) == BY_NAME[name].at_collapse


@cases
@pytest.mark.parametrize("name", ["ncc_agreement", "ncc_mismatch", "ncc_accuracy"])
def test_decisions_against_brute_force(name: str, case: Case) -> None:
    found = nearest(case.features, case.oracle().means)
    decided = (case.features @ case.weight.T).argmax(axis=1)
    expected = {
        "ncc_agreement": np.mean(found == decided),
        "ncc_mismatch": 1 - np.mean(found == decided),
        "ncc_accuracy": np.mean(found == case.labels),
    }
    assert case.value(name) == pytest.approx(expected[name], abs=1e-15)


@pytest.mark.parametrize("name", [m.name for m in METRICS if m.needs & {"weight", "classifier"}])
def test_metrics_of_the_weight_are_null_without_it(name: str) -> None:
    case = CASES["balanced"]
    assert BY_NAME[name].function(inputs_of(case.features, case.labels)) is None


@pytest.mark.parametrize(
    "name", ["cosine_similarity", "class_separation", "cdnv", "train_variance", "stable_rank_per_class"]
)
def test_weighting_does_not_enter(name: str) -> None:
    case = CASES["unbalanced"]
    assert case.value(name, "balanced") == pytest.approx(case.value(name, "sample"), rel=1e-12)


def test_sample_weighting_spoils_the_simplex_of_unbalanced_data() -> None:
    """As the registry's note says: M is not centred at the mean of the class means then."""
    means = simplex(3, 4, np.random.default_rng(0))
    labels = np.repeat(np.arange(3), [5, 50, 200])
    value = BY_NAME["etf_distance"].function(inputs_of(means[labels], labels, weighting="sample"))
    assert value is not None
    assert value > 0.3


def test_singular_values_that_rounding_leaves_count_as_zero() -> None:
    """A weight of rank two among three classes."""
    case = random_case([20, 20, 20], 6)
    rows = np.random.default_rng(4).standard_normal((2, 6))
    weight = np.stack([rows[0], rows[1], rows[0] + rows[1]])
    value = BY_NAME["weight_singular_spread"].function(inputs_of(case.features, case.labels, weight))
    s = np.linalg.svd(weight, compute_uv=False)[:2]
    expected = np.std([*s, 0.0]) / np.mean([*s, 0.0])
    assert_close(value, expected, rel=1e-12, why="float64 singular values of a 3 x 6 matrix")


def test_singular_spread_of_a_wide_layer_is_over_as_many_values_as_classes() -> None:
    case = random_case([20, 20, 20], 10)
    weight = np.diag([5.0, 3.0, 2.0, 2.0, 2.0, 1e-3, 1.0, 1.0, 1.0, 1.0])
    value = BY_NAME["weight_singular_spread"].function(inputs_of(case.features, case.labels, weight))
    assert_close(value, np.std([5, 3, 2]) / np.mean([5, 3, 2]), rel=1e-12, why="float64")


def test_top_spread_leaves_out_the_singular_value_that_is_zero_at_collapse() -> None:
    """A simplex of three classes has two equal singular values and a third that is 0; scale and rotation change nothing."""
    case = random_case([20, 20, 20], 6)
    turn = np.linalg.qr(np.random.default_rng(6).standard_normal((6, 6)))[0]
    simplex = 7.0 * (np.eye(3) - 1 / 3) @ turn[:3]
    value, other = (
        BY_NAME[name].function(inputs_of(case.features, case.labels, simplex))
        for name in ("weight_top_spread", "weight_singular_spread")
    )
    assert_close(value, 0.0, rel=1e-12, scale=1.0, why="rounding of two equal singular values")
    assert_close(other, 0.5**0.5, rel=1e-12, why="float64: std/mean of 1, 1, 0")


def test_metrics_of_a_zero_weight_are_null() -> None:
    case = random_case([20, 20, 20], 6)
    inputs = inputs_of(case.features, case.labels, np.zeros((3, 6)))
    for name in (
        "alignment",
        "alignment_random",
        "weight_singular_spread",
        "weight_top_spread",
        "weight_stable_rank",
    ):
        assert BY_NAME[name].function(inputs) is None, name
    assert any("the weight is zero" in text for text in inputs.warnings)


def test_bounds_of_the_stable_rank_hold_the_exact_one_where_the_scatter_was_sketched() -> None:
    """More features than columns of the sketch, in three shapes of spectrum."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(4), 100)
    for spectrum in (np.ones(120), 1 / (1.0 + np.arange(120)), np.exp(-np.arange(120) / 3.0)):
        features = rng.standard_normal((400, 120)) * spectrum + rng.standard_normal((4, 120))[labels]
        oracle = Oracle(features, labels)
        inputs = MetricInputs(accumulate(*tensors(features, labels, torch.float64), scatter="sketch"))
        low, value, high = (
            BY_NAME[name].function(inputs) for name in ("stable_rank_low", "stable_rank", "stable_rank_high")
        )
        assert low is not None
        assert value is not None
        assert high is not None
        assert low <= oracle.stable_rank_low() * (1 + 1e-12)
        assert high >= oracle.stable_rank_high() * (1 - 1e-12)
        assert low <= value <= high
        assert low < high


def test_self_duality_is_for_the_last_layer() -> None:
    case = CASES["balanced"]
    inputs = case.inputs()
    inputs.is_classifier = False
    assert BY_NAME["self_duality"].function(inputs) is None


def test_alignment_takes_the_top_directions_of_a_wide_weight() -> None:
    case = random_case([20, 20, 20], 10)
    weight = np.random.default_rng(3).standard_normal((40, 10))
    inputs = inputs_of(case.features, case.labels, weight)
    expected = Oracle(case.features, case.labels, weight=weight).alignment()
    assert_close(BY_NAME["alignment"].function(inputs), expected, rel=1e-10, why=WHY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_rank_of_a_weight_of_low_precision(dtype: torch.dtype) -> None:
    """Its cut-off must leave rank: eps of half precision times 512 features exceeds one."""
    weight = torch.randn(4, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    case = random_case([20, 20, 20, 20], 512)
    inputs = inputs_of(case.features, case.labels, weight)
    assert inputs.weight_svd is not None
    assert inputs.weight_svd.rank == 4


# ---------------------------------------------------------------- Hui's train and strong test variance


def test_labelled_variance_over_a_final_reference() -> None:
    """sum_c (n_c/n)(v_c + norm(mu_c(t) - mu_c(T))^2) is the mean over samples of norm(h^t - mu_y(T))^2."""
    now, final = random_case([5, 40, 60, 11], 12, seed=1), random_case([5, 40, 60, 11], 12, seed=2)
    stats = now.inputs().stats
    reference = final.oracle().means
    value = labelled_variance(
        stats.counts, stats.class_means, stats.class_variances, Reference(torch.as_tensor(reference))
    )
    assert_close(value, now.oracle().labelled_variance(reference), rel=1e-12, why="float64 sums of 116 rows")


def test_current_reference_is_the_final_one_at_the_end() -> None:
    case = CASES["unbalanced"]
    stats = case.inputs().stats
    value = labelled_variance(
        stats.counts, stats.class_means, stats.class_variances, Reference(stats.class_means)
    )
    assert value == case.value("train_variance")


def test_train_variance_is_squared_distance_on_balanced_classes() -> None:
    case = CASES["balanced"]
    assert case.value("train_variance") == pytest.approx(case.value("squared_distance"), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.1], ids="offset{}".format)
def test_a_reference_whose_means_coincide_has_no_variance(offset: float) -> None:
    case = CASES["balanced"]
    stats = case.inputs().stats
    centres = torch.full((4, 9), offset, dtype=torch.float64)
    centres[1] *= 1 + 2e-16
    assert (
        labelled_variance(stats.counts, stats.class_means, stats.class_variances, Reference(centres)) is None
    )
