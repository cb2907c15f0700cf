"""Leading spectrum of a scatter matrix S that is only known times a few columns, with guaranteed bounds.

`nystrom` computes it from Y = S @ Omega (Tropp, Yurtsever, Udell and Cevher 2017, algorithm 3).
`SketchRefinement` reads the data once more and multiplies S by the directions found: the second block of a
Krylov space (Musco and Musco 2015).

Letters: n samples, p features, c classes, k sketch columns, q columns of the second pass, r rank.

The bounds. Let V be an orthonormal basis of Omega's columns, r of them, N the Nystrom approximation of S from
S V, and P the projector onto the complement of V. S - N is the Schur complement of V^T S V: positive
semi-definite and zero on V. Its largest eigenvalue is at most its trace tau = Tr S - Tr N, so that

    N <= S <= N + tau P   and   lambda_1(N) <= lambda_1(S) <= lambda_1(N + tau P).

The upper bound is the largest value consistent with S V and Tr S. It never exceeds lambda_1(N) + tau, and where
V is close to the leading eigenvectors, it is close to max(lambda_1(N), tau).

Rounding. We know S V + E with norm_F(E) <= e. Apart from its skew part, this is (S + F) V for a symmetric F
that is zero on the complement of V, with norm_2(F) <= norm_F(F) <= sqrt(2) e =: nu. Hence the shift: S + F + nu I
is positive semi-definite, its product with V is known exactly, and it lies between S and S + 2 nu I.
With N its Nystrom approximation, the lambda_1 of S lies between lambda_1(N) - 2 nu and lambda_1(N + tau P), where

    tau = Tr S - Tr N + sqrt(r) e + (2 r + 1) nu

bounds the largest eigenvalue of its Schur complement: on the complement of V that is C + nu I - X with C >= 0 the
block of S and X of rank r, so that C - X has at most r negative eigenvalues, none below -nu, and its largest
is at most Tr C - Tr X + r nu. The traces of V^T S V in Tr C and in Tr X differ by sqrt(r) e + r nu.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.numerics import EPS64, add_converted_, block_elements, full_precision_products

# Rounding of the float64 steps after the products, in the same units as `product_eps`.
_FLOAT64_STEPS = 32 * EPS64
# A float32 sum of thousands of nearly equal products is off by ten eps32, a sum of this many by one or two.
_ROWS_PER_SUM = 256


@dataclass(frozen=True)
class SketchedSpectrum:
    """Leading eigenvalues and eigenvectors of a scatter matrix S, with bounds on the largest eigenvalue.

    Attributes:
        values: eigenvalues of the Nystrom approximation above rounding, largest first, float64. Apart from rounding,
            they never exceed those of S.
        vectors: their orthonormal eigenvectors as columns, float64.
        lower, upper: bounds on the largest eigenvalue of S. They also hold if the trace is off by `product_eps`.
    """

    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "p r"]
    lower: float
    upper: float

    def stable_rank_interval(self, trace: float) -> tuple[float, float]:
        """Return bounds on Tr S / lambda_1(S).

        Args:
            trace: Tr S, as given to `nystrom`.

        Raises:
            ValueError: S is zero and has no stable rank.
        """
        self._refuse_zero(trace)
        p = self.vectors.shape[0]
        return max(trace / self.upper, 1.0), min(trace / self.lower, float(p))

    def stable_rank(self, trace: float) -> float:
        """Return an estimate of Tr S / lambda_1(S) from above, inside `stable_rank_interval`.

        Args:
            trace: Tr S, as given to `nystrom`.

        Raises:
            ValueError: S is zero and has no stable rank.
        """
        low, high = self.stable_rank_interval(trace)
        largest = float(self.values[0]) if len(self.values) else self.lower
        return min(max(trace / largest, low), high)

    def _refuse_zero(self, trace: float) -> None:
        if not (trace > 0 and self.lower > 0):
            raise ValueError(f"a scatter of trace {trace} has no stable rank")


@torch.no_grad()
def nystrom(
    sketch: Float[Tensor, "p k"], omega: Float[Tensor, "p k"], trace: float, *, product_eps: float
) -> SketchedSpectrum:
    """Return the leading spectrum of a positive semi-definite S from S @ Omega.

    Only the span of Omega's columns matters, so columns of several passes can be concatenated.

    Args:
        sketch: S @ Omega, float64, possibly computed in float32.
        omega: any columns, float64; random, or close to leading eigenvectors.
        trace: Tr S.
        product_eps: bound on the rounding of `sketch`: each entry is off by at most this times |D|^T |D| |Omega|,
            where S = D^T D. A column of S @ Omega is then off by at most product_eps * Tr S times the norm of
            its column of Omega. `8 * EPS32` covers float32 products of centred rows: roundings of the row,
            its weight, Omega and the inner product, half an eps each, and of sums over features and over a few
            hundred rows, measured as 1 eps if all terms are alike and 0.1 in networks. float32 sums over
            thousands of rows need more. The trace may be off by the same factor.

    Raises:
        ValueError: shapes that differ, NaN or infinity, or a negative trace or product_eps.

    Example:
        >>> import torch
        >>> s = torch.diag(torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64))
        >>> spectrum = nystrom(s[:, :2], torch.eye(3, 2).double(), 6.0, product_eps=1e-15)
        >>> [round(value, 6) for value in spectrum.values.tolist()]
        [4.0, 1.0]
        >>> round(spectrum.stable_rank(6.0), 6)
        1.5
    """
    if sketch.shape != omega.shape:
        raise ValueError(f"the sketch has shape {tuple(sketch.shape)}, Omega {tuple(omega.shape)}")
    if not (bool(torch.isfinite(sketch).all()) and bool(torch.isfinite(omega).all())):
        raise ValueError("the sketch or Omega has NaN or infinity")
    if not (0 <= trace < math.inf and 0 <= product_eps < 1):
        raise ValueError(
            f"trace must be finite and not negative, product_eps in [0, 1), got {trace}, {product_eps}"
        )
    p = sketch.shape[0]
    if trace == 0:
        return SketchedSpectrum(sketch.new_zeros(0).double(), sketch.new_zeros(p, 0).double(), 0.0, 0.0)
    eps = product_eps + _FLOAT64_STEPS
    omega = omega.to(sketch.device)
    # Everything is relative to the trace, so that the scale of the features does not matter.
    basis, image, error = _orthonormalized(sketch.double() / trace, omega.double(), eps)
    shift = math.sqrt(2) * error
    basis, factor = _nystrom_factor(basis, image, shift)
    vectors, singular, _ = torch.linalg.svd(factor, full_matrices=False)
    shifted = singular.square()
    largest = float(shifted[0]) if len(shifted) else 0.0
    r = basis.shape[1]
    tail = max(1.0 + eps - float(shifted.sum()) + math.sqrt(r) * error + (2 * r + 1) * shift, 0.0)
    lower = max(largest - 2 * shift, 1 / p)
    upper = min(_largest_with_tail(factor, basis, tail), 1.0)
    values = shifted - shift
    keep = values > shift
    return SketchedSpectrum(
        values=values[keep] * trace,
        vectors=vectors[:, keep],
        # One factor for the trace that scales them, one for the trace that is divided by them.
        lower=lower * trace * (1 - eps) ** 2,
        upper=max(upper, lower) * trace * (1 + eps) ** 2,
    )


def _orthonormalized(sketch: Tensor, omega: Tensor, eps: float) -> tuple[Tensor, Tensor, float]:
    """Return an orthonormal basis V of Omega's columns, S V, and a bound on the Frobenius norm of its rounding.

    Directions that the columns barely contain are dropped, since they would magnify the rounding of all others: those
    with a relative singular value below the cube root of `eps` widen the bounds more than they narrow them.
    """
    norms = torch.linalg.vector_norm(omega, dim=0)
    present = norms > 0
    omega, sketch = omega[:, present] / norms[present], sketch[:, present] / norms[present]
    k = omega.shape[1]
    if k == 0:
        return omega, sketch, 0.0
    basis, singular, right_t = torch.linalg.svd(omega, full_matrices=False)
    r = int((singular > eps ** (1 / 3) * singular[0]).sum())
    image = (sketch @ right_t[:r].T) / singular[:r]
    # Each of k unit columns is off by eps at most, and the columns were divided by singular values.
    return basis[:, :r], image, eps * math.sqrt(k) / float(singular[r - 1])


def _nystrom_factor(basis: Tensor, image: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Return the basis of the approximation and B with N = B B^T, for the shifted matrix.

    B is computed from eigenvectors of V^T S V rather than from its Cholesky factor, which can fail. Directions whose
    eigenvalue after the shift is mostly rounding are dropped, which is the approximation from fewer columns.
    """
    core = basis.T @ image
    values, rotation = torch.linalg.eigh((core + core.T) / 2)
    values = values + shift
    keep = values > shift / 4
    values, rotation = values[keep], rotation[:, keep]
    # Without the skew part of the core, which is rounding: S is symmetric.
    image = image - basis @ ((core - core.T) / 2)
    basis, image = basis @ rotation, image @ rotation
    return basis, (image + shift * basis) / values.sqrt()


def _largest_with_tail(factor: Tensor, basis: Tensor, tail: float) -> float:
    """Return lambda_1(B B^T + tail (I - V V^T)), from the span of both."""
    signs = torch.ones(factor.shape[1] + basis.shape[1], dtype=factor.dtype, device=factor.device)
    signs[factor.shape[1] :] = -1
    if len(signs) == 0:
        return tail
    triangular = torch.linalg.qr(torch.cat([factor, math.sqrt(tail) * basis], dim=1), mode="r")[1]
    inside = torch.linalg.eigvalsh((triangular * signs) @ triangular.T)[-1]
    return tail + max(float(inside), 0.0)


class SketchRefinement:
    """A second pass over the data: Z = S V for the directions V that a sketch found, one batch at a time.

    This is one step of subspace iteration. S = sum_i w_{y_i} d_i d_i^T with d_i = h_i - mu_{y_i} and the means of the
    first pass, so both passes must see the same features.

    Args:
        vectors: V, from `nystrom`.
        class_means: mu, float64.
        row_weights: w of each class, float64: 1/n for sample weights, 1/(C n_c) for balanced ones.

    Attributes:
        total: Z, float64, on the device of the means. To merge several processes or shards, add up their totals.

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "p q"],
        class_means: Float[Tensor, "c p"],
        row_weights: Float[Tensor, " c"],
    ) -> None:
        if class_means.shape[1] != vectors.shape[0] or row_weights.shape != class_means.shape[:1]:
            raise ValueError(
                f"class means {tuple(class_means.shape)} do not fit vectors {tuple(vectors.shape)} "
                f"and weights {tuple(row_weights.shape)}"
            )
        self.class_means = class_means.double()
        self.vectors = vectors.double().to(class_means.device)
        self.row_weights = row_weights.double().to(class_means.device)
        self.total = torch.zeros_like(self.vectors)

    @torch.no_grad()
    def update(self, features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> None:
        """Add a batch. float64 features are multiplied in float64, all others in float32.

        Raises:
            ValueError: shapes that do not fit, or labels out of range.
        """
        c, p = self.class_means.shape
        if features.ndim != 2 or features.shape[1] != p or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; give (n, {p}) and (n,)"
            )
        if len(labels) == 0 or self.total.numel() == 0:
            return
        low, high = (int(value) for value in torch.aminmax(labels))
        if low < 0 or high >= c:
            raise ValueError(f"labels go from {low} to {high}; there are means of classes 0 to {c - 1}")
        labels = labels.to(device=self.total.device, dtype=torch.int64)
        features = features.to(self.total.device)
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        vectors = self.vectors.to(dtype)
        weights = self.row_weights.to(dtype)
        step = max(64, block_elements(features.device) // p)
        for block, block_labels in zip(features.split(step), labels.split(step), strict=True):
            rows, scale = self._deviations(block, block_labels, dtype)
            with full_precision_products(rows.device):
                along = (rows @ vectors).mul_(weights[block_labels][:, None])
                for part, its_along in zip(
                    rows.split(_ROWS_PER_SUM), along.split(_ROWS_PER_SUM), strict=True
                ):
                    add_converted_(self.total, part.T @ its_along, scale**2)

    def _deviations(self, block: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
        """Return rows minus their class means, divided by a power of two so that float32 products cannot overflow.

        The means are subtracted in float64: far from the origin, float32 has too few digits for the mean of a
        collapsed class.

        Returns:
            The rows, and that power of two.
        """
        rows = block.double() - self.class_means.index_select(0, labels)
        scale = 2.0 ** int(torch.frexp(rows.abs().amax()).exponent)
        return rows.div_(scale).to(dtype), scale

    def add(self, other: SketchRefinement) -> None:
        """Add the total of other rows.

        Raises:
            ValueError: it belongs to other directions.
        """
        if not torch.equal(self.vectors, other.vectors.to(self.vectors.device)):
            raise ValueError("cannot add products with different vectors")
        self.total += other.total.to(self.total.device)

    def result(
        self,
        trace: float,
        *,
        product_eps: float,
        first: tuple[Float[Tensor, "p k"], Float[Tensor, "p k"]] | None = None,
    ) -> SketchedSpectrum:
        """Return the spectrum from S V, or from S V and S Omega together.

        Args:
            trace: Tr S.
            product_eps: as for `nystrom`, for both passes.
            first: (S @ Omega, Omega) of the first pass, as `ClassStats.within_sketch` returns it. With both, the error
                of the largest eigenvalue is about a third of that with the second pass alone, and the bounds are
                closer.

        Raises:
            ValueError: as for `nystrom`.
        """
        sketch, omega = self.total, self.vectors
        if first is not None:
            sketch = torch.cat([sketch, first[0].to(sketch)], dim=1)
            omega = torch.cat([omega, first[1].to(omega)], dim=1)
        return nystrom(sketch, omega, trace, product_eps=product_eps)
