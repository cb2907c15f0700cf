"""Linear algebra the statistics and metrics share, each with its rank cut-off and its reason; precision and threads.

Letters: n samples, p features, c classes, r rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

EPS64 = torch.finfo(torch.float64).eps
EPS32 = torch.finfo(torch.float32).eps

# Below this width one product is faster than a triangle of narrower ones.
_MIN_PANEL_WIDTH = 128
_MAX_PANELS = 8


@contextmanager
def full_precision_products(device: torch.device) -> Iterator[None]:
    """Run float32 matrix products in float32, whatever the process-wide switches say.

    TF32 (CUDA) and bfloat16 (oneDNN) "fast" float32 products keep 10 or 7 bits of mantissa, and
    autocast replaces the product's dtype altogether; a scatter matrix survives none of them. The
    switches are put back on the way out.
    """
    backend = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}.get(device.type)
    matmul = getattr(backend, "matmul", None)
    has_switch = hasattr(matmul, "fp32_precision")
    legacy = None
    before = None
    if has_switch:
        assert matmul is not None
        before = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
    else:  # torch < 2.9 has only the process-wide switch
        legacy = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    autocast = (
        torch.autocast(device.type, enabled=False)
        if torch.amp.is_autocast_available(device.type)
        else nullcontext()
    )
    try:
        with autocast:
            yield
    finally:
        if has_switch:
            assert matmul is not None
            matmul.fp32_precision = before
        else:
            assert legacy is not None
            torch.set_float32_matmul_precision(legacy)


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Use this many CPU threads in torch, BLAS and OpenMP, on which the last digits depend; None for as many as before.

    The numbers from before are restored on the way out.
    """
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def add_gram_(total: Float[Tensor, "p p"], rows: Float[Tensor, "n p"], scale: float = 1.0) -> None:
    """Add `scale * rows.T @ rows` to the upper block triangle of `total`, in place.

    Only panels on and above the diagonal are multiplied: close to half the work of the full product.
    What lies below the diagonal panels is left stale; read the result through `symmetrized`.
    """
    dim = rows.shape[1]
    num_panels = max(1, min(_MAX_PANELS, dim // _MIN_PANEL_WIDTH))
    width = -(-dim // num_panels)
    for start in range(0, dim, width):
        stop = min(start + width, dim)
        panel = rows[:, start:stop].T @ rows[:, start:]
        add_converted_(total[start:stop, start:], panel, scale)


def add_converted_(total: Float[Tensor, "a b"], addend: Float[Tensor, "a b"], scale: float = 1.0) -> None:
    """Add `scale * addend` to `total` in place, where `addend` has a narrower dtype.

    In slices, because the converted addend is a temporary: a small one is reused, a large one is
    fetched from the operating system page by page at every call.
    """
    if addend.dtype == total.dtype:
        total.add_(addend, alpha=scale)
        return
    step = max(1, 2**16 // addend.shape[1])
    for start in range(0, len(addend), step):
        total[start : start + step].add_(addend[start : start + step], alpha=scale)


def symmetrized(upper: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
    """The symmetric matrix whose upper triangle is that of `upper`; a new tensor."""
    full = torch.triu(upper)
    return full.add_(torch.triu(upper, diagonal=1).T)


def power_of_two_near(value: float) -> float:
    """The largest power of two not above `value` (> 0); scaling by it is exact."""
    return 2.0 ** int(torch.frexp(torch.tensor(value, dtype=torch.float64)).exponent.item() - 1)


@dataclass
class ThinSVD:
    """Singular values (largest first) and right-singular vectors kept by a rank cut-off.

    Attributes:
        values: kept singular values, length r.
        leading: the first so many right-singular vectors as columns, p x k, made when asked for.
        num_dropped: how many of the largest `max_rank` values fell below the cut-off.
        cutoff: the cut-off, relative to the largest value.
    """

    values: Float[Tensor, " r"]
    leading: Callable[[int], Float[Tensor, "p k"]]
    num_dropped: int
    cutoff: float

    @property
    def rank(self) -> int:
        return self.values.shape[0]

    @cached_property
    def right(self) -> Float[Tensor, "p r"]:
        """All kept right-singular vectors as columns."""
        return self.leading(self.rank)


def thin_svd(matrix: Float[Tensor, "c p"], *, max_rank: int, cutoff: float) -> ThinSVD:
    """The right-singular side of `matrix` (c x p, float64), at most `max_rank` values, none below
    `cutoff` times the largest.

    A tall matrix is first reduced to its triangular factor: same right side, p x p memory.
    """
    if matrix.shape[0] > matrix.shape[1]:
        matrix = torch.linalg.qr(matrix, mode="r")[1]
    _, values, right_t = torch.linalg.svd(matrix, full_matrices=False)
    values, right_t = values[:max_rank], right_t[:max_rank]
    largest = float(values[0]) if values.numel() else 0.0
    keep = int((values > cutoff * largest).sum()) if largest > 0 else 0
    kept = right_t[:keep].T
    return ThinSVD(values[:keep], lambda k: kept[:, :k], values.shape[0] - keep, cutoff)


# Gram matrices and Cholesky factors square a condition number. They are used only for sizes at which they save time,
# and only where that leaves ten digits, or as many as a float32 matrix has itself: of values above the cut-off, the
# square of a small one is good to eps64 / cutoff^2.
_MAX_SAFE_CONDITION = 1e6
_MIN_SIZE = 256
_MIN_GRAM_CUTOFF = 1e-4


def thin_svd_by_gram(matrix: Float[Tensor, "c p"], *, cutoff: float) -> ThinSVD | None:
    """`thin_svd` of a large `matrix` from the eigenvectors of its smaller Gram matrix, in a fifth of the time.

    Returns:
        None where that would lose accuracy (singular values below 1e-3 of the largest that a small `cutoff` keeps) or
        save nothing.
    """
    c, p = matrix.shape
    if min(c, p) < _MIN_SIZE or cutoff**2 < EPS64:
        return None
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if c <= p else matrix.T @ matrix)
    smallest, largest = float(squares[0]), float(squares[-1])
    if not (largest > 0 and (cutoff >= _MIN_GRAM_CUTOFF or smallest * _MAX_SAFE_CONDITION > largest)):
        return None
    values, vectors = squares.clamp_min(0.0).flip(0).sqrt(), vectors.flip(1)
    keep = int((values > cutoff * values[0]).sum())

    def leading(k: int) -> Tensor:
        return (matrix.T @ vectors[:, :k]) / values[:k] if c <= p else vectors[:, :k]

    return ThinSVD(values[:keep], leading, len(values) - keep, cutoff)


def well_conditioned_inverse_root(matrix: Float[Tensor, "p p"]) -> Float[Tensor, "p p"] | None:
    """R with matrix^-1 = R R^T for a large, well-conditioned positive definite `matrix` of unit diagonal.

    A Cholesky factor, in a fifth of the time of an eigen-decomposition.

    Returns:
        None where the smallest eigenvalue could be below 1e-6, or where it would save nothing.
    """
    if len(matrix) < _MIN_SIZE:
        return None
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        return None
    inverse = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    del matrix
    root = torch.linalg.solve_triangular(factor, inverse, upper=False, out=inverse).T
    # The trace of the inverse bounds the inverse of the smallest eigenvalue from above.
    return root if float(root.square().sum()) < _MAX_SAFE_CONDITION else None


def gram_norm(matrix: Float[Tensor, "c p"]) -> float:
    """Frobenius norm of M M^T (and of M^T M), from the smaller of the two."""
    c, p = matrix.shape
    return float(torch.linalg.matrix_norm(matrix @ matrix.T if c <= p else matrix.T @ matrix))


def descending_eigenvalues(matrix: Float[Tensor, "p p"]) -> Float[Tensor, " p"]:
    """Eigenvalues of a positive semi-definite `matrix`, largest first, rounding below zero clipped."""
    return torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0.0)


def largest_eigenvalue(matrix: Float[Tensor, "p p"]) -> float:
    """The largest eigenvalue of a positive semi-definite `matrix`, to rounding.

    Of a large one by Lanczos iteration to full precision (ARPACK), at a tenth of the time of all eigenvalues; these
    where it does not converge.
    """
    if len(matrix) >= _MIN_SIZE:
        from scipy.sparse.linalg import ArpackError, eigsh

        scale = float(matrix.diagonal().sum())
        if not scale > 0:
            return 0.0
        array = (matrix / scale).cpu().numpy()
        # Any start will do that is not orthogonal to the eigenvector; a seeded one gives the same bits again.
        start = np.random.default_rng(0).standard_normal(len(array))
        try:
            found = eigsh(array, k=1, which="LA", tol=0, v0=start, return_eigenvectors=False)
        except ArpackError:  # of which no convergence is a kind
            pass
        else:
            return max(float(found[0]), 0.0) * scale
    return float(torch.linalg.eigvalsh(matrix)[-1].clamp_min(0.0))


def principal_angle_cosines(first: Float[Tensor, "p k"], second: Float[Tensor, "p k"]) -> Float[Tensor, " k"]:
    """Cosines of the principal angles between two column spans given by orthonormal bases.

    Bjorck and Golub (1973): the singular values of `first.T @ second`, largest first.
    """
    return torch.linalg.svdvals(first.T @ second).clamp_max(1.0)


@lru_cache(maxsize=256)
def expected_random_alignment(k: int, dim: int) -> float:
    """E of the mean cosine of the principal angles between two random k-dimensional subspaces of R^dim.

    One subspace can be the first k axes; the other is spanned by a Gaussian matrix, whose first k rows are A and whose
    others enter through their Gram matrix alone, a Wishart matrix L L^T (Bartlett 1934). With A = Q R and T the
    Cholesky factor of A^T A + L L^T the cosines are the singular values of A T^-T. Averaged over so
    many seeded draws that it is good to about 1 %.

    Raises:
        ValueError: not 1 <= k <= dim.
    """
    if not 1 <= k <= dim:
        raise ValueError(f"a subspace of dimension {k} does not exist in dimension {dim}")
    rest = dim - k
    if rest == 0:
        return 1.0
    generator = np.random.default_rng(0)
    cosines = []
    for _ in range(max(4, 3000 // k)):
        first = generator.standard_normal((k, k))
        if rest >= k:
            factor = np.tril(generator.standard_normal((k, k)), -1)
            np.fill_diagonal(factor, np.sqrt(generator.chisquare(rest - np.arange(k))))
        else:
            factor = generator.standard_normal((k, rest))
        root = np.linalg.cholesky(first.T @ first + factor @ factor.T)
        cosines.append(np.linalg.svd(np.linalg.solve(root, first.T), compute_uv=False).mean())
    return float(min(np.mean(cosines), 1.0))
