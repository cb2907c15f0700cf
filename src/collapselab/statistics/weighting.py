"""Class weights: equal classes or equal samples, and the corresponding scaling of pooled scatter.

Letters: c classes.
"""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.choices import Weighting

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


def class_weights(counts: Int[Tensor, " c"], weighting: Weighting) -> Float[Tensor, " c"]:
    """Return pi_c: 1/C (`balanced`) or n_c/n (`sample`), float64.

    Raises:
        ValueError: a class has no samples, so its mean does not exist; or unknown weighting.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    if bool((counts == 0).any()):
        empty = (counts == 0).nonzero()[:, 0].tolist()
        raise ValueError(f"{len(empty)} classes have no samples, the first is class {empty[0]}")
    if weighting == "balanced":
        return torch.full_like(counts, 1 / len(counts), dtype=torch.float64)
    return counts.double() / counts.sum()


def balancing_scale(declared: Int[Tensor, " c"], dtype: torch.dtype) -> Float[Tensor, " c"] | None:
    """Return 1/sqrt(n_c), float64: rows scaled by it give pooled scatter in which every class counts alike.

    The values are rounded to `dtype`, that of the products, so that every correction uses the same weights.

    Args:
        declared: samples of each class in the whole data set.

    Returns:
        The scale, or None where all classes that have samples have equally many: both weightings then agree.
    """
    if _is_balanced(declared):
        return None
    return declared.clamp_min(1).double().rsqrt().to(dtype).double()


def pooled_factor(
    counts: Int[Tensor, " c"], declared: Int[Tensor, " c"] | None, weighting: Weighting
) -> float:
    """Return the factor that turns pooled scatter into a covariance of this weighting.

    Args:
        counts: samples seen of each class; every class has some.
        declared: samples announced beforehand, where rows were scaled by `balancing_scale`.

    Raises:
        ValueError: the counts differ from the declared ones, or the scatter was summed with the other
            weighting and the classes are unbalanced.
    """
    if declared is not None and not torch.equal(counts, declared):
        wrong = int((counts != declared).nonzero()[0])
        raise ValueError(
            f"class {wrong} was declared with {int(declared[wrong])} samples in class_counts but {int(counts[wrong])} "
            "were seen; declare the counts of the whole data set"
        )
    if _is_balanced(counts):
        return 1.0 / int(counts.sum())
    if declared is None and weighting == "balanced":
        raise ValueError(
            "balanced covariance of unbalanced classes needs class_counts= when ClassStats is created, before the "
            "first update; or use weighting='sample'"
        )
    if declared is not None and weighting == "sample":
        raise ValueError(
            "this scatter was summed with balanced weights (class_counts was given) and the classes are unbalanced; "
            "omit class_counts for weighting='sample'"
        )
    return 1.0 / (int(counts.sum()) if declared is None else len(counts))


def _is_balanced(counts: Tensor) -> bool:
    """Whether all classes that have samples have equally many. Classes without samples have no scatter to weigh."""
    present = counts[counts > 0]
    return bool((present == present[:1]).all())
