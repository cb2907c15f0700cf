"""Logistic regression against scikit-learn, against its own gradient in plain float64, and against closed forms."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from collapselab import InputError
from collapselab.data import load_digits
from collapselab.transfer import LogisticPath, fit_logistic
from collapselab.transfer.logistic import TOLERANCE

N, P, C = 90, 12, 4
# Of the objective: weights then have about six digits.
TIGHT = 1e-13


def draw(seed: int, n: int = N, p: int = P, spread: float = 1.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % C
    features = (
        rng.normal(size=(n, p)) * np.geomspace(10, 0.01, p) + spread * rng.normal(size=(C, p))[labels] + 5.0
    )
    return torch.from_numpy(features), torch.from_numpy(labels)


def objective_gradient(
    features: Any, labels: Any, weight: Any, bias: Any, penalty: float
) -> tuple[float, float, float]:
    """The objective and its gradient's norms, written from the definition."""
    x, y, w, b = (np.asarray(value, dtype=np.float64) for value in (features, labels, weight, bias))
    scores = x @ w.T + b
    scores -= scores.max(1, keepdims=True)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(x)), y.astype(int)]).mean() + 0.5 * penalty * (w**2).sum()
    residual = p - np.eye(C)[y.astype(int)]
    return (
        float(loss),
        float(np.abs(residual.T @ x / len(x) + penalty * w).max()),
        float(np.abs(residual.mean(0)).max()),
    )


@pytest.mark.parametrize("shape", [(90, 12), (40, 100)], ids=["more samples", "more features"])
@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 1.0, 1e3])
def test_the_solution_is_that_of_scikit_learn(penalty: float, shape: tuple[int, int]) -> None:
    features, labels = draw(1, *shape)
    ours = fit_logistic(features, labels, C, penalty, TIGHT)
    centred = (features - features.mean(0)).numpy()  # far from the origin it needs many thousand iterations
    theirs = LogisticRegression(C=1 / (len(labels) * penalty), tol=1e-12, max_iter=100_000).fit(
        centred, labels
    )
    # Both stop at a gradient of about 1e-8; the curvature is at least the penalty.
    np.testing.assert_allclose(ours.weight.numpy(), theirs.coef_, atol=2e-5 * np.abs(theirs.coef_).max())
    np.testing.assert_array_equal(ours.predict(features).numpy(), theirs.predict(centred))


@pytest.mark.parametrize("penalty", [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e6])
def test_the_gradient_is_zero_at_the_solution(penalty: float) -> None:
    features, labels = draw(2)
    found = fit_logistic(features, labels, C, penalty, TIGHT)
    loss, of_weight, of_bias = objective_gradient(features, labels, found.weight, found.bias, penalty)
    assert found.loss == pytest.approx(loss, rel=1e-9)
    # Features are up to 50, the gradient at zero weights about that.
    assert of_weight < 2e-4 * float(features.abs().max())
    assert of_bias < 1e-6
    assert found.gradient < 1e-5


@pytest.mark.parametrize("penalty", [1e-6, 1e-3])
def test_no_other_classifier_is_better(penalty: float) -> None:
    features, labels = draw(3, spread=20.0)  # separable
    found = fit_logistic(features, labels, C, penalty)
    rng = np.random.default_rng(0)
    for size in (1e-2, 1.0):  # nearer ones differ by what the tolerance leaves
        weight = found.weight.numpy() * (1 + size * rng.normal(size=found.weight.shape))
        bias = found.bias.numpy() + size * rng.normal(size=C)
        assert objective_gradient(features, labels, weight, bias, penalty)[0] > found.loss


def test_a_huge_penalty_leaves_the_class_frequencies() -> None:
    features, _ = draw(4)
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 15 + [3] * 5)
    found = fit_logistic(features, labels, C, 1e9)
    assert float(found.weight.abs().max()) < 1e-6
    scores = found.bias.numpy() + features.mean(0).numpy() @ found.weight.numpy().T
    np.testing.assert_allclose(
        np.exp(scores) / np.exp(scores).sum(), np.array([50, 20, 15, 5]) / 90, rtol=1e-6
    )


@given(st.integers(0, 1000), st.sampled_from([1e-4, 1e-1, 10.0]))
def test_rotating_and_shifting_the_features_changes_no_score(seed: int, penalty: float) -> None:
    features, labels = draw(seed)
    rng = np.random.default_rng(seed)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(P, P)))[0])
    moved = features @ rotation + torch.from_numpy(rng.normal(size=P))
    one, other = (fit_logistic(rows, labels, C, penalty, TIGHT) for rows in (features, moved))
    assert one.loss == pytest.approx(other.loss, rel=1e-8)
    a, b = features @ one.weight.T + one.bias, moved @ other.weight.T + other.bias
    # Weights are as far from the optimum as the root of the gap.
    np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-4 * float(a.abs().max()))


def test_a_path_ends_where_a_fresh_fit_does() -> None:
    features, labels = draw(5)
    path = LogisticPath(features, labels, C)
    for penalty in (1e4, 1.0, 1e-2, 1e-5):
        warm, cold = path.fit(penalty), fit_logistic(features, labels, C, penalty)
        assert warm.loss == pytest.approx(cold.loss, rel=TOLERANCE)


def test_features_that_are_constant_or_repeat_are_no_matter() -> None:
    features, labels = draw(6)
    padded = torch.cat([features, torch.full((N, 3), 7.0, dtype=torch.float64), torch.zeros(N, 2)], dim=1)
    one, other = fit_logistic(features, labels, C, 0.1), fit_logistic(padded, labels, C, 0.1)
    assert one.loss == pytest.approx(other.loss, rel=1e-8)
    assert float(other.weight[:, P:].abs().max()) == 0


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(penalty: float) -> None:
    features, labels = draw(0)
    with pytest.raises(InputError, match="penalty"):
        fit_logistic(features, labels, C, penalty)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(N, dtype=torch.long), "one class"),
        (torch.arange(N) % 5, "give 0 to 3"),
        (torch.arange(N) % 4 - 1, "give 0 to 3"),
        (torch.arange(N - 1) % 4, "one of each"),
    ],
)
def test_wrong_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_logistic(draw(0)[0], labels, C, 1.0)


def test_real_digits_at_every_penalty_converge_without_a_warning() -> None:
    data = load_digits()
    path = LogisticPath(data.train.inputs, data.train.labels, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = [path.fit(penalty) for penalty in (1e6, 1e3, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)]
    accuracy = (fits[-3].predict(data.test.inputs) == data.test.labels).double().mean()
    assert float(accuracy) > 0.9
    assert all(a.loss >= b.loss for a, b in itertools.pairwise(fits))  # a smaller penalty costs less
