"""LogME: the logarithm of the maximum evidence of a Bayesian linear model that predicts labels from features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from collapselab.numerics import EPS64
from collapselab.transfer.samples import Matrix, read_samples
from collapselab.transfer.scores.spectrum import class_spectrum

_MOST_ITERATIONS, _STARTS = 1000, 64
# The evidence is stationary in the ratio: an error of 1e-8 in it changes the evidence by about 1e-16.
_TOLERANCE = 1e-8
# The ratio is in units of the largest eigenvalue of F^T F. Below the first the labels are a linear function of the
# features up to rounding; above the second the features say nothing about them.
_SMALLEST_RATIO, _LARGEST_RATIO = EPS64, 1e12


def logme(features: Any, labels: Any) -> float:
    """Return LogME (You et al. 2021, with the fixed point of You et al. 2022); larger is better.

    For the one-hot column y of each class, the log evidence of y = F w + noise with w ~ N(0, 1/alpha) and noise
    ~ N(0, 1/beta) is maximised over alpha and beta. LogME is its mean over classes and samples. Features are not centred
    and there is no bias, as in the paper.

    For a given ratio t = alpha / beta the best beta has a closed form, which leaves the profile

        L(t) = -(n/2) (ln(2 pi e / n) + ln r(t)) - (1/2) sum_k ln(1 + s_k^2 / t),
        r(t) = norm(y - U U^T y)^2 + sum_k (u_k . y)^2 t / (t + s_k^2),

    with F = U S V^T. The fixed point t <- gamma norm(delta)^2 / ((n - gamma) norm(m)^2) of the paper is iterated to a
    relative change of 1e-8 (published code: 11 steps at most, with 1e-5 added to denominators). The evidence can have
    several maxima: the iteration starts at the best of 64 ratios, which finds the highest one (published code: at 1, which can
    end in a lower one). Where labels are an exact linear function of the
    features, the evidence is infinite; it is then that of t = eps64 s_1^2, large and finite.

    Cost: eigenvectors of the smaller of F F^T and F^T F, O(n p min(n, p)).

    Args:
        features, labels: (n, p) and (n,), in any container that `collapselab.measure` takes.

    Raises:
        InputError: NaN, shapes that do not agree, a single class.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> noise = np.random.default_rng(0).normal(size=(60, 5))
        >>> logme(noise + 3 * np.eye(3, 5)[labels], labels) > logme(noise, labels)
        True
    """
    samples = read_samples(features, labels, "LogME")
    largest = float(np.abs(samples.features).max()) or 1.0
    spectrum = class_spectrum(samples.features / largest, samples)
    counts = np.bincount(samples.labels).astype(np.float64)
    energies = np.square(spectrum.indicators)
    # Of labels that are a linear function of the features, rounding is left.
    outside = np.maximum(counts - energies.sum(axis=0), EPS64 * counts)
    scale = spectrum.squares[0] if len(spectrum.squares) else 1.0
    problem = _Evidence(spectrum.squares[:, None] / scale, energies, outside, len(samples.labels))
    return float((problem.maximum() / len(samples.labels)).mean())


class _Evidence:
    """Log evidence of every class as a function of the ratio t, in units of the largest eigenvalue.

    Args:
        eigenvalues: (r, 1), of F^T F.
        energies: (r, c), squares of the targets' coordinates along the left-singular vectors.
        outside: (c,), squared norm of the targets outside the span of these.
        num_samples: n.
    """

    def __init__(self, eigenvalues: Matrix, energies: Matrix, outside: Matrix, num_samples: int) -> None:
        self._eigenvalues, self._energies = eigenvalues, energies
        self._outside, self._num_samples = outside, num_samples

    def maximum(self) -> Matrix:
        """Return the highest log evidence of each class."""
        grid = np.geomspace(_SMALLEST_RATIO, _LARGEST_RATIO, _STARTS)
        known = np.stack([self._at(np.full(len(self._outside), ratio)) for ratio in grid])
        ratio = grid[known.argmax(axis=0)]
        for _ in range(_MOST_ITERATIONS):
            before, ratio = ratio, self._next(ratio)
            if np.all(np.abs(ratio - before) <= _TOLERANCE * before):
                break
        return np.maximum(self._at(ratio), known.max(axis=0))

    def _next(self, ratio: Matrix) -> Matrix:
        kept = self._eigenvalues / (self._eigenvalues + ratio)  # gamma is its sum
        lost = ratio / (self._eigenvalues + ratio)
        weight = (self._energies * kept / (self._eigenvalues + ratio)).sum(axis=0)  # norm(m)^2
        residual = self._outside + (self._energies * np.square(lost)).sum(axis=0)  # norm(delta)^2
        others = (
            self._num_samples - len(self._eigenvalues) + lost.sum(axis=0)
        )  # n - gamma, without cancellation
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            following = np.nan_to_num(kept.sum(axis=0) * residual / (others * weight), nan=np.inf)
        return np.clip(following, _SMALLEST_RATIO, _LARGEST_RATIO)

    def _at(self, ratio: Matrix) -> Matrix:
        n = self._num_samples
        residual = self._outside + (self._energies * (ratio / (self._eigenvalues + ratio))).sum(axis=0)
        volume = np.log1p(self._eigenvalues / ratio).sum(axis=0)
        return -n / 2 * (math.log(2 * math.pi * math.e / n) + np.log(residual)) - volume / 2
