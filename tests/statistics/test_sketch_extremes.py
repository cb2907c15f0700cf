"""Sketches of scatters at the limits: zero, of low rank, of any scale; and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_sketch import REFUSED, Reflected, assert_covers, gaussian, refinement, rounded, spectrum_of

from collapselab.statistics import SketchRefinement, nystrom
from helpers import EPS32, EPS64, assert_close, uneven_labels

# ---------------------------------------------------------------- extremes


@pytest.mark.parametrize("p", [1, 7])
def test_zero_scatter(p: int) -> None:
    zero, omega = torch.zeros(p, 3, dtype=torch.float64), torch.tensor(gaussian(p, 3))
    found = nystrom(zero, omega, 0.0, product_eps=8 * EPS32)
    assert (found.lower, found.upper, found.values.shape, found.vectors.shape) == (0.0, 0.0, (0,), (p, 0))
    with pytest.raises(ValueError, match="no stable rank"):
        found.stable_rank(0.0)
    features, labels = torch.ones(4, p), torch.zeros(4, dtype=torch.int64)
    second = SketchRefinement(
        found.vectors, torch.ones(1, p, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    )
    second.update(features, labels)
    assert second.result(0.0, product_eps=8 * EPS32, first=(zero, omega)).upper == 0.0


def test_no_columns_leave_the_trivial_bounds() -> None:
    none = torch.zeros(4, 0, dtype=torch.float64)
    found = nystrom(none, none, 2.0, product_eps=EPS64)
    assert_close([found.lower, found.upper], [0.5, 2.0], rel=1e-13, why="Tr / p and Tr")
    columns = torch.zeros(4, 2, dtype=torch.float64)
    assert nystrom(columns, columns, 2.0, product_eps=EPS64).upper == found.upper


def test_one_feature() -> None:
    found = nystrom(
        torch.tensor([[-6.0]]).double(), torch.tensor([[-2.0]]).double(), 3.0, product_eps=8 * EPS32
    )
    assert found.stable_rank(3.0) == 1.0
    assert found.upper - found.lower < 64 * EPS32 * 3.0


@pytest.mark.parametrize("k", [8, 32, 50], ids="k{}".format)
def test_rank_below_the_columns(k: int) -> None:
    """Every eigenvalue is found, and no other."""
    scatter = Reflected(spectrum_of("low rank", 32))
    omega = torch.tensor(gaussian(32, k))
    found = nystrom(torch.tensor(scatter @ omega.numpy()), omega, scatter.trace, product_eps=EPS64)
    assert_close(
        found.values, scatter.spectrum[:5], rel=1e-10, why="the shift, 1e-14 times a condition number"
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30], ids=str)
def test_scales(scale: float) -> None:
    one, omega = Reflected(spectrum_of("power law", 100)), torch.tensor(gaussian(100, 16))
    sketch = torch.tensor(one @ omega.numpy())
    plain = nystrom(sketch, omega, one.trace, product_eps=EPS64)
    sized = nystrom(scale * sketch, omega, scale * one.trace, product_eps=EPS64)
    assert_close(sized.values / scale, plain.values, rel=1e-12, why="the scale is rounded")
    assert_close(
        [sized.lower / scale, sized.upper / scale], [plain.lower, plain.upper], rel=1e-12, why="same"
    )


def test_columns_that_are_nearly_dependent() -> None:
    """Two blocks that nearly coincide, columns of any size, and one column of zeros."""
    scatter = Reflected(spectrum_of("exponential", 60))
    omega = gaussian(60, 10)
    once = nystrom(torch.tensor(scatter @ omega), torch.tensor(omega), scatter.trace, product_eps=EPS64)
    omega = np.hstack([omega, 1e8 * (omega + 1e-9 * gaussian(60, 10, 1)), np.zeros((60, 1))])
    for product_eps in (EPS64, 8 * EPS32):
        sketch = torch.tensor(rounded(scatter, omega, product_eps))
        found = nystrom(sketch, torch.tensor(omega), scatter.trace, product_eps=product_eps)
        assert_covers(found, 1.0, scatter.trace)
        # The second block adds nothing: its differences from the first are below what rounding left of them.
        assert float(found.values[0]) == pytest.approx(float(once.values[0]), rel=1e-3)


# ---------------------------------------------------------------- refusals


def test_what_is_refused() -> None:
    ones = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(REFUSED):
        nystrom(ones, ones[:, :1], 1.0, product_eps=EPS64)
    with pytest.raises(ValueError, match="NaN"):
        nystrom(ones * math.nan, ones, 1.0, product_eps=EPS64)
    for trace, product_eps in [(-1.0, EPS64), (math.nan, EPS64), (1.0, -1.0), (1.0, 1.0)]:
        with pytest.raises(ValueError, match="trace must be finite"):
            nystrom(ones, ones, trace, product_eps=product_eps)


def test_the_features_are_only_read() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(uneven_labels(rng, [20, 20, 20]))
    features = torch.tensor(rng.standard_normal((60, 5)))
    before = features.clone()
    refinement(features, labels, torch.arange(60), 60).update(features, labels)
    assert torch.equal(features, before)


def test_what_the_second_pass_refuses() -> None:
    vectors, weights = torch.eye(3, 2).double(), torch.ones(2).double()
    refinement = SketchRefinement(vectors, torch.zeros(2, 3).double(), weights)
    with pytest.raises(REFUSED):
        SketchRefinement(vectors, torch.zeros(2, 4).double(), weights)
    with pytest.raises(REFUSED):
        refinement.update(torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels go from 0 to 2"):
        refinement.update(torch.ones(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="different vectors"):
        refinement.add(SketchRefinement(vectors.flip(1), torch.zeros(2, 3).double(), weights))
    refinement.update(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64))
    refinement.update(torch.tensor([[1.0, math.inf, 0.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        refinement.result(1.0, product_eps=EPS64)


def test_half_precision_features_are_raised_to_float32() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(uneven_labels(rng, [100, 150, 50]))
    features = torch.tensor(rng.standard_normal((300, 40))).bfloat16()
    half = refinement(features, labels, torch.arange(300), 64).total
    assert torch.equal(half, refinement(features.float(), labels, torch.arange(300), 64).total)
