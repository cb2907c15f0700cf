"""One tiled pass over all pairs of class means, without a C x C matrix in memory.

Letters: c classes, p features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.numerics import EPS32, block_elements, gram_norm

# Temporaries of larger tiles are requested from the operating system each time; smaller tiles leave threads idle.
_TILE = 1024
# Means of float32 features are rounded by up to 0.3 eps32 times the spread of the class: squared distances below this
# fraction of the variance count as zero.
MEAN_ROUNDING32 = EPS32**2
# Distances of pairs closer than this fraction of their norms are computed from differences: the expanded square of a
# distance loses as many digits as the fraction has.
_CLOSE = 1e-6


@dataclass(frozen=True)
class PairGeometry:
    """Sums over ordered pairs of different classes, each divided by their number C (C-1).

    Attributes:
        mean_cosine: mean cosine between centred class means.
        cosine_std: population standard deviation of it.
        mean_abs_gap: mean of abs(cos + 1/(C-1)).
        cdnv: mean of (v_c + v_c') / (2 norm(mu_c - mu_c')^2); None where two class means coincide.
        etf_distance: Frobenius norm of M M^T / norm(M M^T) - (I - 11^T/C)/sqrt(C-1).
        num_centred: number of classes whose mean is the global mean: they have no direction, so no cosines.
        coincident: a pair of classes whose means coincide; None if there is none.
    """

    mean_cosine: float | None
    cosine_std: float | None
    mean_abs_gap: float | None
    cdnv: float | None
    etf_distance: float | None
    num_centred: int
    coincident: tuple[int, int] | None


def pair_geometry(
    centred_means: Float[Tensor, "c p"], class_variances: Float[Tensor, " c"], rounding: float
) -> PairGeometry:
    """Return the pair quantities of NC2 and the class-distance normalized variance.

    Args:
        centred_means: rows mu_c - mu_G, float64.
        class_variances: v_c, float64.
        rounding: squared distances up to this are zero.
    """
    num_classes = len(centred_means)
    num_pairs = num_classes * (num_classes - 1)
    squared = centred_means.square().sum(1)
    centred = squared <= rounding + MEAN_ROUNDING32 * (class_variances + class_variances.mean())
    inverse_norms = torch.where(centred, 0.0, squared.rsqrt())
    # The mean cosine does not need pairs: sum_{c != c'} cos = norm(sum_c u_c)^2 - C.
    mean_cosine = ((inverse_norms @ centred_means).square().sum() - num_classes) / num_pairs
    size = gram_norm(centred_means)

    sums = _PairSums(centred_means, class_variances, inverse_norms, mean_cosine, size, rounding)
    for start in range(0, num_classes, _TILE):
        rows = slice(start, min(start + _TILE, num_classes))
        for other in range(start, num_classes, _TILE):
            sums.add_tile(rows, slice(other, min(other + _TILE, num_classes)))
    found = torch.stack([centred.sum(), mean_cosine, size, sums.cosine_std, sums.gap, sums.cdnv, sums.etf2])
    num_centred, cosine, norm, cosine_std, gap, cdnv, etf2 = found.tolist()
    directions_exist = num_centred == 0
    return PairGeometry(
        mean_cosine=cosine if directions_exist else None,
        cosine_std=cosine_std if directions_exist else None,
        mean_abs_gap=gap / num_pairs if directions_exist else None,
        cdnv=cdnv / num_pairs if sums.coincident is None else None,
        etf_distance=etf2**0.5 if norm > 0 else None,
        num_centred=int(num_centred),
        coincident=sums.coincident,
    )


class _PairSums:
    """Sums over ordered pairs of classes, added tile by tile. Tiles on and above the diagonal are enough.

    Args:
        means: rows mu_c - mu_G.
        variances: v_c.
        inverse_norms: 1 / norm(mu_c - mu_G); 0 where that norm is zero.
        mean_cosine: mean cosine between the means.
        size: Frobenius norm of M M^T; where it is zero, `etf2` is not a number.
        rounding: squared distances up to this are zero.
    """

    def __init__(
        self,
        means: Tensor,
        variances: Tensor,
        inverse_norms: Tensor,
        mean_cosine: Tensor,
        size: Tensor,
        rounding: float,
    ) -> None:
        self._means, self._variances, self._inverse_norms = means, variances, inverse_norms
        self._mean_cosine, self._size, self._rounding = mean_cosine, size, rounding
        self._squared = means.square().sum(1)
        # On the device of the means: a value that is read makes an accelerator wait.
        self._deviation = self._deviation2 = self.gap = self.cdnv = self.etf2 = means.new_zeros(())
        self.coincident: tuple[int, int] | None = None

    @property
    def cosine_std(self) -> Float[Tensor, ""]:
        # The analytic mean and the summed one differ by rounding; the variance is taken about the summed one.
        num_pairs = len(self._means) * (len(self._means) - 1)
        return (self._deviation2 / num_pairs - (self._deviation / num_pairs).square()).clamp_min(0.0).sqrt()

    def add_tile(self, rows: slice, columns: slice) -> None:
        gram = self._means[rows] @ self._means[columns].T
        on_diagonal = columns == rows
        # Tiles above the diagonal count for their mirror image too.
        twice = 1.0 if on_diagonal else 2.0
        self._add_simplex(gram, on_diagonal, twice)
        self._add_distances(gram, rows, columns, on_diagonal, twice)
        self._add_cosines(gram, rows, columns, on_diagonal, twice)

    def _add_simplex(self, gram: Tensor, on_diagonal: bool, twice: float) -> None:
        num_classes = len(self._means)
        gap_to_simplex = gram / self._size + 1 / num_classes / (num_classes - 1) ** 0.5
        if on_diagonal:
            gap_to_simplex.diagonal().sub_(1 / (num_classes - 1) ** 0.5)
        self.etf2 = self.etf2 + twice * gap_to_simplex.square_().sum()

    def _add_distances(
        self, gram: Tensor, rows: slice, columns: slice, on_diagonal: bool, twice: float
    ) -> None:
        spread = self._variances[rows, None] + self._variances[None, columns]
        distance2 = _expanded_distances(gram, self._means, self._squared, rows, columns)
        zero = distance2 <= self._rounding + coincident_distance(spread)
        if on_diagonal:
            zero.fill_diagonal_(False)
            distance2.fill_diagonal_(torch.inf)
        if self.coincident is None and bool(zero.any()):
            i, j = zero.nonzero()[0].tolist()
            self.coincident = (rows.start + i, columns.start + j)
        self.cdnv = self.cdnv + twice / 2 * (spread / distance2).sum()

    def _add_cosines(
        self, gram: Tensor, rows: slice, columns: slice, on_diagonal: bool, twice: float
    ) -> None:
        """Add cosines; `gram` is overwritten."""
        cosine = gram.mul_(self._inverse_norms[rows, None]).mul_(self._inverse_norms[None, columns])
        from_mean = cosine - self._mean_cosine
        cosine += 1 / (len(self._means) - 1)
        if on_diagonal:
            from_mean.fill_diagonal_(0.0)
            cosine.fill_diagonal_(0.0)
        self._deviation = self._deviation + twice * from_mean.sum()
        self._deviation2 = self._deviation2 + twice * from_mean.square_().sum()
        self.gap = self.gap + twice * cosine.abs_().sum()


def coincident_distance(spread: Tensor) -> Tensor:
    """Return the largest squared distance between equal means of float32 features of this variance that rounding can cause."""
    return MEAN_ROUNDING32 * spread


def squared_distances(
    means: Float[Tensor, "c p"], squared: Float[Tensor, " c"], rows: slice, columns: slice
) -> Float[Tensor, "r s"]:
    """Return squared distances between some of the means and others, exact also where they are close.

    Args:
        means: float64, about their mean.
        squared: their squared norms.
        rows, columns: which means.
    """
    return _expanded_distances(means[rows] @ means[columns].T, means, squared, rows, columns)


def _expanded_distances(gram: Tensor, means: Tensor, squared: Tensor, rows: slice, columns: slice) -> Tensor:
    """Squared distances from a Gram matrix; those lost to cancellation are sums of squared differences."""
    distance2 = squared[rows, None] + squared[None, columns] - 2 * gram
    first, second = means[rows], means[columns]
    scale = torch.maximum(squared[rows, None], squared[None, columns])
    close = (distance2 <= _CLOSE * scale).nonzero()
    for block in close.split(max(_TILE, block_elements(first.device) // first.shape[1])):
        i, j = block[:, 0], block[:, 1]
        distance2[i, j] = (first[i] - second[j]).square().sum(1)
    return distance2
