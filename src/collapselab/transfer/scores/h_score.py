"""H-score: how much of the variation of features lies between classes; plain and with a shrunk covariance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from collapselab.errors import InputError
from collapselab.numerics import EPS64, middle_factor
from collapselab.transfer.samples import Matrix, Samples, read_samples
from collapselab.transfer.scores.spectrum import ClassSpectrum, class_spectrum

# A feature that varies by less than this share of its largest value is constant, up to rounding of its mean.
_ROUNDING = 16 * EPS64


def h_score(features: Any, labels: Any) -> float:
    """Return the H-score Tr(Sigma_T^+ Sigma_B) (Bao et al. 2019); larger is better.

    Both covariances weight every sample equally. With `sample` weighting, VCI = 1 - H / min(p, C - 1). Sigma_T^+ is
    taken as in the metric `vci`: every feature is scaled to unit variance, then eigenvalues below p eps64 times the
    largest are dropped (published code: rcond 1e-15). If n - 1 <= p, H is min(p, C - 1) for almost any features.

    Cost: eigenvectors of the smaller of F F^T and F^T F, O(n p min(n, p)).

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
    rows, varies = _centred(samples, "H-score")
    rows = rows[:, varies]
    spectrum = class_spectrum(rows / rows.std(axis=0), samples)
    kept = spectrum.squares > len(varies) * EPS64 * spectrum.squares[0]
    return float(_between(spectrum, samples)[kept].sum())


def shrunk_h_score(features: Any, labels: Any) -> float:
    """Return the shrunk H-score (1 - a) Tr(Sigma_a^-1 Sigma_B) (Ibrahim et al. 2021); larger is better.

    Sigma_a = (1 - a) Sigma_T + a (Tr Sigma_T / p) I, with the intensity a of Ledoit and Wolf (2004). The factor 1 - a
    shrinks Sigma_B too, as in the paper. All covariances divide by n (published code: Sigma_B by n - 1, Sigma_a by n).
    Features are not scaled: the score depends on their units, unless all are multiplied by one number. Unlike the
    H-score it does not saturate where n <= p.

    Cost: as `h_score`.

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
    samples = read_samples(features, labels, "shrunk H-score")
    rows, _ = _centred(samples, "shrunk H-score")
    spectrum = class_spectrum(rows, samples)
    eigenvalues = spectrum.squares / len(rows)
    target = float(eigenvalues.sum()) / rows.shape[1]
    intensity = _intensity(rows, eigenvalues, target)
    shrunk = (1 - intensity) * eigenvalues
    return float((shrunk / (shrunk + intensity * target)) @ _between(spectrum, samples))


def _intensity(rows: Matrix, eigenvalues: Matrix, target: float) -> float:
    """Return the shrinkage intensity of Ledoit and Wolf (2004), which is least in expected squared error.

    Args:
        rows: (n, p), centred.
        eigenvalues: (r,), of their covariance S.
        target: Tr S / p.
    """
    n, p = rows.shape
    square = float(np.square(eigenvalues).sum())
    distance = square / p - target**2  # norm(S - target I)_F^2 / p
    spread = float(np.square(np.square(rows).sum(axis=1)).mean()) - square  # mean of norm(x x^T - S)_F^2
    return min(max(spread / (n * p), 0.0), distance) / distance if distance > 0 else 0.0


def _between(spectrum: ClassSpectrum, samples: Samples) -> Matrix:
    """Return the share of the variance along each principal axis that lies between classes (r,).

    v_k . Sigma_B v_k = (s_k^2 / n) sum_c n_c (mean of u_k over class c)^2: no p x p matrix of Sigma_B is needed.
    """
    return (np.square(spectrum.indicators) / np.bincount(samples.labels)).sum(axis=1)


def _centred(samples: Samples, where: str) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Return centred features (n, p) of ordinary size, and which of them vary (p,).

    Raises:
        InputError: none varies.
    """
    # Of extreme features, squares would be 0 or infinite.
    unit = middle_factor(torch.from_numpy(samples.features))
    scaled = samples.features * unit
    rows = scaled - scaled.mean(axis=0)
    varies = np.abs(rows).max(axis=0) > _ROUNDING * np.abs(scaled).max(axis=0)
    if not varies.any():
        raise InputError(f"{where}: the features do not vary; give features of samples that differ")
    return rows, varies
