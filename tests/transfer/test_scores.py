"""Scores of transferability: against explicit matrices in float64, closed forms and invariances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from collapselab import InputError, measure
from collapselab.transfer.scores import (
    NCTIParts,
    h_score,
    leep,
    logme,
    ncti,
    ncti_parts,
    shrunk_h_score,
    transrate,
)

C = 3
SHAPES = [(60, 6), (40, 70)]  # more samples than features, and fewer
SCORES = [logme, h_score, shrunk_h_score, transrate]


def samples(n: int = 60, p: int = 6, spread: float = 1.0, seed: int = 0, classes: int = C) -> tuple[Any, Any]:
    """Unbalanced classes, features of several sizes that are not centred."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(classes, size=n))
    labels[: 2 * classes] = np.repeat(np.arange(classes), 2)
    means = 1 + rng.normal(size=(classes, p))
    return (rng.normal(size=(n, p)) + spread * means[labels]) * np.geomspace(0.5, 2, p), labels


def between(rows: Any, labels: Any) -> Any:
    replaced = np.stack([rows[labels == label].mean(axis=0) for label in labels])
    return np.cov(replaced.T, bias=True)


# ---------------------------------------------------------------- LogME


def evidence(rows: Any, target: Any, alpha: float, beta: float) -> float:
    """The evidence by its definition: the density of the targets, a normal distribution over all samples."""
    covariance = np.eye(len(rows)) / beta + rows @ rows.T / alpha
    return float(stats.multivariate_normal(np.zeros(len(rows)), covariance).logpdf(target))


def maximum_evidence(rows: Any, target: Any) -> float:
    def objective(logs: Any) -> float:
        return -evidence(rows, target, *np.exp(logs).tolist())

    # The simplex needs no gradient and stops when the evidence is the same to 1e-12.
    found = [
        optimize.minimize(
            objective, start, method="Nelder-Mead", options={"fatol": 1e-12, "xatol": 1e-7, "maxiter": 4000}
        )
        for start in ((0, 0), (3, 1), (-3, 3))
    ]
    return -min(float(result.fun) for result in found)


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_logme_is_the_maximum_of_the_evidence(n: int, p: int, spread: float) -> None:
    rows, labels = samples(n, p, spread)
    expected = np.mean([maximum_evidence(rows, labels == label) / n for label in range(C)])
    # Rounding of the density of n = 60 samples with a condition number of 1e4 or so.
    assert logme(rows, labels) == pytest.approx(expected, abs=1e-9)


def highest_evidence(rows: Any, target: Any) -> float:
    """The highest of several maxima: for every ratio alpha / beta on a fine grid, the best beta has a closed form."""
    n = len(rows)
    found = []
    for ratio in np.geomspace(1e-12, 1e10, 400) * np.linalg.norm(rows, 2) ** 2:
        shape = np.eye(n) + rows @ rows.T / ratio
        beta = n / float(target @ np.linalg.solve(shape, target))
        found.append(-n / 2 * math.log(2 * math.pi * math.e / beta) - np.linalg.slogdet(shape)[1] / 2)
    return max(found)


@pytest.mark.parametrize("seed", range(12))
def test_logme_is_the_highest_of_several_maxima(seed: int) -> None:
    # Few samples, features of very different sizes and a weak signal: in a tenth of these the evidence has two maxima.
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(20, 60)), int(rng.integers(5, 100))
    labels = np.arange(n) % C
    signal = rng.choice([0, 0.05, 0.2]) * rng.normal(size=(C, p))[labels]
    rows = (rng.normal(size=(n, p)) + signal) * np.geomspace(1, 1e-4, p) + rng.choice([0, 1, 10])
    expected = np.mean([highest_evidence(rows, (labels == label).astype(float)) / n for label in range(C)])
    # The grid is 13 % wide: near a maximum the evidence of the nearest point is lower by about 1e-3 of its curvature.
    assert 0 <= logme(rows, labels) - expected + 1e-9 < 1e-3


def test_logme_where_features_say_nothing_is_that_of_noise_alone() -> None:
    labels = samples()[1]
    counts = np.bincount(labels)
    noise = [-(math.log(2 * math.pi * math.e * count / 60)) / 2 for count in counts]
    found = logme(np.zeros((60, 4)), labels)
    assert found == pytest.approx(np.mean(noise), abs=1e-12)


def test_logme_of_an_exact_linear_function_is_large_and_finite() -> None:
    labels = samples()[1]
    found = logme(np.eye(C)[labels], labels)
    assert 10 < found < 100


# ---------------------------------------------------------------- H-score


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0])
def test_h_score_is_the_trace_of_its_definition(spread: float) -> None:
    rows, labels = samples(spread=spread)
    expected = np.trace(np.linalg.solve(np.cov(rows.T, bias=True), between(rows, labels)))
    assert h_score(rows, labels) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "p"), [*SHAPES, (60, 2)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0])
def test_vci_is_one_minus_h_over_r(n: int, p: int, spread: float) -> None:
    rows, labels = samples(n, p, spread)
    rows = np.column_stack([rows, np.full(n, 0.1)])  # a constant feature changes neither
    vci = measure(rows, labels, metrics=["vci"], weighting="sample")["vci"]
    # The metric's own accuracy near collapse is 1e-9: it reads a covariance, the score the features.
    assert vci == pytest.approx(1 - h_score(rows, labels) / min(p + 1, C - 1), abs=1e-9)


def test_h_score_is_invariant_under_linear_maps() -> None:
    rows, labels = samples()
    matrix = np.random.default_rng(1).normal(size=(6, 6))
    assert h_score(rows @ matrix + 100, labels) == pytest.approx(h_score(rows, labels), rel=1e-9)


@pytest.mark.parametrize("spread", [0.3, 1.0, 10.0])
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_shrunk_h_score_is_the_trace_of_its_definition(n: int, p: int, spread: float) -> None:
    rows, labels = samples(n, p, spread)
    estimate = LedoitWolf().fit(rows)
    shrunk = (1 - estimate.shrinkage_) * between(rows, labels)
    expected = np.trace(np.linalg.solve(estimate.covariance_, shrunk))
    assert shrunk_h_score(rows, labels) == pytest.approx(expected, rel=1e-9)


def test_shrinkage_vanishes_with_many_samples() -> None:
    rows, labels = samples(20_000)
    assert shrunk_h_score(rows, labels) == pytest.approx(h_score(rows, labels), rel=1e-2)
    assert shrunk_h_score(rows, labels) < h_score(rows, labels)


# ---------------------------------------------------------------- TransRate


@pytest.mark.parametrize("eps", [1e-4, 0.3])
@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_transrate_is_the_difference_of_its_determinants(n: int, p: int, eps: float) -> None:
    rows, labels = samples(n, p)
    centred = rows - rows.mean(axis=0)

    def rate(part: Any) -> float:
        return 0.5 * float(np.log(np.linalg.eigvalsh(np.eye(p) + part.T @ part / (len(part) * eps))).sum())

    expected = rate(centred) - sum((labels == c).mean() * rate(centred[labels == c]) for c in range(C))
    assert transrate(rows, labels, eps=eps) == pytest.approx(expected, rel=1e-10)


def test_transrate_of_one_feature_in_closed_form() -> None:
    labels = np.array([0, 1] * 10)
    rows = np.where(labels == 1, 3.0, -3.0)[:, None]
    # Both classes have the second moment 9 of all samples: nothing is gained.
    assert transrate(rows, labels) == pytest.approx(0, abs=1e-12)
    rows[labels == 0] = 0  # after centring at 1.5 both are 1.5 away from it
    assert transrate(rows, labels) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- LEEP


def test_leep_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    labels = samples()[1]
    theta = rng.dirichlet(np.ones(5), size=60)
    theta = np.column_stack([theta, np.zeros(60)])  # a source class that never occurs
    expected = 0.0
    for i in range(60):
        total = 0.0
        for z in range(5):
            joint = sum(theta[j, z] for j in range(60) if labels[j] == labels[i]) / 60
            total += joint / (sum(theta[:, z]) / 60) * theta[i, z]
        expected += math.log(total) / 60
    assert leep(theta, labels) == pytest.approx(expected, rel=1e-12)


def test_leep_of_a_useless_classifier_is_the_entropy_of_the_labels() -> None:
    labels = samples()[1]
    shares = np.bincount(labels) / 60
    assert leep(np.full((60, 4), 0.25), labels) == pytest.approx((shares * np.log(shares)).sum(), rel=1e-12)


# ---------------------------------------------------------------- NCTI


def by_listing(rows: Any, labels: Any) -> NCTIParts:
    """The steps of the published code, in scikit-learn and numpy."""
    pca = PCA(min(64, *rows.shape), svd_solver="full")
    components = pca.fit_transform(rows)
    shrinkage = max(math.exp(-float(pca.explained_variance_[:32].sum())), 1e-10)
    if shrinkage == 1e-10:
        analysis = LinearDiscriminantAnalysis(solver="svd")
    else:
        analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    low = analysis.fit(components, labels).transform(components)
    posteriors = analysis.predict_proba(components)
    nuclear = [
        np.linalg.svd(posteriors[labels == c], compute_uv=False).sum() for c in range(labels.max() + 1)
    ]
    return NCTIParts(
        float(np.linalg.svd(low - low.mean(axis=0), compute_uv=False).sum()),
        float(posteriors[np.arange(len(labels)), labels].mean()),
        math.log(sum(nuclear)),
    )


@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])  # with shrinkage and without
@pytest.mark.parametrize(("n", "p"), [(60, 6), (300, 100), (40, 30)])
def test_ncti_parts_are_those_of_the_published_code(n: int, p: int, size: float) -> None:
    rows, labels = samples(n, p)
    expected, found = by_listing(size * rows, labels), ncti_parts(size * rows, labels)
    for name in ("seli", "ncc", "vc"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-8)


def test_ncti_adds_parts_scaled_over_the_models() -> None:
    parts = {"a": NCTIParts(9.0, 0.9, 2.0), "b": NCTIParts(5.0, 0.8, 3.0), "c": NCTIParts(6.0, 0.9, 2.0)}
    assert ncti(parts) == pytest.approx({"a": 2, "b": -1, "c": 1.25})
    same = dict.fromkeys("ab", NCTIParts(9.0, 0.9, 2.0))
    assert ncti(same) == {"a": 0, "b": 0}


def test_ncti_prefers_the_more_collapsed_of_two_models() -> None:
    parts = {name: ncti_parts(*samples(spread=spread)) for name, spread in (("far", 0.3), ("near", 3.0))}
    found = ncti(parts)
    assert found["near"] > found["far"]


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("score", SCORES)
def test_better_separated_classes_score_higher(score: Any) -> None:
    values = [score(*samples(spread=spread)) for spread in (0.3, 1.0, 3.0)]
    assert values == sorted(values)


@pytest.mark.parametrize("score", [logme, h_score, shrunk_h_score])
@pytest.mark.parametrize("size", [1e-200, 1e-120, 1e-3, 1e120])
def test_the_unit_of_features_changes_nothing(score: Any, size: float) -> None:
    rows, labels = samples()
    assert score(rows * size, labels) == pytest.approx(score(rows, labels), rel=1e-9)


@pytest.mark.parametrize("score", [*SCORES, ncti_parts])
def test_order_and_names_of_classes_change_nothing(score: Any) -> None:
    rows, labels = samples()
    order = np.random.default_rng(1).permutation(60)
    found = score(torch.from_numpy(rows[order]), np.array([7, 2**60, 3])[labels[order]])
    first, second = (
        np.ravel([vars(value)[k] for k in vars(value)] if score is ncti_parts else value)
        for value in (found, score(rows, labels))
    )
    np.testing.assert_allclose(first, second, rtol=1e-9)


@pytest.mark.parametrize("score", [*SCORES, ncti_parts])
@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (np.full((6, 2), np.nan), [0, 1] * 3, "12 feature values are NaN"),
        (np.ones((6, 2)), [0, 1] * 2, "4 labels for 6 rows"),
        (np.ones((6, 2)), [1] * 6, "all samples are of one class"),
        (np.ones(6), [0, 1] * 3, "1-D"),
    ],
)
def test_wrong_input_is_refused(score: Any, rows: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(rows, labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: h_score(np.full((6, 2), 0.1), [0, 1] * 3), "H-score: the features do not vary"),
        (
            lambda: shrunk_h_score(np.full((6, 2), 0.1), [0, 1] * 3),
            "shrunk H-score: the features do not vary",
        ),
        (lambda: ncti_parts(np.full((6, 2), 0.25), [0, 1] * 3), "NCTI: the features do not vary"),
        (lambda: ncti_parts(np.eye(3), [0, 1, 2]), "cannot be fitted"),
        (lambda: ncti({"a": NCTIParts(1.0, 1.0, 1.0)}), "at least two"),
        (lambda: transrate(np.eye(2), [0, 1], eps=0), "eps is 0; give a number above 0"),
        (lambda: leep(np.eye(2) * 3, [0, 1]), "LEEP: 2 rows of source probabilities .* the first row 0"),
        (lambda: leep(np.array([[1.5, -0.5], [0, 1]]), [0, 1]), "LEEP: 1 rows"),
    ],
)
def test_undefined_scores_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
