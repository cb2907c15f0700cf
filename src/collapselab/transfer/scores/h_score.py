"""H-score: how much of the variation of features lies between classes; plain and with a shrunk covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from collapselab.errors import InputError
from collapselab.numerics import EPS64
from collapselab.transfer.samples import Matrix, Samples, read_samples

# A feature that varies by less than this share of its largest value is constant, up to rounding of its mean.
_ROUNDING = 16 * EPS64


def h_score(features: Any, labels: Any) -> float:
    """Return the H-score Tr(Sigma_T^+ Sigma_B) (Bao et al. 2019); larger is better.

    Both covariances weight every sample equally. With `sample` weighting, VCI = 1 - H / min(p, C - 1). Sigma_T^+ is
    taken as in the metric `vci`: every feature is scaled to unit variance, then eigenvalues below p eps64 times the
    largest are dropped (published code: rcond 1e-15). If n - 1 <= p, H is min(p, C - 1) for almost any features.

    Cost: one singular value decomposition, O(n p min(n, p)).

    Args:
        features, labels: (n, p) and (n,), in any container that `collapselab.measure` takes.

    Raises:
        InputError: NaN, shapes that do not agree, a single class, features that do not vary.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> round(h_score(np.eye(3)[labels], labels), 6)  # fully collapsed: C - 1
        2.0
    """
    samples = read_samples(features, labels, "H-score")
    rows = _centred(samples, "H-score")
    deviations = rows.std(axis=0)
    largest = np.abs(samples.features).max(axis=0)
    varies = deviations > _ROUNDING * largest
    spectrum = _spectrum(rows[:, varies] / deviations[varies], samples)
    kept = spectrum.eigenvalues > rows.shape[1] * EPS64 * spectrum.eigenvalues[0]
    return float(spectrum.between[kept].sum())


def shrunk_h_score(features: Any, labels: Any) -> float:
    """Return the shrunk H-score (1 - a) Tr(Sigma_a^-1 Sigma_B) (Ibrahim et al. 2021); larger is better.

    Sigma_a = (1 - a) Sigma_T + a (Tr Sigma_T / p) I, with the intensity a of Ledoit and Wolf (2004). The factor 1 - a
    shrinks Sigma_B too, as in the paper. All covariances divide by n (published code: Sigma_B by n - 1, Sigma_a by n).
    Features are not scaled: the score depends on their units, unless all are multiplied by one number. Unlike the
    H-score it does not saturate where n <= p.

    Cost: one singular value decomposition and the intensity, O(n p min(n, p) + n p^2).

    Args:
        features, labels: (n, p) and (n,), in any container that `collapselab.measure` takes.

    Raises:
        InputError: NaN, shapes that do not agree, a single class, features that do not vary.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> noise = np.random.default_rng(0).normal(size=(60, 100))
        >>> shrunk_h_score(noise + 3 * np.eye(3, 100)[labels], labels) > shrunk_h_score(noise, labels)
        True
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    samples = read_samples(features, labels, "shrunk H-score")
    rows = _centred(samples, "shrunk H-score")
    rows /= np.abs(rows).max()
    intensity = float(ledoit_wolf_shrinkage(rows, assume_centered=True))
    spectrum = _spectrum(rows, samples)
    target = spectrum.eigenvalues.sum() / rows.shape[1]
    shrunk = (1 - intensity) * spectrum.eigenvalues
    kept = shrunk + intensity * target > 0
    return float((shrunk * spectrum.between)[kept] @ (1 / (shrunk + intensity * target)[kept]))


@dataclass(frozen=True)
class _Spectrum:
    """Total covariance along its principal axes, largest first.

    Attributes:
        eigenvalues: (r,), of Sigma_T.
        between: (r,), the share of the variance along each axis that lies between classes.
    """

    eigenvalues: Matrix
    between: Matrix


def _spectrum(rows: Matrix, samples: Samples) -> _Spectrum:
    """Return the spectrum of centred rows (n, p) = U S V^T.

    v_k . Sigma_B v_k = (s_k^2 / n) sum_c n_c (mean of u_k over class c)^2: no p x p matrix is needed.
    """
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    sums = np.zeros((samples.num_classes, left.shape[1]))
    np.add.at(sums, samples.labels, left)
    between = np.square(sums) / np.bincount(samples.labels)[:, None]
    return _Spectrum(np.square(singular) / len(rows), between.sum(axis=0))


def _centred(samples: Samples, where: str) -> Matrix:
    rows = samples.features - samples.features.mean(axis=0)
    if np.abs(rows).max() <= _ROUNDING * np.abs(samples.features).max():
        raise InputError(f"{where}: the features do not vary; give features of samples that differ")
    return rows
