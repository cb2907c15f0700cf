"""Draws with declared properties, and the one way results are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from collapselab.statistics import ClassStats, Scatter

EPS32 = float(np.finfo(np.float32).eps)
EPS64 = float(np.finfo(np.float64).eps)


def assert_close(actual: Any, expected: Any, *, rel: float, scale: float | None = None, why: str) -> None:
    """Every element within `rel` of `scale`, by default of the largest expected element.

    Args:
        rel: the tolerance, from the dtype's eps times what multiplies it.
        scale: what the error is relative to.
        why: the derivation of `rel`, shown on failure.
    """
    actual, expected = (
        np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
        for value in (actual, expected)
    )
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    if scale is None:
        scale = float(np.abs(expected).max())
    error = float(np.abs(actual - expected).max())
    assert error <= rel * scale, (
        f"off by {error:.3g} = {error / scale if scale else np.inf:.3g} of {scale:.6g}; allowed {rel:.3g}, since {why}"
    )


def accumulate(
    features: Tensor, labels: Tensor, scatter: Scatter = "full", *, batch: int | None = None, **kwargs: Any
) -> ClassStats:
    """ClassStats of all rows, fed in batches; C is the largest label + 1."""
    stats = ClassStats(int(labels.max()) + 1, features.shape[1], scatter, **kwargs)
    size = batch or len(labels)
    for start in range(0, len(labels), size):
        stats.update(features[start : start + size], labels[start : start + size])
    return stats


def feed(stats: ClassStats, features: Tensor, labels: Tensor) -> None:
    """Add a batch and read: deferred checks wait until statistics are read."""
    stats.update(features, labels)
    assert stats.has_samples


def summary(stats: ClassStats) -> dict[str, np.ndarray[Any, Any]]:
    """Everything a ClassStats says about its samples, in the weighting it was summed for."""
    out = {
        "counts": stats.counts,
        "means": stats.class_means,
        "variances": stats.class_variances,
        "unit_means": stats.unit_means,
        "unit_counts": stats.unit_counts,
    }
    weighting = "sample" if stats.class_counts is None else "balanced"
    if stats.scatter == "full":
        out["within"] = stats.within_covariance(weighting)
    elif stats.scatter == "sketch":
        out["sketch"] = stats.within_sketch(weighting)[0]
    elif stats.scatter == "per_class":
        out["scatters"] = stats.class_covariances()
    return {name: value.cpu().numpy() for name, value in out.items()}


def uneven_labels(rng: np.random.Generator, counts: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels with these class sizes, shuffled."""
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def simplex(num_classes: int, dim: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Vertices of a simplex of unit norm about the origin, rotated at random into `dim` >= C-1 features."""
    vertices = np.eye(num_classes) - 1 / num_classes
    vertices *= np.sqrt(num_classes / (num_classes - 1))
    basis = np.linalg.svd(vertices)[2][: num_classes - 1]
    rotation = np.linalg.qr(rng.standard_normal((dim, num_classes - 1)))[0]
    return vertices @ basis.T @ rotation.T


def tensors(features: Any, labels: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(features).to(dtype), torch.as_tensor(labels)
