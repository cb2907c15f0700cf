"""Every fit is near the optimum of an independent solver, and its certified gap is no smaller than the true one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

import collapselab.transfer.objective as objective_module
import collapselab.transfer.path as path_module
from collapselab.transfer import LogisticPath, fit_logistic, linear_probe
from collapselab.transfer.logistic import TOLERANCE
from devices import Put, accelerators, putting_on

# Relative gap of the reference: below the tolerance by far, above its rounding.
REFERENCE = 1e-9
GRID = np.geomspace(1e6, 1e-6, 97).tolist()


def objective(features: Any, labels: Any, weight: Any, bias: Any, penalty: float) -> float:
    """The definition, in float64."""
    scores = features @ weight.T + bias
    of_true = scores[np.arange(len(labels)), labels]
    return float(
        (special.logsumexp(scores, axis=1) - of_true).mean() + 0.5 * penalty * np.square(weight).sum()
    )


def optimum(features: Any, labels: Any, penalty: float) -> float:
    """The least objective by Newton's method with the dense Hessian in float64; no code is shared with the package."""
    n, classes = len(labels), int(labels.max()) + 1
    rows = np.hstack([features - features.mean(axis=0), np.ones((n, 1))])
    strength = np.append(np.full(features.shape[1], penalty), 0.0)
    targets = np.eye(classes)[labels]

    def value(weights: Any) -> float:
        return objective(rows[:, :-1], labels, weights[:, :-1], weights[:, -1], penalty)

    weights = np.zeros((classes, rows.shape[1]))
    for _ in range(200):
        shares = special.softmax(rows @ weights.T, axis=1)
        slope = (shares - targets).T @ rows / n + weights * strength
        between = np.eye(classes)[None] * shares[:, :, None] - shares[:, :, None] * shares[:, None, :]
        blocks = np.einsum("ncd,nj,nk->cjdk", between, rows, rows, optimize=True) / n
        hessian = blocks.reshape(weights.size, -1) + np.diag(np.tile(strength, classes))
        step = -np.linalg.lstsq(hessian, slope.ravel(), rcond=None)[0].reshape(weights.shape)
        length = 1.0
        while (
            length > 1e-6
            and value(weights + length * step) > value(weights) + 0.1 * length * (slope * step).sum()
        ):
            length /= 2
        weights = weights + length * step
        if -(slope * step).sum() < 1e-13 * value(weights):  # twice the gap that was left before this step
            break
    return value(weights)


def draw(n: int = 120, p: int = 10, c: int = 3, spread: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % c
    return rng.normal(size=(n, p)) + spread * rng.normal(size=(c, p))[labels], labels


def changed(change: Callable[[Any], Any], **options: Any) -> tuple[Any, Any]:
    features, labels = draw(**options)
    return change(features), labels


CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "overlapping": draw,
    "separable": lambda: draw(spread=8.0),
    "two classes": lambda: draw(c=2),
    "rank-deficient": lambda: changed(lambda x: np.hstack([x, x @ np.ones((10, 4)), 2 * x[:, :1]])),
    "a constant feature": lambda: changed(lambda x: np.hstack([x, np.full((120, 1), 7.0)])),
    "far from the origin": lambda: changed(lambda x: x + 1e4),
    "one large feature": lambda: changed(lambda x: x * np.append(1e3, np.ones(9))),
    "fewer samples than features": lambda: draw(n=30, p=60),
    "unbalanced": lambda: (draw()[0], np.minimum(np.arange(120) // 70, 1) + (np.arange(120) > 116)),
    "1 / k spectrum": lambda: changed(
        lambda x: np.maximum(0, x @ np.diag(1 / np.arange(1, 11.0))), spread=0.5
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_penalty_is_near_the_optimum_and_its_gap_is_valid(case: str) -> None:
    features, labels = CASES[case]()
    path = LogisticPath(torch.from_numpy(features), torch.from_numpy(labels), int(labels.max()) + 1)
    fits = {fit.penalty: fit for fit in path.fits(GRID)}
    assert set(fits) == set(GRID)
    assert max(fit.gap for fit in fits.values()) <= TOLERANCE
    for penalty in GRID[::16]:
        fit, least = fits[penalty], optimum(features, labels, penalty)
        assert fit.loss == pytest.approx(
            objective(features, labels, fit.weight.numpy(), fit.bias.numpy(), penalty), rel=1e-10
        )
        assert fit.loss / least - 1 <= fit.gap + REFERENCE
        assert least / fit.loss - 1 <= REFERENCE  # the reference is no worse


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("case", ["overlapping", "separable", "fewer samples than features"])
def test_the_gap_bounds_the_distance_at_every_tolerance(case: str, tolerance: float) -> None:
    features, labels = CASES[case]()
    for penalty in (1.0, 1e-3, 1e-6):
        fit = fit_logistic(torch.from_numpy(features), torch.from_numpy(labels), 3, penalty, tolerance)
        least = optimum(features, labels, penalty)
        assert fit.loss / least - 1 <= fit.gap + REFERENCE
        assert fit.gap <= tolerance + 1e-14


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_scaling_the_features_is_scaling_the_penalty(size: float) -> None:
    # By 1e6 at a penalty of 1e-3 the penalty is 1e-15 of the variance: float32 gradients do not suffice.
    features, labels = (torch.from_numpy(part) for part in draw(n=400, spread=0.3))
    for penalty in (1e-3, 1.0):
        scaled = fit_logistic(features * size, labels, 3, penalty)
        plain = fit_logistic(features, labels, 3, penalty / size**2, 1e-12)
        assert scaled.loss == pytest.approx(plain.loss, rel=TOLERANCE)
        assert scaled.gap <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_features_are_fitted_as_their_float64_values(dtype: torch.dtype) -> None:
    features, labels = (torch.from_numpy(part) for part in draw(spread=3.0))
    narrow = features.to(dtype)
    for penalty in (1.0, 1e-5):
        one = fit_logistic(narrow, labels, 3, penalty)
        assert torch.equal(one.weight, fit_logistic(narrow.double(), labels, 3, penalty).weight)


def test_a_class_without_samples_changes_nothing_and_is_never_predicted() -> None:
    features, labels = (torch.from_numpy(part) for part in draw())
    fit = fit_logistic(features, labels + (labels == 2).long(), 4, 1e-2)
    without = fit_logistic(features, labels, 3, 1e-2)
    kept = torch.tensor([0, 1, 3])
    assert torch.equal(fit.weight[kept], without.weight)
    assert fit.loss == without.loss
    assert fit.weight[2].eq(0).all()
    assert fit.predict(features).ne(2).all()


def test_a_fit_that_is_not_accurate_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = (torch.from_numpy(part) for part in draw(spread=8.0))
    monkeypatch.setattr("collapselab.transfer.newton._MOST_STEPS", 1)
    with pytest.warns(UserWarning, match="penalty 1e-06: stopped after"):
        fit_logistic(features, labels, 3, 1e-6)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_fit_that_starts_from_its_solution_takes_no_step(standardize: bool) -> None:
    features, labels = (torch.from_numpy(part) for part in CASES["a constant feature"]())
    options: dict[str, Any] = {"standardize": standardize}
    first = LogisticPath(features * 3 + 5, labels, 3, **options).fit(1e-4, 1e-8)
    again = LogisticPath(features * 3 + 5, labels, 3, start=first, **options).fit(1e-4)
    assert first.iterations > 1
    assert again.iterations == 0
    assert again.loss == pytest.approx(first.loss, rel=1e-8)


def test_penalties_may_come_in_any_order() -> None:
    features, labels = (torch.from_numpy(part) for part in draw(spread=3.0))
    path = LogisticPath(features, labels, 3)
    for penalty in (1e-6, 1e5, 1.0, 1e-3, 1e-3, 3e-4):
        fit = path.fit(penalty)
        assert fit.gap <= TOLERANCE
        assert fit.loss == pytest.approx(
            fit_logistic(features, labels, 3, penalty, 1e-12).loss, rel=TOLERANCE
        )


# ---------------------------------------------------------------- whatever is solved together, and wherever


def splits(spread: float = 0.7) -> list[Any]:
    parts = []
    for seed in (1, 2, 3):
        rng, means = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(4, 15))
        labels = np.arange(160) % 4
        parts.append(
            (torch.from_numpy(rng.normal(size=(160, 15)) + spread * means[labels]), torch.from_numpy(labels))
        )
    return parts


def test_neither_batches_of_penalties_nor_blocks_of_samples_change_the_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, validation, test = splits()
    wanted = linear_probe(train, test, validation=validation, num_penalties=25)
    monkeypatch.setattr(path_module, "_CPU_ENTRIES", 1)
    monkeypatch.setattr(objective_module, "block_elements", lambda _: 1)
    found = linear_probe(train, test, validation=validation, num_penalties=25)
    assert (found.accuracy, found.penalty) == (wanted.accuracy, wanted.penalty)
    assert found.validation == wanted.validation
    # The refit to 1e-10: weights to about 1e-5.
    np.testing.assert_allclose(found.classifier.weight, wanted.classifier.weight, rtol=1e-4, atol=1e-6)


def test_a_class_may_be_missing_from_validation() -> None:
    train, validation, test = splits()
    kept = validation[1] != 3
    for score in ("top1", "mean_per_class"):
        found = linear_probe(
            train, test, validation=(validation[0][kept], validation[1][kept]), num_penalties=9, score=score
        )
        assert 0.5 < found.accuracy <= 1
        assert len(found.classifier.classes) == 4


@accelerators
@pytest.mark.parametrize("has_validation", [True, False])
def test_an_accelerator_gives_the_same_probe(accelerator: str, has_validation: bool) -> None:
    train, validation, test = splits()
    held: dict[str, Any] = {"validation": validation} if has_validation else {}
    wanted = linear_probe(train, test, num_penalties=7, **held)
    with putting_on(accelerator) as put:
        # Train samples decide where the probe is computed.
        found = linear_probe(moved(train, put), test, num_penalties=7, **held)
    assert (found.accuracy, found.penalty) == (wanted.accuracy, wanted.penalty)
    assert found.validation == wanted.validation
    np.testing.assert_allclose(found.classifier.weight, wanted.classifier.weight, rtol=1e-4, atol=1e-6)


def moved(samples: Any, put: Put) -> Any:
    return put(samples[0]), put(samples[1])


@pytest.mark.parametrize("penalty", [1e-6, 1e-4])
def test_a_start_that_is_worse_than_none_is_not_used(penalty: float) -> None:
    """A feature hardly varies where the start was found; its weight, in units of the feature, is then enormous."""
    labels = torch.arange(200) % 4
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator, dtype=torch.float64) + 0.3 * labels[:, None]
    features[:, 5] = 0
    features[3, 5], features[180, 5] = 1e-6, 1.0
    first = LogisticPath(features[:160], labels[:160], 4, standardize=True).fit(penalty)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = LogisticPath(features, labels, 4, standardize=True, start=first).fit(penalty, 1e-10)
    alone = LogisticPath(features, labels, 4, standardize=True).fit(penalty, 1e-10)
    assert again.gap <= 1e-9
    assert again.loss == pytest.approx(alone.loss, rel=1e-9)
