"""TransRate: the mutual information of features and labels, with coding rates in place of entropies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from collapselab.errors import InputError
from collapselab.transfer.samples import Matrix, read_samples

EPSILON = 1e-4


def transrate(features: Any, labels: Any, *, eps: int | float = EPSILON) -> float:
    """Return TransRate R(Z) - R(Z | Y) in nats (Huang et al. 2022); larger is better.

    The coding rate of n rows Z is R(Z) = (1/2) ln det(I + Z^T Z / (n eps)). Z are the features minus their mean over all
    samples, also within a class: class means are not subtracted. R(Z | Y) is the mean of the rates of the classes,
    weighted by their sizes (published code: every class counts the same; equal for balanced classes). The score depends
    on the unit of the features, since the distortion eps is absolute: compare models only at comparable scales.

    Cost: O(n p min(n, p)) and a determinant of size min(n_c, p) for each class.

    Args:
        features, labels: (n, p) and (n,), in any container that `collapselab.measure` takes.
        eps: the distortion; 1e-4 in the paper.

    Raises:
        InputError: NaN, shapes that do not agree, a single class, an eps that is not above 0.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> noise = np.random.default_rng(0).normal(size=(60, 5))
        >>> transrate(noise + 3 * np.eye(3, 5)[labels], labels) > transrate(noise, labels)
        True
    """
    if not 0 < eps < math.inf:
        raise InputError(f"eps is {eps}; give a number above 0")
    samples = read_samples(features, labels, "TransRate")
    rows = samples.features - samples.features.mean(axis=0)
    order = np.argsort(samples.labels, kind="stable")
    ends = np.cumsum(np.bincount(samples.labels))[:-1]
    within = math.fsum(len(part) * _rate(part, eps) for part in np.split(rows[order], ends)) / len(rows)
    return _rate(rows, eps) - within


def _rate(rows: Matrix, eps: float) -> float:
    """Return the coding rate of rows (n, p), from the smaller of the matrices Z^T Z and Z Z^T."""
    n, p = rows.shape
    gram = rows @ rows.T if n <= p else rows.T @ rows
    gram /= n * eps
    gram[np.diag_indices_from(gram)] += 1
    return float(np.linalg.slogdet(gram)[1]) / 2
