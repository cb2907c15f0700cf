"""The leading spectrum from a sketch: bounds that always hold, and estimates that are good after a second pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from collapselab.data import load_digits
from collapselab.models import MLP
from collapselab.statistics import SketchedSpectrum, SketchRefinement, nystrom
from helpers import EPS32, EPS64, accumulate, assert_close, uneven_labels

# Four roundings (row, weight, Omega, inner product) and two sums.
PRODUCT_EPS = {torch.float32: 8 * EPS32, torch.float64: 8 * EPS64}
# Shapes are refused by the run-time checks of annotations first, where they are on.
REFUSED = (ValueError, jaxtyping.TypeCheckError)
SIZES = [1, 3, 32, 200, 1500]


@cache
def spectrum_of(kind: str, p: int) -> np.ndarray:
    """Eigenvalues, largest first."""
    j = np.arange(p)
    spectra = {
        # Marchenko-Pastur: what white noise in as many features as samples gives.
        "noise": lambda: np.linalg.svd(np.random.default_rng(0).standard_normal((p, p)))[1] ** 2 / p,
        "power law": lambda: (1.0 + j) ** -1.0,
        "exponential": lambda: np.exp(-j / 4.0),
        "low rank": lambda: np.where(j < 5, 1.0 / (1 + j), 0.0),
        "spike": lambda: np.where(j == 0, 20.0, 1.0),
        "equal": lambda: np.ones(p),
    }
    return spectra[kind]()


SPECTRA = ["noise", "power law", "exponential", "low rank", "spike", "equal"]
# With these, what 32 columns leave out weighs little against the largest eigenvalue, or is far below it.
DECAYING = ["power law", "exponential", "low rank", "spike"]


@dataclass
class Reflected:
    """S = H diag(spectrum) H with the Householder reflection H = I - 2 v v^T: no p x p matrix."""

    spectrum: np.ndarray
    seed: int = 0

    def __post_init__(self) -> None:
        self.v = np.random.default_rng(self.seed).standard_normal(len(self.spectrum))
        self.v /= np.linalg.norm(self.v)

    @property
    def trace(self) -> float:
        return float(self.spectrum.sum())

    def reflect(self, columns: np.ndarray) -> np.ndarray:
        return columns - 2 * np.outer(self.v, self.v @ columns)

    def __matmul__(self, columns: np.ndarray) -> np.ndarray:
        return self.reflect(self.spectrum[:, None] * self.reflect(columns))


def rounded(scatter: Reflected, omega: np.ndarray, product_eps: float, towards: float = 0.0) -> np.ndarray:
    """S @ Omega with all the rounding that `product_eps` allows, in a common direction.

    `towards` is 1 for the leading eigenvector, -1 for away from it and 0 for a direction at random.
    """
    p, k = omega.shape
    leading = scatter.reflect(np.eye(p, 1))[:, 0]
    direction = leading[:, None] * np.sign(leading @ omega) * towards
    if towards == 0:
        direction = np.random.default_rng(1).standard_normal((p, k))
        direction /= np.linalg.norm(direction, axis=0)
    return scatter @ omega + product_eps * scatter.trace * np.linalg.norm(omega, axis=0) * direction


def gaussian(p: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 100).standard_normal((p, k))


def assert_covers(found: SketchedSpectrum, largest: float, trace: float) -> None:
    assert found.lower <= largest <= found.upper
    low, high = found.stable_rank_interval(trace)
    assert low <= trace / largest <= high
    assert low <= found.stable_rank(trace) <= high
    r = found.vectors.shape[1]
    assert len(found.values) == r
    assert_close(found.vectors.T @ found.vectors, np.eye(r), rel=1e-12, scale=1.0, why="singular vectors")


def two_passes(
    features: Tensor, labels: Tensor, *, k: int = 32, batch: int = 300
) -> tuple[SketchedSpectrum, SketchedSpectrum, float]:
    """First and refined spectrum of the sample-weighted within-class scatter, and its trace."""
    stats = accumulate(features, labels, "sketch", batch=batch, sketch_size=k)
    product_eps = PRODUCT_EPS[features.dtype]
    trace, sketch = stats.within_trace("sample"), stats.within_sketch("sample")
    first = nystrom(*sketch, trace, product_eps=product_eps)
    weights = torch.full((stats.num_classes,), 1 / len(labels), dtype=torch.float64)
    second = SketchRefinement(first.vectors, stats.class_means, weights)
    for start in range(0, len(labels), batch):
        second.update(features[start : start + batch], labels[start : start + batch])
    return first, second.result(trace, product_eps=product_eps, first=sketch), trace


def largest_and_trace(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Of the sample-weighted within-class scatter, in float64 and two passes."""
    deviations = features.double().clone()
    for label in range(int(labels.max()) + 1):
        members = labels == label
        deviations[members] -= deviations[members].mean(0)
    n, p = deviations.shape
    gram = deviations @ deviations.T if n < p else deviations.T @ deviations
    return float(torch.linalg.eigvalsh(gram)[-1]) / n, float(deviations.square().sum()) / n


# ---------------------------------------------------------------- declared spectra


@pytest.mark.parametrize("towards", [-1.0, 0.0, 1.0], ids=["away", "random", "towards"])
@pytest.mark.parametrize("dtype", PRODUCT_EPS, ids=str)
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("p", SIZES, ids="p{}".format)
def test_bounds_hold_under_the_worst_rounding(p: int, kind: str, dtype: torch.dtype, towards: float) -> None:
    scatter = Reflected(spectrum_of(kind, p))
    largest = float(scatter.spectrum.max())
    eps, omega = PRODUCT_EPS[dtype], gaussian(p, min(p, 32))
    sketch = rounded(scatter, omega, eps, towards)
    first = nystrom(torch.tensor(sketch), torch.tensor(omega), scatter.trace, product_eps=eps)
    assert_covers(first, largest, scatter.trace)
    vectors = first.vectors.numpy()
    both = (
        torch.tensor(np.hstack([sketch, rounded(scatter, vectors, eps, towards)])),
        torch.tensor(np.hstack([omega, vectors])),
    )
    refined = nystrom(*both, scatter.trace, product_eps=eps)
    assert_covers(refined, largest, scatter.trace)
    if kind in DECAYING:
        assert refined.stable_rank(scatter.trace) == pytest.approx(scatter.trace / largest, rel=0.02)
    # The rounding of 64 columns instead of 32 is the only way to lose.
    slack = 2000 * eps * scatter.trace
    assert refined.lower >= first.lower - slack
    assert refined.upper <= first.upper + slack


def test_bounds_are_close_where_the_spectrum_decays() -> None:
    for kind in ("exponential", "low rank"):
        scatter, omega = Reflected(spectrum_of(kind, 1500)), gaussian(1500, 32)
        sketch = torch.tensor(scatter @ omega)
        found = nystrom(sketch, torch.tensor(omega), scatter.trace, product_eps=EPS64)
        # 32 columns leave exp(-8) of the trace of exp(-j/4) out, times the loss of a random range.
        assert found.upper / found.lower < 1.01


@given(
    logs=st.lists(st.floats(-30, 0), min_size=1, max_size=40),
    k=st.integers(1, 45),
    seed=st.integers(0, 2**16),
    product_eps=st.sampled_from([EPS64, 8 * EPS32, 1e-4]),
    towards=st.sampled_from([-1.0, 0.0, 1.0]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_interval_covers(
    logs: list[float], k: int, seed: int, product_eps: float, towards: float, scale: float
) -> None:
    scatter = Reflected(scale * np.exp(np.sort(logs)[::-1]), seed)
    omega = gaussian(len(logs), k, seed)
    sketch = rounded(scatter, omega, product_eps, towards)
    found = nystrom(torch.tensor(sketch), torch.tensor(omega), scatter.trace, product_eps=product_eps)
    assert_covers(found, float(scatter.spectrum[0]), scatter.trace)


@given(seed=st.integers(0, 2**16), error=st.sampled_from([-1.0, 1.0]))
def test_a_trace_that_is_off_is_allowed_for(seed: int, error: float) -> None:
    scatter, omega = Reflected(spectrum_of("low rank", 50), seed), gaussian(50, 10, seed)
    trace = scatter.trace * (1 + error * 8 * EPS32)
    found = nystrom(torch.tensor(scatter @ omega), torch.tensor(omega), trace, product_eps=8 * EPS32)
    assert found.lower <= 1.0 <= found.upper
    low, high = found.stable_rank_interval(trace)
    assert low <= scatter.trace <= high


# ---------------------------------------------------------------- features


@pytest.mark.parametrize(
    ("p", "dtype"),
    [(p, dtype) for p in SIZES for dtype in PRODUCT_EPS if p <= 200 or dtype == torch.float32],
    ids=str,
)
@pytest.mark.parametrize("kind", SPECTRA)
def test_features_of_declared_spectra(kind: str, p: int, dtype: torch.dtype) -> None:
    """Both passes on rows about class means far from the origin, against the float64 spectrum of the same rows."""
    rng = np.random.default_rng(p)
    n = min(2 * p + 60, 800)
    labels = uneven_labels(rng, [n // 2, n // 4, n - n // 2 - n // 4])
    rows = rng.standard_normal((n, p)) * np.sqrt(spectrum_of(kind, p))
    rows = Reflected(np.ones(p)).reflect(rows.T).T + 30 * rng.standard_normal((3, p))[labels]
    features, targets = torch.tensor(rows).to(dtype), torch.tensor(labels)
    first, refined, trace = two_passes(features, targets)
    largest, exact_trace = largest_and_trace(features, targets)
    assert first.lower <= largest <= first.upper
    assert refined.lower <= largest <= refined.upper
    for found in (first, refined):
        low, high = found.stable_rank_interval(trace)
        # At one feature the quotient is one, give or take an ulp.
        assert low * (1 - EPS64) <= exact_trace / largest <= high * (1 + EPS64)
    if kind in DECAYING:
        assert refined.stable_rank(trace) == pytest.approx(exact_trace / largest, rel=0.02)


def test_rounding_of_the_products_is_within_what_is_declared() -> None:
    """All rows nearly equal and positive, about a mean of zero: sums that round in step, at rank one."""
    rng = np.random.default_rng(0)
    half = 1 + 0.01 * rng.random((4000, 64))
    features = torch.tensor(np.vstack([half, -half])).float()
    labels = torch.zeros(len(features), dtype=torch.int64)
    vectors = torch.full((64, 1), 0.125, dtype=torch.float64)
    refinement = SketchRefinement(
        vectors, torch.zeros(1, 64, dtype=torch.float64), torch.tensor([1 / 3], dtype=torch.float64)
    )
    refinement.update(features, labels)
    rows = features.double()
    expected = rows.T @ (rows @ vectors) / 3
    off = float(torch.linalg.vector_norm(refinement.total - expected))
    # With room: another processor sums in another order.
    assert off <= 2 * EPS32 * float(rows.square().sum()) / 3


# ---------------------------------------------------------------- trained and random networks


@cache
def hidden_layers(batch_norm: bool, trained: bool) -> list[Tensor]:
    """Hidden features of the training digits, wide layers; trained until nearly all are fitted."""
    train = load_digits().train
    torch.manual_seed(0)
    net = MLP(64, 10, width=512, depth=3, batch_norm=batch_norm)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150 if trained else 0):
        batch = torch.randint(len(train.labels), (100,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(train.inputs[batch]), train.labels[batch]).backward()
        optimizer.step()
    net.eval()
    layers, features = [], train.inputs
    with torch.no_grad():
        if trained:
            assert float((net(features).argmax(1) == train.labels).float().mean()) > 0.99
        for linear, norm in zip(net.layers, net.norms, strict=False):
            features = norm(linear(features)).relu()
            layers.append(features)
    return layers


@pytest.mark.parametrize("batch_norm", [True, False], ids=["batch norm", "plain"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "random"])
def test_every_hidden_layer(trained: bool, batch_norm: bool) -> None:
    labels = load_digits().train.labels
    for features in hidden_layers(batch_norm, trained):
        first, refined, trace = two_passes(features, labels)
        largest, exact_trace = largest_and_trace(features, labels)
        exact = exact_trace / largest
        for found in (first, refined):
            assert found.lower <= largest <= found.upper
            low, high = found.stable_rank_interval(trace)
            assert low <= exact <= high
        # Measured: 0.06 % at most, after up to 25 % from the first pass.
        assert refined.stable_rank(trace) == pytest.approx(exact, rel=0.02)


# ---------------------------------------------------------------- parts and order


def refinement(features: Tensor, labels: Tensor, order: Tensor, batch: int) -> SketchRefinement:
    means = torch.stack([features[labels == label].double().mean(0) for label in range(3)])
    vectors = torch.linalg.qr(torch.tensor(gaussian(features.shape[1], 6)))[0]
    out = SketchRefinement(vectors, means, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    for rows in order.split(batch):
        out.update(features[rows], labels[rows])
    return out


@pytest.mark.parametrize("dtype", PRODUCT_EPS, ids=str)
def test_parts_and_order_change_nothing_beyond_rounding(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(uneven_labels(rng, [100, 150, 50]))
    features = torch.tensor(100 + rng.standard_normal((300, 40))).to(dtype)
    whole = refinement(features, labels, torch.arange(300), 300).total
    why = "float32 sums in another order" if dtype == torch.float32 else "float64 sums in another order"
    shuffled = refinement(features, labels, torch.tensor(rng.permutation(300)), 7).total
    assert_close(shuffled, whole, rel=PRODUCT_EPS[dtype], why=why)
    merged = refinement(features, labels, torch.arange(120), 50)
    merged.add(refinement(features, labels, torch.arange(120, 300), 33))
    assert_close(merged.total, whole, rel=PRODUCT_EPS[dtype], why=why)


def test_the_second_pass_is_the_scatter_times_the_vectors() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(uneven_labels(rng, [100, 150, 50]))
    # The float32 mean of rows at 1e4 has three digits of their spread of 1.
    features = torch.tensor(1e4 + rng.standard_normal((300, 40))).float()
    found = refinement(features, labels, torch.arange(300), 64)
    deviations = features.double() - found.class_means[labels]
    expected = deviations.T @ (found.row_weights[labels][:, None] * (deviations @ found.vectors))
    assert_close(found.total, expected, rel=8 * EPS32, why="float32 products of rows centred before")


@pytest.mark.parametrize("size", [1e-30, 1e30], ids=str)
def test_features_whose_squares_leave_float32(size: float) -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(uneven_labels(rng, [100, 150, 50]))
    features = torch.tensor(rng.standard_normal((300, 40)))
    plain = refinement(features.float(), labels, torch.arange(300), 64).total
    sized = refinement((features * size).float(), labels, torch.arange(300), 64).total
    assert_close(sized / size / size, plain, rel=16 * EPS32, why="features rounded to float32 twice")
