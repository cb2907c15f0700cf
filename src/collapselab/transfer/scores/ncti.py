"""NCTI: how far features are from neural collapse on the target data, in three parts and relative to other models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from collapselab.errors import InputError, one_line
from collapselab.transfer.samples import Matrix, Samples, read_samples

_COMPONENTS, _COMPONENTS_OF_SHRINKAGE = 64, 32
_SMALLEST_SHRINKAGE = 1e-10


@dataclass(frozen=True)
class NCTIParts:
    """The three parts of NCTI of one model.

    Attributes:
        seli: nuclear norm of the centred discriminant features; larger is nearer to the geometry of collapse.
        ncc: mean posterior probability of the label under linear discriminant analysis; larger is better.
        vc: logarithm of the sum over classes of the nuclear norms of the posteriors; smaller is more collapsed.
    """

    seli: float
    ncc: float
    vc: float


def ncti_parts(features: Any, labels: Any) -> NCTIParts:
    """Return the parts of NCTI as in the published code of Wang et al. (2023); the paper leaves constants open.

    Features are reduced to their 64 leading principal components. Linear discriminant analysis is fitted to these, with
    shrinkage exp(-(variance of the 32 leading ones)), or without if that is at most 1e-10. `seli` is the nuclear norm of
    the n x min(64, C - 1) discriminant features, `ncc` the mean posterior of the label, `vc` the logarithm of the sum
    over classes of the nuclear norms of the n_c x C posteriors. The shrinkage depends on the unit of the features.

    Cost: eigenvectors of the smaller of F F^T and F^T F, O(n p min(n, p)).

    Args:
        features, labels: (n, p) and (n,), in any container that `collapselab.measure` takes.

    Raises:
        InputError: NaN, shapes that do not agree, a single class, no more samples than classes, no variation within
            classes.
    """
    samples = read_samples(features, labels, "NCTI")
    components = _principal_components(samples.features)
    variances = components.var(axis=0, ddof=1)
    shrinkage = math.exp(-float(variances[:_COMPONENTS_OF_SHRINKAGE].sum()))
    discriminants, posteriors = _discriminants(components, samples, shrinkage)
    label_posteriors = posteriors[np.arange(len(posteriors)), samples.labels]
    within = (
        np.linalg.norm(posteriors[samples.labels == label], ord="nuc") for label in range(samples.num_classes)
    )
    centred = discriminants - discriminants.mean(axis=0)
    return NCTIParts(
        float(np.linalg.norm(centred, ord="nuc")), float(label_posteriors.mean()), math.log(math.fsum(within))
    )


def ncti(parts: Mapping[str, NCTIParts]) -> dict[str, float]:
    """Return NCTI of each model, seli + ncc - vc with each part scaled to [0, 1] over the models; larger is better.

    The score compares the given models: it changes if a model is added. A part that is equal for all models is 0.

    Args:
        parts: by model, all on the same samples.

    Raises:
        InputError: fewer than two models.

    Example:
        >>> ncti({"a": NCTIParts(9.0, 0.9, 2.0), "b": NCTIParts(5.0, 0.8, 3.0)})
        {'a': 2.0, 'b': -1.0}
    """
    if len(parts) < 2:
        raise InputError("NCTI compares models; give the parts of at least two")
    table = np.array([astuple(part) for part in parts.values()])
    low, spread = table.min(axis=0), np.ptp(table, axis=0)
    scaled = (table - low) / np.where(spread > 0, spread, 1.0)
    return dict(zip(parts, (scaled @ np.array([1.0, 1.0, -1.0])).tolist(), strict=True))


def _principal_components(features: Matrix) -> Matrix:
    """Return the coordinates (n, k) along the leading principal axes, k at most 64, those without variance left out."""
    rows = features - features.mean(axis=0)
    n, p = rows.shape
    scale = np.abs(rows).max()
    if not scale > 0:
        raise InputError("NCTI: the features do not vary; give features of samples that differ")
    unit = rows / scale
    values, vectors = np.linalg.eigh(unit @ unit.T if n < p else unit.T @ unit)
    leading = np.argsort(values)[::-1][: min(_COMPONENTS, n, p)]
    leading = leading[values[leading] > max(n, p) * np.finfo(np.float64).eps * values.max()]
    return vectors[:, leading] * np.sqrt(values[leading]) * scale if n < p else rows @ vectors[:, leading]


def _discriminants(components: Matrix, samples: Samples, shrinkage: float) -> tuple[Matrix, Matrix]:
    """Return discriminant features (n, d) and posteriors (n, C) of linear discriminant analysis.

    Raises:
        InputError: it cannot be fitted.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if shrinkage > _SMALLEST_SHRINKAGE:
        analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage)
    else:
        analysis = LinearDiscriminantAnalysis(solver="svd")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # collinear components are expected where features collapse
            discriminants = analysis.fit(components, samples.labels).transform(components)
            posteriors = analysis.predict_proba(components)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"NCTI: linear discriminant analysis cannot be fitted ({one_line(error)}); give more samples than classes, "
            "with variation within classes"
        ) from error
    if not (np.isfinite(discriminants).all() and np.isfinite(posteriors).all()):
        raise InputError(
            "NCTI: the features do not vary within classes, so that it is infinite; use another score"
        )
    return discriminants, posteriors
