"""Theorems of Xu and Liu 2023 and the invariances each metric has, on drawn features."""

from __future__ import annotations

import numpy as np
import pytest
from families import Case, inputs_of, random_case
from hypothesis import given
from hypothesis import strategies as st

from collapselab.metrics import BY_NAME, METRICS
from collapselab.statistics import WEIGHTINGS, Weighting
from helpers import assert_close
from oracles import Oracle, least_squares_loss

WHY = "float64, with condition numbers up to about 1e4"
NO_KMEANS = [metric.name for metric in METRICS if "k-means" not in metric.needs]
weightings = pytest.mark.parametrize("weighting", WEIGHTINGS)
seeds = st.integers(0, 2**20)
class_sizes = st.lists(st.integers(8, 30), min_size=2, max_size=5)


def invertible(dim: int, seed: int) -> np.ndarray:
    """A matrix of condition number 100."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(2))
    return left @ np.diag(np.logspace(-1, 1, dim)) @ right


def rotation(dim: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def value(name: str, features: np.ndarray, labels: np.ndarray, weighting: Weighting = "balanced") -> float:
    found = BY_NAME[name].function(inputs_of(features, labels, weighting=weighting))
    assert found is not None
    return found


# ---------------------------------------------------------------- Xu and Liu's theorems


@given(counts=class_sizes, seed=seeds, dim=st.integers(1, 7))
def test_theorem_5_1_least_squares_loss(counts: list[int], seed: int, dim: int) -> None:
    """The least loss is 1/2 - 1/(2C) - Tr(Sigma_T^+ Sigma_B)/(2C), on unbalanced data too."""
    case, c = random_case(counts, dim, seed), len(counts)
    explained = (1 - value("vci", case.features, case.labels)) * min(dim, c - 1)
    loss = least_squares_loss(case.features, case.labels)
    assert_close(0.5 - 1 / (2 * c) - explained / (2 * c), loss, rel=1e-9, scale=0.5, why=WHY)


def test_theorem_5_1_needs_balanced_weighting() -> None:
    """The test above can fail: with sample weighting the identity does not hold."""
    case = random_case([8, 60, 30], 6)
    explained = (1 - value("vci", case.features, case.labels, "sample")) * 2
    assert abs(0.5 - 1 / 6 - explained / 6 - least_squares_loss(case.features, case.labels)) > 1e-3


@weightings
@given(counts=class_sizes, seed=seeds, dim=st.integers(1, 7))
def test_theorem_5_2_bound(weighting: Weighting, counts: list[int], seed: int, dim: int) -> None:
    """Tr(Sigma_T^+ Sigma_B) <= rank Sigma_B, so that vci is at least zero, without being clipped there."""
    case = random_case(counts, dim, seed)
    inputs = case.inputs(weighting)
    total = inputs.scaled_total
    projections = (inputs.weighted_means[:, total.varying] * total.scale) @ total.root
    explained = float(projections.square().sum())
    assert explained <= inputs.between_svd.rank + 1e-9


@weightings
def test_theorem_5_2_equality_when_spans_meet_only_in_zero(weighting: Weighting) -> None:
    """Not collapsed at all, and vci is 0: all scatter lies off the span of the class means."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    features = np.zeros((200, 12))
    features[:, :3] = rng.standard_normal((4, 3))[labels]
    noise = rng.standard_normal((200, 9))
    for c in range(4):
        noise[labels == c] -= noise[labels == c].mean(axis=0)
    features[:, 3:] = noise
    assert value("squared_distance", features, labels, weighting) > 0.1
    assert value("vci", features @ rotation(12, 1), labels, weighting) < 1e-12


@given(seed=seeds)
def test_proposition_4_1_variance_off_the_row_space_costs_nothing(seed: int) -> None:
    """Features moved within each class off the row space of W: more variance, the same outputs and loss."""
    rng = np.random.default_rng(seed)
    case = random_case([20, 30, 25], 10, seed)
    rows = np.linalg.svd(case.weight)[2][:3]
    noise = 5 * rng.standard_normal(case.features.shape)
    for c in range(3):
        noise[case.labels == c] -= noise[case.labels == c].mean(axis=0)
    moved = Case(case.features + noise - noise @ rows.T @ rows, case.labels, case.weight)
    outputs, scale = case.features @ case.weight.T, np.abs(case.features).max()
    assert_close(moved.features @ case.weight.T, outputs, rel=1e-12, scale=10 * scale, why="float64 products")
    inside, off = (BY_NAME[f"within_{where}_weight_space"].function for where in ("in", "off"))
    before, after = case.inputs(), moved.inputs()
    assert_close(inside(after), inside(before), rel=1e-9, why=WHY)
    more, less = off(after), off(before)
    assert more is not None
    assert less is not None
    assert more > 5 * less


# ---------------------------------------------------------------- invariances


@weightings
@pytest.mark.parametrize("name", ["vci", "vci_adjusted"])
@given(seed=seeds)
def test_vci_under_any_invertible_map(name: str, weighting: Weighting, seed: int) -> None:
    case = random_case([15, 30, 20], 6, seed)
    mapped = case.features @ invertible(6, seed).T
    before = value(name, case.features, case.labels, weighting)
    assert_close(value(name, mapped, case.labels, weighting), before, rel=1e-8, scale=1.0, why=WHY)


@pytest.mark.parametrize("factor", [1e-6, 1e6], ids=str)
def test_vci_with_one_feature_scaled(factor: float) -> None:
    case = random_case([15, 30, 20], 6)
    scaled = case.features * np.r_[factor, np.ones(5)]
    before = value("vci", case.features, case.labels)
    assert_close(value("vci", scaled, case.labels), before, rel=1e-9, scale=1.0, why=WHY)


def test_vci_ignores_constant_features() -> None:
    case = random_case([15, 30, 20], 6)
    wider = np.column_stack([case.features, np.full(65, 0.1), np.full(65, 1e5 / 3)])
    before = value("vci", case.features, case.labels)
    assert_close(value("vci", wider, case.labels), before, rel=1e-9, scale=1.0, why=WHY)


def split_map(case: Case, seed: int, weighting: str) -> np.ndarray:
    """U that maps col(Sigma_B) into itself and its orthogonal complement into itself."""
    centred = Oracle(case.features, case.labels, weighting).centred
    basis = np.linalg.svd(centred)[2]
    r = min(len(centred) - 1, centred.shape[1])
    u = np.zeros((len(basis), len(basis)))
    u[:r, :r] = invertible(r, seed)
    u[r:, r:] = invertible(len(basis) - r, seed + 1)
    return basis.T @ u @ basis


@weightings
@given(seed=seeds)
def test_fuzziness_when_the_map_splits_over_the_means(weighting: Weighting, seed: int) -> None:
    case = random_case([15, 30, 20], 6, seed)
    mapped = case.features @ split_map(case, seed, weighting).T
    before = value("fuzziness", case.features, case.labels, weighting)
    assert_close(value("fuzziness", mapped, case.labels, weighting), before, rel=1e-8, why=WHY)


def test_fuzziness_is_not_invariant_in_general() -> None:
    case = random_case([15, 30, 20], 6)
    mapped = case.features @ invertible(6, 0).T
    assert value("fuzziness", mapped, case.labels) != pytest.approx(
        value("fuzziness", case.features, case.labels), rel=1e-2
    )


TRACE_RATIOS = ["squared_distance", *(name for name in NO_KMEANS if name.endswith("_debiased"))]


@weightings
@pytest.mark.parametrize("name", TRACE_RATIOS)
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_ratios_of_traces_under_scaling_and_rotation(
    name: str, weighting: Weighting, seed: int, factor: float
) -> None:
    case = random_case([15, 30, 20], 6, seed)
    mapped = factor * case.features @ rotation(6, seed).T
    before = value(name, case.features, case.labels, weighting)
    # The debiased denominator is a difference, here of at most ten times its size.
    assert_close(value(name, mapped, case.labels, weighting), before, rel=1e-9, why=WHY)


@pytest.mark.parametrize("name", ["cosine_similarity", "class_separation"])
@given(seed=seeds)
def test_cosines_under_rotation_and_a_scale_for_every_row(name: str, seed: int) -> None:
    case = random_case([15, 30, 20], 6, seed)
    scales = np.exp(np.random.default_rng(seed).uniform(-5, 5, (65, 1)))
    mapped = scales * case.features @ rotation(6, seed).T
    before = value(name, case.features, case.labels)
    assert_close(value(name, mapped, case.labels), before, rel=1e-10, scale=1.0, why=WHY)


# Rotating features and weight together changes nothing that is measured.
@weightings
@pytest.mark.parametrize("name", NO_KMEANS)
def test_rotation_of_features_and_weight(name: str, weighting: Weighting) -> None:
    case, u = random_case([15, 30, 20, 11], 6), rotation(6, 1)
    mapped = Case(case.features @ u.T, case.labels, case.weight @ u.T)
    before = case.value(name, weighting)
    assert_close(mapped.value(name, weighting), before, rel=1e-9, why=WHY)


@weightings
@pytest.mark.parametrize("name", NO_KMEANS)
def test_relabelling_the_classes(name: str, weighting: Weighting) -> None:
    case, order = random_case([15, 30, 20, 11], 6), np.array([2, 0, 3, 1])
    # Class c is called order[c]; rows of the weight follow.
    relabelled = Case(case.features, order[case.labels], case.weight[np.argsort(order)])
    assert_close(relabelled.value(name, weighting), case.value(name, weighting), rel=1e-9, why=WHY)


DEPENDS_ON_THE_ORIGIN = {"cosine_similarity", "class_separation", "ncc_agreement", "ncc_mismatch"}


@weightings
@pytest.mark.parametrize("name", [name for name in NO_KMEANS if name not in DEPENDS_ON_THE_ORIGIN])
def test_translation(name: str, weighting: Weighting) -> None:
    case = random_case([15, 30, 20, 11], 6)
    moved = Case(case.features + 1000 * np.arange(1, 7), case.labels, case.weight)
    # Translation itself rounds features by 6000 eps64 = 1e-12.
    assert_close(moved.value(name, weighting), case.value(name, weighting), rel=1e-8, why=WHY)


@pytest.mark.parametrize("name", ["cosine_similarity", "class_separation"])
def test_cosines_do_depend_on_the_origin(name: str) -> None:
    case = random_case([15, 30, 20, 11], 6)
    assert value(name, case.features + 10, case.labels) != pytest.approx(
        value(name, case.features, case.labels), rel=1e-2
    )


def test_nc1_is_fuzziness_over_the_classes() -> None:
    case = random_case([15, 30, 20, 11], 6)
    fuzziness = case.value("fuzziness")
    assert fuzziness is not None
    assert case.value("nc1") == fuzziness / 4
