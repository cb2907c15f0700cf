"""Rows minus the centres of their classes, with squared norms of both, for one block.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.statistics.rows import squared_norms
from collapselab.statistics.shared import Scratch

# float32 squares and their sums neither overflow nor underflow for rows of such norms, even where deviations are 1e-6
# of them; blocks with other rows are computed in float64.
SAFE_NORMS = (2.0**-30, 2.0**50)
# A squared norm below this fraction of the terms that it is the sum of is computed from the row itself.
CANCELLED = 1 / 16


@dataclass(frozen=True)
class CentredRows:
    """A block of rows on its way into sums.

    Attributes:
        deviations: (n, p) rows minus centres, in scratch memory.
        squares: (n,) squared norms of the deviations, float64.
        norms: (n,) norms of the rows, float64.
        has_small: whether norms can be zero.
    """

    deviations: Float[Tensor, "n p"]
    squares: Float[Tensor, " n"]
    norms: Float[Tensor, " n"]
    has_small: bool = False


def are_safe(low: float, high: float) -> bool:
    """Return whether rows whose norms are between these can be squared in float32; false for NaN."""
    return SAFE_NORMS[0] < low and high < SAFE_NORMS[1]


def deviations_of(
    rows: Float[Tensor, "n p"], labels: Int[Tensor, " n"], centres: Float[Tensor, "c p"], scratch: Scratch
) -> Float[Tensor, "n p"]:
    """Return rows - centres[labels] in scratch memory, in the dtype of the rows."""
    out = scratch.take(len(rows), rows.shape[1], rows.dtype, rows.device)
    if rows.dtype == centres.dtype:
        torch.index_select(centres, 0, labels, out=out)
    else:
        out.copy_(centres[labels])
    return torch.sub(rows, out, out=out)


def centred_in_float32(
    rows: Float[Tensor, "n p"],
    labels: Int[Tensor, " n"],
    centres: Float[Tensor, "c p"],
    centre_squares: Float[Tensor, " c"],
    scratch: Scratch,
) -> CentredRows | None:
    """Return float32 rows minus float32 centres, with norms that need no float64 copy of the rows.

    With d = h - m, norm(h)^2 = norm(m)^2 + 2 m.d + norm(d)^2. Only m.d and norm(d)^2 are float32 sums, and their
    rounding relative to norm(h)^2 is eps32 norm(d)/norm(h): it shrinks with the spread of a class. This matters for
    1 - norm(m_c)^2, the angular spread of a class, which is the squared deviation of unit vectors and smaller than the
    rounding of a float32 norm for features far from the origin.

    Args:
        centre_squares: squared norms of the centres, float64.

    Returns:
        None if a row has a norm that float32 squares are not safe for, or NaN.
    """
    n, p = rows.shape
    deviations, about = (scratch.take(n, p, rows.dtype, rows.device, number=number) for number in range(2))
    torch.index_select(centres, 0, labels, out=about)
    torch.sub(rows, about, out=deviations)
    squares = squared_norms(deviations)
    terms = centre_squares.index_select(0, labels).add_(squares)
    norms2 = terms.add(about.mul_(deviations).sum(1), alpha=2)
    low, high = (float(value) for value in torch.aminmax(norms2))
    if not low > CANCELLED * float(terms.max()):  # else, no row can be
        cancelled = norms2 < CANCELLED * terms
        norms2[cancelled] = torch.linalg.vector_norm(rows[cancelled], dim=1, dtype=torch.float64).square_()
        low, high = (float(value) for value in torch.aminmax(norms2))
    is_safe = low > 0 and are_safe(low**0.5, high**0.5)
    return CentredRows(deviations, squares, norms2.sqrt_()) if is_safe else None
