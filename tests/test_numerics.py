"""Linear algebra that statistics and metrics share."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch

from collapselab.decompositions import (
    descending_eigenvalues,
    expected_random_alignment,
    principal_angle_cosines,
    thin_svd,
)
from collapselab.numerics import (
    EPS64,
    add_converted_,
    add_gram_,
    full_precision_products,
    gram_norm,
    power_of_two_near,
    symmetrized,
)
from helpers import assert_close
from oracles import random_alignments


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 5, 127, 128, 257, 1100])
def test_gram_in_panels(dim: int) -> None:
    rows, total = draw(20, dim), torch.zeros(dim, dim, dtype=torch.float64).fill_diagonal_(1.0)
    add_gram_(total, rows, 0.5)
    add_gram_(total, rows, -2.0)
    expected = np.eye(dim) - 1.5 * rows.numpy().T @ rows.numpy()
    assert_close(symmetrized(total), expected, rel=1e-13, why="sums of 20 float64 products")


def test_symmetrized_reads_the_upper_triangle_only() -> None:
    upper = torch.tensor([[1.0, 2.0], [99.0, 3.0]])
    assert symmetrized(upper).tolist() == [[1.0, 2.0], [2.0, 3.0]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 70000), (5000, 33)], ids=str)
def test_adding_a_narrower_dtype(shape: tuple[int, int]) -> None:
    total, addend = draw(*shape), draw(*shape, seed=1).float()
    expected = total + addend.double() * 3.0
    add_converted_(total, addend, 3.0)
    assert torch.equal(total, expected)


@pytest.mark.parametrize(
    ("value", "power"), [(1.0, 1.0), (1.99, 1.0), (2.0, 2.0), (0.3, 0.25), (1e30, 2.0**99)]
)
def test_power_of_two_not_above(value: float, power: float) -> None:
    assert power_of_two_near(value) == power


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)], ids=str)
def test_thin_svd_is_the_right_side(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    svd = thin_svd(matrix, max_rank=min(shape), cutoff=1e-12)
    again = (svd.right * svd.values.square()) @ svd.right.T
    assert_close(again, matrix.T @ matrix, rel=1e-13, why="float64, a few dozen terms")
    assert svd.rank == min(shape)


def test_thin_svd_drops_below_the_cut_off_and_says_how_many() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-3, 1e-9, 1e-10, 0.0], dtype=torch.float64))
    svd = thin_svd(matrix, max_rank=4, cutoff=1e-6)
    assert (svd.rank, svd.num_dropped) == (2, 2)


def test_thin_svd_of_zeros_has_no_rank() -> None:
    assert thin_svd(torch.zeros(3, 4, dtype=torch.float64), max_rank=3, cutoff=0.1).rank == 0


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)], ids=str)
def test_gram_norm(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    assert float(gram_norm(matrix)) == pytest.approx(
        np.linalg.norm(matrix.numpy() @ matrix.numpy().T), rel=1e-14
    )


def test_eigenvalues_are_descending_and_not_negative() -> None:
    rows = draw(3, 6)
    values = descending_eigenvalues(rows.T @ rows)
    assert bool((values[:-1] >= values[1:]).all())
    assert float(values.min()) >= 0
    assert_close(values[:3], np.linalg.svd(rows.numpy(), compute_uv=False) ** 2, rel=1e-13, why="float64")


@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.5, np.pi / 2], ids=str)
def test_principal_angles(angle: float) -> None:
    first = torch.linalg.qr(draw(9, 3))[0]
    other = torch.linalg.qr(torch.cat([first, draw(9, 3, seed=1)], dim=1))[0][:, 3:]
    second = np.cos(angle) * first + np.sin(angle) * other
    expected = np.cos(scipy.linalg.subspace_angles(first.numpy(), second.numpy()))
    found = np.sort(principal_angle_cosines(first, second).numpy())
    assert_close(found, np.sort(expected), rel=20 * EPS64, scale=1.0, why="two products of unit vectors")
    assert found.max() <= 1.0


@pytest.mark.parametrize(
    ("k", "dim"), [(1, 2), (1, 500), (2, 3), (3, 4), (4, 8), (5, 9), (9, 10), (10, 64), (40, 60)]
)
def test_random_alignment_against_drawn_subspaces(k: int, dim: int) -> None:
    """Both sides of 2 k = p, where the Wishart factor is square or not."""
    drawn = random_alignments(k, dim, max(100, 3000 // k))
    value = expected_random_alignment(k, dim)
    # Four standard errors of the difference of two means of about as many draws.
    error = 4 * float(drawn.std()) * float(np.sqrt(1 / len(drawn) + 1 / max(4, 3000 // k)))
    assert abs(value - float(drawn.mean())) <= error
    assert error < 0.08 * value


def test_random_alignment_of_a_line_and_a_line_has_a_closed_form() -> None:
    """E |cos| of two directions: Gamma(p/2) / (sqrt(pi) Gamma((p + 1)/2))."""
    for p in (2, 3, 50):
        exact = np.exp(scipy.special.gammaln(p / 2) - scipy.special.gammaln((p + 1) / 2)) / np.sqrt(np.pi)
        # 3000 draws that vary by at most 0.76 of their mean: 4 standard errors.
        assert_close(expected_random_alignment(1, p), exact, rel=0.056, why="a mean of 3000 draws")


def test_random_alignment_of_whole_spaces_is_one() -> None:
    assert expected_random_alignment(7, 7) == 1.0


def test_random_alignment_is_the_same_at_every_call_and_draws_from_no_shared_generator() -> None:
    before = np.random.get_state()  # noqa: NPY002 (the shared generator is what must not move)
    first = expected_random_alignment(3, 17)
    expected_random_alignment.cache_clear()
    assert expected_random_alignment(3, 17) == first
    after = np.random.get_state()  # noqa: NPY002 (the shared generator)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("k", "dim"), [(0, 3), (4, 3), (-1, 2)])
def test_a_subspace_that_does_not_exist_is_refused(k: int, dim: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        expected_random_alignment(k, dim)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_switches_are_put_back(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision_products(torch.device("cpu")):
            pass
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_switches_are_put_back_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(RuntimeError, match="on purpose"), full_precision_products(torch.device("cpu")):
            raise RuntimeError("on purpose")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_is_off_inside_and_on_again_after() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision_products(torch.device("cpu")):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


# ---------------------------------------------------------------- shortcuts for many rows


SPREADS = {
    "wide": torch.logspace(0, -1, 299, dtype=torch.float64),
    "ill-conditioned": torch.logspace(0, -10, 299, dtype=torch.float64),
    "one far above": torch.cat([torch.tensor([1e5]), torch.linspace(1, 0.5, 298)]).double(),
    "a gap": torch.cat([torch.linspace(1, 0.5, 100), 1e-8 * torch.linspace(1, 0.5, 199)]).double(),
    "low rank": torch.cat([torch.linspace(1, 0.5, 50), torch.zeros(249)]).double(),
    "zero": torch.zeros(299, dtype=torch.float64),
}


@pytest.mark.parametrize("size", [1.0, 1e-170], ids=str)
@pytest.mark.parametrize("shape", [(300, 400), (400, 300)], ids=str)
@pytest.mark.parametrize("spread", list(SPREADS))
def test_thin_svd_of_many_rows(spread: str, shape: tuple[int, int], size: float) -> None:
    """As accurate as a decomposition of the rows themselves; like class means, these span one dimension less."""
    values = SPREADS[spread]
    left, right = (
        torch.linalg.qr(draw(side, len(values), seed=k))[0] for k, side in enumerate(sorted(shape))
    )
    matrix = (left * values) @ right.T * size
    matrix = matrix if shape[0] < shape[1] else matrix.T
    svd = thin_svd(matrix, max_rank=299, cutoff=400 * EPS64)
    rank = int((values > 0).sum())
    assert (svd.rank, svd.num_dropped) == (rank, 299 - rank)
    if rank == 0:
        return
    assert bool((svd.values.diff() <= 0).all())
    assert_close(
        svd.values / size, values[:rank], rel=1e-14, scale=float(values[0]), why="eps64 of the largest"
    )
    assert_close(
        svd.right.T @ svd.right, torch.eye(rank), rel=1e-9, scale=1.0, why="within a group, ten digits"
    )
    # What is off by eps64 of the largest value has so few digits.
    worst = 1e-12 + 20 * EPS64 * float(values[0] / values[rank - 1])
    axes = (right if shape[0] < shape[1] else left)[:, :rank]
    weights = draw(len(axes), seed=7).square()
    expected = (axes.square() * weights[:, None]).sum(0) @ values[:rank] ** -2
    found = (svd.right.square() * weights[:, None]).sum(0) @ (svd.values / size) ** -2
    assert_close(found, expected, rel=worst, why="a trace with the pseudo-inverse")


@pytest.mark.parametrize("smallest", [1e-2, 1e-7, 0.0], ids=str)
def test_many_principal_angles(smallest: float) -> None:
    """From squares where these are large enough, also at exactly right angles."""
    k = 260
    basis = torch.linalg.qr(draw(2 * k, 2 * k))[0]
    cosines = torch.linspace(1, smallest, k, dtype=torch.float64)
    second = basis[:, :k] * cosines + basis[:, k:] * (1 - cosines.square()).sqrt()
    turned = second @ torch.linalg.qr(draw(k, k, seed=1))[0]
    found = principal_angle_cosines(basis[:, :k], turned)
    assert_close(found, cosines, rel=1e-12, scale=1.0, why="eps64 over the smallest cosine")
