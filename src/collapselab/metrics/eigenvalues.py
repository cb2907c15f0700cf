"""The largest eigenvalue of a positive semi-definite matrix: on the CPU of one at a time, on an accelerator of many.

Letters: c matrices, p rows of each.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.numerics import EPS64, block_elements, one_blas_thread_of_scipy

# Smaller matrices are quicker to decompose than to iterate with.
_MIN_SIZE_OF_ARPACK = 256
# Up to the first size, products of all matrices at once are the quickest on an accelerator. Up to the second, a few
# squarings of a matrix cost less than the steps of an iteration that they save; beyond, its products with vectors do.
_MAX_SIZE_OF_SQUARING, _MAX_SIZE_OF_FEW_SQUARINGS = 1024, 4096
# 2^-46 / e is 5e-15. Five squarings stay in the range of float64: from a trace of 1 it stays above p^-31.
_BITS, _SQUARINGS_PER_SCALING = 46, 5
# The 64th power of 4096 is within the range of float64.
_FEW_SQUARINGS = 6
_TINY = torch.finfo(torch.float64).tiny
# The norm of a product of float64 vectors rounds by a few eps.
_LANCZOS_STEPS, _STEPS_PER_TEST, _LANCZOS_TOLERANCE = 400, 20, 64 * EPS64


def largest_eigenvalue(matrix: Float[Tensor, "p p"]) -> float:
    """Return the largest eigenvalue of a positive semi-definite `matrix`, to rounding."""
    return float(largest_eigenvalues(matrix[None])[0])


def largest_eigenvalues(stack: Float[Tensor, "c p p"]) -> Float[Tensor, " c"]:
    """Return the largest eigenvalue of each positive semi-definite matrix, to rounding.

    On an accelerator, values of matrices up to 1024 x 1024 are not read back.
    """
    if stack.device.type == "cpu":
        return stack.new_tensor([_largest_on_cpu(matrix) for matrix in stack])
    if stack.shape[1] <= _MAX_SIZE_OF_SQUARING:
        step = max(1, block_elements(stack.device) // stack.shape[1] ** 2)
        return torch.cat([_largest_by_squaring(part) for part in stack.split(step)])
    return torch.stack([_largest_of_large(matrix) for matrix in stack])


def _largest_on_cpu(matrix: Float[Tensor, "p p"]) -> float:
    """For a large matrix by Lanczos iteration to full precision (ARPACK), in a tenth of the time of all eigenvalues.

    These are the fallback if the iteration does not converge.
    """
    if len(matrix) >= _MIN_SIZE_OF_ARPACK:
        from scipy.sparse.linalg import ArpackError, eigsh

        scale = float(matrix.diagonal().sum())
        if not scale > 0:
            return 0.0
        array = (matrix / scale).numpy()
        # Any start vector that is not orthogonal to the eigenvector works; a seeded one makes results reproducible.
        start = np.random.default_rng(0).standard_normal(len(array))
        try:
            with one_blas_thread_of_scipy(len(array)):
                found = eigsh(array, k=1, which="LA", tol=0, v0=start, return_eigenvectors=False)
        except ArpackError:  # includes ArpackNoConvergence
            pass
        else:
            return max(float(found[0]), 0.0) * scale
    return float(torch.linalg.eigvalsh(matrix)[-1].clamp_min(0.0))


def _largest_by_squaring(stack: Float[Tensor, "c p p"]) -> Float[Tensor, " c"]:
    """Return Tr(A B) / Tr B for B = A^N, N = 2^k: a mean of eigenvalues l_i with weights l_i^N.

    It is below the largest by at most a share of (p - 1) / (e N), whatever the gaps: each other eigenvalue x times the
    largest takes at most x^N (1 - x) from it. Rounding acts like a relative change of A by a few eps, since that of the
    k-th squaring is divided by 2^k. B^T B is symmetric where B is not quite; B B would double what is not, each time.
    """
    power = stack / stack.diagonal(dim1=1, dim2=2).abs().amax(1).clamp_min(_TINY)[:, None, None]
    for step in range(_BITS + math.ceil(math.log2(stack.shape[1]))):
        power = torch.bmm(power.mT, power)
        if (step + 1) % _SQUARINGS_PER_SCALING == 0:
            power /= _trace(power)[:, None, None]
    along = torch.linalg.vecdot(stack.flatten(1), power.flatten(1))
    return (along / _trace(power)).clamp_min(0.0)


def _trace(stack: Float[Tensor, "c p p"]) -> Float[Tensor, " c"]:
    """Return the trace of each matrix, to divide by: not quite zero for a matrix of zeros."""
    return stack.diagonal(dim1=1, dim2=2).sum(1).clamp_min(_TINY)


def _largest_of_large(matrix: Float[Tensor, "p p"]) -> Float[Tensor, ""]:
    """By Lanczos iteration with A, or with a power of A: its eigenvalues lie farther apart and it converges in fewer steps.

    All eigenvalues are the fallback if the iteration does not converge.
    """
    scale = matrix.diagonal().abs().amax().clamp_min(_TINY)
    scaled = matrix / scale
    squarings = _FEW_SQUARINGS if len(matrix) <= _MAX_SIZE_OF_FEW_SQUARINGS else 0
    power = scaled  # its largest eigenvalue is between 1 and p
    for _ in range(squarings):
        power = power.mT @ power
    trace = _trace(power[None])[0]
    value = _largest_by_lanczos(power / trace, _LANCZOS_STEPS // (4 if squarings else 1), 2**squarings)
    if value is None:
        return scale * torch.linalg.eigvalsh(scaled)[-1].clamp_min(0.0)
    return scale * (value * trace).clamp_min(0.0) ** (0.5**squarings)


def _largest_by_lanczos(
    matrix: Float[Tensor, "p p"], most_steps: int, exponent: int
) -> Float[Tensor, ""] | None:
    """Return the largest eigenvalue of a positive semi-definite matrix of trace one, or None without convergence.

    Lanczos iteration with full reorthogonalization (Golub and Van Loan 2013, 10.1 and 10.3); values are read back only
    when convergence is tested. The eigenvalue is off by at most the residual, a root of it by a share of that.

    Args:
        exponent: of the root that is wanted.
    """
    steps = min(len(matrix), most_steps)
    start = np.random.default_rng(0).standard_normal(len(matrix))
    vector = torch.from_numpy(start / np.linalg.norm(start)).to(matrix)
    basis = matrix.new_zeros(steps, len(matrix))
    diagonal, beside = matrix.new_zeros(steps), matrix.new_zeros(steps)
    for step in range(steps):
        basis[step] = vector
        vector = matrix @ vector
        diagonal[step] = basis[step] @ vector
        for _ in range(2):  # once leaves components of the order of rounding over the size of what remains
            vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
        beside[step] = torch.linalg.vector_norm(vector)
        vector = vector / beside[step].clamp_min(_TINY)
        if (step + 1) % _STEPS_PER_TEST == 0 or step + 1 == steps:
            inside = np.diag(diagonal[: step + 1].cpu().numpy())
            residuals = beside[: step + 1].cpu().numpy()
            inside += np.diag(residuals[:-1], 1) + np.diag(residuals[:-1], -1)
            values, vectors = np.linalg.eigh(inside)
            if residuals[-1] * abs(vectors[-1, -1]) <= _LANCZOS_TOLERANCE * exponent * values[-1]:
                return matrix.new_tensor(values[-1])
    return None
