"""Tell whether class scores are what a layer returned, up to a function that leaves the layer's weight the decisive one.

Letters: n samples, k classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Fewer rows can agree in their order by chance.
_MIN_ROWS = 8
# In coarser numbers a factor of each class cannot be told from rounding.
_FINE = 1e-5


def is_rising(values: Float[Tensor, "n k"], scores: Float[Tensor, "n k"], *, may_differ: bool) -> bool:
    """Return whether scores are one rising function of values, up to offsets of each sample and class.

    A fixed head that is written as products and sums over features changes the order within samples, but in few samples
    not always. A factor of each class need not change it at all.

    Args:
        values: what the layer returned.
        scores: class scores.
        may_differ: whether a factor of each class was seen; then only the numbers themselves are proof.
    """
    if torch.equal(values, scores):
        return True
    eps, exact = torch.finfo(scores.dtype).eps, scores.double()
    if not (may_differ and eps > _FINE):
        forms = exact, exact.log(), exact.logit()  # as they are, after softmax, after sigmoid
        if any(_is_scaled(values.double(), one, 8 * eps) for one in forms):
            return True
    if may_differ or len(scores) < _MIN_ROWS:
        return False
    axis = 1 if values.shape[1] > 1 else 0
    steps = scores.gather(axis, values.argsort(axis)).diff(dim=axis)
    return bool((steps >= -100 * eps * float(scores.abs().nan_to_num(posinf=0.0).max())).all())


def _is_scaled(values: Tensor, scores: Tensor, tolerance: float) -> bool:
    """Return whether scores are a positive multiple of values and an offset of each sample and, of many, each class."""
    num_rows, width = values.shape
    is_enough = num_rows * (width - 1) > 1 if width > 1 else num_rows > 2
    if not is_enough or not bool(scores.isfinite().all()):
        return False  # anything would agree
    largest = float(scores.abs().max())
    for axis in (1,) * (width > 1) + (0,) * (width == 1 or num_rows >= _MIN_ROWS):
        values, scores = (one - one.mean(axis, keepdim=True) for one in (values, scores))
    scale = float((values * scores).sum() / values.square().sum())
    return scale > 0 and bool(((scores - scale * values).abs() <= tolerance * largest).all())
