"""One tiled pass over all pairs of class means: never a C x C matrix in memory.

Letters: c classes, p features, t tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collapselab.numerics import EPS32, gram_norm

# Temporaries of larger tiles are fetched from the operating system anew each time; smaller ones wait for threads.
_TILE = 1024
# Means of float32 features are summed with rounding of up to 0.3 eps32 times the spread of the class: squared
# distances below this fraction of the variance are zero.
MEAN_ROUNDING32 = EPS32**2
# Pairs closer than this fraction of their norms are taken from differences: the expanded square of a
# distance has lost as many digits as the fraction has.
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
        num_centred: classes whose mean is the global mean, so that cosines with it do not exist.
        coincident: a pair of classes whose means coincide, if any.
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
    """All pair quantities of NC2 and the class-distance normalized variance.

    Args:
        centred_means: rows mu_c - mu_G, float64.
        class_variances: v_c, float64.
        rounding: squared distances up to this are zero.
    """
    num_classes = len(centred_means)
    num_pairs = num_classes * (num_classes - 1)
    squared = centred_means.square().sum(1)
    centred = squared <= rounding + MEAN_ROUNDING32 * (class_variances + class_variances.mean())
    directions_exist = not bool(centred.any())
    inverse_norms = torch.where(centred, 0.0, squared.rsqrt())
    # The mean cosine needs no pairs: sum_{c != c'} cos = norm(sum_c u_c)^2 - C.
    resultant = float((inverse_norms @ centred_means).square().sum())
    mean_cosine = (resultant - num_classes) / num_pairs
    size = gram_norm(centred_means)

    deviation = deviation2 = gap = cdnv = etf2 = 0.0
    coincident: tuple[int, int] | None = None
    for start in range(0, num_classes, _TILE):
        rows = slice(start, min(start + _TILE, num_classes))
        for other in range(start, num_classes, _TILE):
            columns = slice(other, min(other + _TILE, num_classes))
            gram = centred_means[rows] @ centred_means[columns].T
            twice = 1.0 if other == start else 2.0  # tiles above the diagonal stand for their mirror image
            diagonal = torch.arange(gram.shape[0]) if other == start else None

            if size > 0:
                target = -1 / num_classes / (num_classes - 1) ** 0.5
                gap_to_simplex = gram / size - target
                if diagonal is not None:
                    gap_to_simplex[diagonal, diagonal] -= 1 / (num_classes - 1) ** 0.5
                etf2 += twice * float(gap_to_simplex.square_().sum())

            distance2 = squared[rows, None] + squared[None, columns] - 2 * gram
            spread = class_variances[rows, None] + class_variances[None, columns]
            _refine_close(distance2, centred_means[rows], centred_means[columns], squared, rows, columns)
            zero = distance2 <= rounding + MEAN_ROUNDING32 * spread
            if diagonal is not None:
                zero[diagonal, diagonal] = False
                distance2[diagonal, diagonal] = torch.inf
            if coincident is None and bool(zero.any()):
                first = zero.nonzero()[0].tolist()
                coincident = (rows.start + first[0], columns.start + first[1])
            cdnv += twice * float((spread / distance2).sum()) / 2

            cosine = gram.mul_(inverse_norms[rows, None]).mul_(inverse_norms[None, columns])
            from_mean = cosine - mean_cosine
            cosine += 1 / (num_classes - 1)
            if diagonal is not None:
                from_mean[diagonal, diagonal] = 0.0
                cosine[diagonal, diagonal] = 0.0
            deviation += twice * float(from_mean.sum())
            deviation2 += twice * float(from_mean.square_().sum())
            gap += twice * float(cosine.abs_().sum())

    # The analytic mean and the summed one differ by rounding; the variance is taken about the summed one.
    variance = deviation2 / num_pairs - (deviation / num_pairs) ** 2
    return PairGeometry(
        mean_cosine=mean_cosine if directions_exist else None,
        cosine_std=max(variance, 0.0) ** 0.5 if directions_exist else None,
        mean_abs_gap=gap / num_pairs if directions_exist else None,
        cdnv=cdnv / num_pairs if coincident is None else None,
        etf_distance=etf2**0.5 if size > 0 else None,
        num_centred=int(centred.sum()),
        coincident=coincident,
    )


def _refine_close(
    distance2: Tensor, first: Tensor, second: Tensor, squared: Tensor, rows: slice, columns: slice
) -> None:
    """Replace squared distances lost to cancellation by sums of squared differences, in place."""
    scale = torch.maximum(squared[rows, None], squared[None, columns])
    close = (distance2 <= _CLOSE * scale).nonzero()
    for block in close.split(_TILE):
        i, j = block[:, 0], block[:, 1]
        distance2[i, j] = (first[i] - second[j]).square().sum(1)
