"""Features to measure, and what of them is measured, shared by the benchmarks of statistics."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from collapselab import ClassStats
from collapselab.metrics import METRICS

FAMILIES = ("NC1: variability", "NC2: geometry of the class means", "NC3: means and weights")
SCALARS = tuple(
    metric
    for metric in METRICS
    if metric.family in FAMILIES or metric.name == "stable_rank" or metric.name.startswith("components_")
)


def make(n: int, p: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of unbalanced classes with an offset, their labels, and a classifier's weight."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, c, (n,), generator=generator)
    labels[:c] = torch.arange(c)
    features = torch.randn(n, p, generator=generator)
    means = torch.randn(c, p, generator=generator)
    for start in range(0, n, 4096):
        features[start : start + 4096] += means[labels[start : start + 4096]] + 3
    return features, labels, torch.randn(c, p, generator=generator)


def accumulate(features: Tensor, labels: Tensor, c: int, scatter: str, batch: int) -> ClassStats:
    counts = torch.bincount(labels, minlength=c)
    stats = ClassStats(c, features.shape[1], scatter, class_counts=counts)  # pyright: ignore[reportArgumentType] one of the literals
    for start in range(0, len(labels), batch):
        stats.update(features[start : start + batch], labels[start : start + batch])
    return stats


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Time a function; on an accelerator until everything that it launched is done."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start
