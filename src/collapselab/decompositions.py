"""Singular values, eigenvalues and angles between subspaces, each function with its rank cut-off and the reason for it.

Letters: n samples, p features, c classes, r rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.numerics import EPS64, add_gram_, one_blas_thread_of_scipy

# Gram matrices and Cholesky factors square a condition number. They are used only for sizes at which they save time,
# and only where the result still has ten digits, or as many as a float32 matrix has itself: the square of a value just
# above the cut-off is accurate to eps64 / cutoff^2.
_MAX_SAFE_CONDITION = 1e6
_MIN_SIZE, _MIN_SIZE_OF_ACCELERATORS = 256, 64
_MIN_GRAM_CUTOFF = 1e-4
_MIN_SQUARED_COSINE = 1e-10


def _is_small(size: int, device: torch.device) -> bool:
    return size < (_MIN_SIZE if device.type == "cpu" else _MIN_SIZE_OF_ACCELERATORS)


@dataclass
class ThinSVD:
    """Singular values above a rank cut-off, largest first, and their right-singular vectors.

    Attributes:
        values: singular values above the cut-off, length r.
        leading: function that returns the first k right-singular vectors as columns, p x k.
        num_dropped: how many of the largest `max_rank` values are below the cut-off.
        cutoff: the cut-off, relative to the largest value.
        complement: function that returns a basis of the directions orthogonal to all right-singular vectors, p x (p-r);
            None where it takes no less time than the vectors.
    """

    values: Float[Tensor, " r"]
    leading: Callable[[int], Float[Tensor, "p k"]]
    num_dropped: int
    cutoff: float
    complement: Callable[[], Float[Tensor, "p d"]] | None = None

    @property
    def rank(self) -> int:
        return self.values.shape[0]

    def on(self, device: torch.device) -> ThinSVD:
        """Return the same on another device."""
        if self.values.device == device:
            return self
        found = self.complement
        return replace(
            self,
            values=self.values.to(device),
            leading=lambda k: self.leading(k).to(device),
            complement=None if found is None else lambda: found().to(device),
        )

    @cached_property
    def right(self) -> Float[Tensor, "p r"]:
        """All right-singular vectors of `values`, as columns."""
        return self.leading(self.rank)


def thin_svd(matrix: Float[Tensor, "c p"], *, max_rank: int, cutoff: float) -> ThinSVD:
    """Return singular values and right-singular vectors of `matrix` (c x p, float64).

    A tall matrix is first reduced to its triangular factor, which has the same ones and takes p x p memory.

    Args:
        max_rank: largest number of values.
        cutoff: values below this times the largest are dropped.
    """
    most = min(max_rank, *matrix.shape)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = torch.linalg.qr(matrix, mode="r")[1]
    if _is_small(len(matrix), matrix.device):
        _, values, right_t = torch.linalg.svd(matrix, full_matrices=False)
    else:
        values, right_t = _svd_by_grams(matrix, cutoff)
    # None of a matrix of zeros, whose largest value is not above the cut-off either.
    rank = int((values[:most] > cutoff * values[:1]).sum())
    right = right_t[:rank].T
    return ThinSVD(values[:rank], lambda k: right[:, :k], most - rank, cutoff)


def _svd_by_grams(
    matrix: Float[Tensor, "c p"], cutoff: float
) -> tuple[Float[Tensor, " r"], Float[Tensor, "r p"]]:
    """Return singular values, largest first, and right-singular vectors as rows, from eigenvectors of Gram matrices.

    The Gram matrix of all rows tells directions apart whose values are within a factor of 1000 of the largest. The other
    directions, without what is left in them of the first, have a Gram matrix of their own, and so on: as accurate as
    other methods where values are small, and to ten digits within such a group.

    Args:
        matrix: c <= p.
        cutoff: values below this times the largest may be left out.
    """
    scale = matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    rest, values, vectors = matrix / scale, [], []
    while not values or bool(torch.linalg.matrix_norm(rest) > cutoff * values[0][0]):
        squares, left = torch.linalg.eigh(rest @ rest.T)
        rotated = left.flip(1).T @ rest
        group, rest = rotated.tensor_split([int((squares * _MAX_SAFE_CONDITION >= squares[-1]).sum())])
        values.append(torch.linalg.vector_norm(group, dim=1))
        vectors.append(group / values[-1][:, None])
        rest = rest - (rest @ vectors[-1].T) @ vectors[-1]
    found, order = torch.cat(values).sort(descending=True)
    return found * scale, torch.cat(vectors)[order]


def thin_svd_by_gram(matrix: Float[Tensor, "c p"], *, cutoff: float) -> ThinSVD | None:
    """Return the same as `thin_svd`, from the eigenvectors of the smaller Gram matrix, in less than a fifth of the time.

    Returns:
        The singular values and vectors; None where this would lose accuracy (singular values below 1e-3 of the largest
        but above a small `cutoff`) or save no time.
    """
    c, p = matrix.shape
    if _is_small(min(c, p), matrix.device) or cutoff**2 < EPS64:
        return None
    wide = c < p
    rows = matrix.T if wide else matrix
    upper = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_gram_(upper, rows)
    gram = _Tridiagonal(upper)
    squares = gram.values
    smallest, largest = torch.stack([squares[0], squares[-1]]).tolist()
    if not (largest > 0 and (cutoff >= _MIN_GRAM_CUTOFF or smallest * _MAX_SAFE_CONDITION > largest)):
        return None
    values = squares.clamp_min(0.0).flip(0).sqrt()
    size, rank = len(values), int((values > cutoff * values[0]).sum())

    @cache
    def leading(k: int) -> Tensor:
        vectors = gram.vectors(size - k, size).flip(1)
        return (matrix.T @ vectors) / values[:k] if wide else vectors

    complement = None if wide else lambda: gram.vectors(0, size - rank)
    return ThinSVD(values[:rank], leading, size - rank, cutoff, complement)


class _Tridiagonal:
    """All eigenvalues of a symmetric matrix, ascending, and the eigenvectors that are asked for.

    On a CPU the matrix is made tridiagonal (LAPACK's `sytrd`), whose eigenvalues and single eigenvectors take little time:
    a third of a full decomposition. An accelerator computes all of them at once.

    Args:
        upper: the matrix, of which only the upper triangle is read; overwritten.
    """

    def __init__(self, upper: Float[Tensor, "p p"]) -> None:
        self._all: Tensor | None = None
        if upper.device.type != "cpu":
            self.values, self._all = torch.linalg.eigh(upper, UPLO="U")
            return
        with one_blas_thread_of_scipy(len(upper)):
            self._reduce(upper.numpy())

    def _reduce(self, upper: np.ndarray) -> None:
        from scipy.linalg import eigh_tridiagonal, get_lapack_funcs

        reduce, room, self._turn = get_lapack_funcs(("sytrd", "sytrd_lwork", "ormqr"), (upper,))
        work = int(room(len(upper), lower=1)[0])
        reflectors, self._diagonal, self._beside, self._factors, _ = reduce(
            upper.T, lower=1, lwork=work, overwrite_a=1
        )
        self._reflectors = np.asfortranarray(reflectors[1:, :-1])
        values = eigh_tridiagonal(self._diagonal, self._beside, eigvals_only=True, lapack_driver="sterf")
        self.values = torch.from_numpy(values)

    def vectors(self, start: int, stop: int) -> Float[Tensor, "p k"]:
        """Return the eigenvectors of the eigenvalues from `start` to `stop`, exclusive, as columns."""
        if self._all is not None:
            return self._all[:, start:stop]
        from scipy.linalg import eigh_tridiagonal

        if start >= stop:
            return self.values.new_zeros(len(self.values), 0)
        with one_blas_thread_of_scipy(len(self.values)):
            _, inner = eigh_tridiagonal(
                self._diagonal, self._beside, select="i", select_range=(start, stop - 1)
            )
            vectors = np.asfortranarray(inner)
            # `sytrd` leaves the first axis alone; its reflectors act on the others as those of a QR decomposition.
            work, inner = 64 * (stop - start), np.asfortranarray(vectors[1:])
            vectors[1:] = self._turn("L", "N", self._reflectors, self._factors, inner, work)[0]
        return torch.from_numpy(np.ascontiguousarray(vectors))


def well_conditioned_inverse_root(matrix: Float[Tensor, "p p"]) -> Float[Tensor, "p p"] | None:
    """Return R with matrix^-1 = R R^T for a large, well-conditioned positive definite `matrix` of unit diagonal.

    R is the inverse of a Cholesky factor, in a fifth of the time of an eigendecomposition.

    Returns:
        R; None where the smallest eigenvalue could be below 1e-6, or where this would save no time.
    """
    if _is_small(len(matrix), matrix.device):
        return None
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        return None
    inverse = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    del matrix
    root = torch.linalg.solve_triangular(factor, inverse, upper=False, out=inverse).T
    # The trace of the inverse bounds the inverse of the smallest eigenvalue from above.
    return root if float(root.square().sum()) < _MAX_SAFE_CONDITION else None


def descending_eigenvalues(matrix: Float[Tensor, "p p"]) -> Float[Tensor, " p"]:
    """Return the eigenvalues of a positive semi-definite `matrix`, largest first; negative rounding is clipped to 0."""
    return torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0.0)


def principal_angle_cosines(first: Float[Tensor, "p k"], second: Float[Tensor, "p k"]) -> Float[Tensor, " k"]:
    """Return the cosines of the principal angles between two column spans given by orthonormal bases.

    They are the singular values of `first.T @ second`, largest first (Bjorck and Golub 1973). Many of them are computed
    as roots of eigenvalues where these are large enough: the root s of a square is off by a few eps / s, so at most
    about 1e-10.
    """
    product = first.T @ second
    if not _is_small(len(product), product.device):
        squares = torch.linalg.eigvalsh(product.T @ product)
        if float(squares[0]) > _MIN_SQUARED_COSINE:
            return squares.flip(0).sqrt().clamp_max(1.0)
    return torch.linalg.svdvals(product).clamp_max(1.0)


@lru_cache(maxsize=256)
def expected_random_alignment(k: int, dim: int) -> float:
    """Return the expected mean cosine of the principal angles between two random k-dimensional subspaces of R^dim.

    One subspace can be the first k axes; the other is spanned by a Gaussian matrix, whose first k rows are A and whose
    other rows matter only through their Gram matrix, a Wishart matrix L L^T (Bartlett 1934). With T the Cholesky factor
    of A^T A + L L^T, the cosines are the singular values of A T^-T. The mean over seeded draws is accurate to about 1 %.

    Raises:
        ValueError: not 1 <= k <= dim.
    """
    if not 1 <= k <= dim:
        raise ValueError(f"a subspace of dimension {k} does not exist in dimension {dim}")
    rest = dim - k
    if rest == 0:
        return 1.0
    generator = np.random.default_rng(0)
    firsts, factors = [], []
    for _ in range(max(4, 3000 // k)):
        firsts.append(generator.standard_normal((k, k)))
        if rest >= k:
            factor = np.tril(generator.standard_normal((k, k)), -1)
            np.fill_diagonal(factor, np.sqrt(generator.chisquare(rest - np.arange(k))))
        else:
            factor = generator.standard_normal((k, rest))
        factors.append(factor)
    first, factor = np.stack(firsts), np.stack(factors)  # all small matrices at once
    root = np.linalg.cholesky(first.swapaxes(1, 2) @ first + factor @ factor.swapaxes(1, 2))
    cosines = np.linalg.svd(np.linalg.solve(root, first.swapaxes(1, 2)), compute_uv=False).mean(axis=1)
    return float(min(np.mean(cosines), 1.0))
