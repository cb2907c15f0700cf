"""Principal axes of features, and where class indicators lie along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from collapselab.numerics import EPS64
from collapselab.transfer.samples import Matrix, Samples, class_sums


@dataclass(frozen=True)
class ClassSpectrum:
    """The singular value decomposition U S V^T of rows (n, p), as far as scores need it.

    Attributes:
        squares: (r,), squared singular values, largest first; those below max(n, p) eps64 times the largest are left out.
        indicators: (r, c), U^T Y, with the one-hot labels Y (n, c).
    """

    squares: Matrix
    indicators: Matrix


def class_spectrum(rows: Matrix, samples: Samples) -> ClassSpectrum:
    """Return the spectrum of rows (n, p) of the samples, from the eigenvectors of the smaller of F F^T and F^T F.

    This takes a third of the time of a singular value decomposition. Directions whose singular value is below 1e-6 of the
    largest lose digits, as they do in the metrics, which read covariances.
    """
    n, p = rows.shape
    gram = torch.from_numpy(rows.T @ rows if n > p else rows @ rows.T)
    values, vectors = (part.numpy() for part in torch.linalg.eigh(gram))
    kept = values > max(n, p) * EPS64 * values[-1]
    squares, axes = values[kept][::-1], vectors[:, kept][:, ::-1]
    sums = class_sums(rows if n > p else axes, samples)
    indicators = (axes.T @ sums.T) / np.sqrt(squares)[:, None] if n > p else sums.T
    return ClassSpectrum(squares, indicators)
