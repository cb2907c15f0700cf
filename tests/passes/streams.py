"""A stream of features held in a list of batches, with everything that the engine may ask of it."""

from __future__ import annotations

import torch
from torch import Tensor

from collapselab.metrics import select
from collapselab.passes import Point, PointWeight, SplitPlan
from collapselab.passes.stream import EndBatch, ReceiveRows
from collapselab.statistics import Scatter

POINT = Point("only", "only", 6, channels_first=True, is_classifier=True)


class ListStream:
    """Batches of one source, `only`; counts how often it is read."""

    split = where = "train"
    is_shared = False
    in_memory: tuple[Tensor, Tensor] | None = None
    can_be_read_again = True
    expected_labels: int | None = None

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        decided: Tensor | None = None,
        declared: bool = True,
        size: int = 10,
    ) -> None:
        self.features, self.labels, self.decided, self.size = features, labels, decided, size
        self.label_values = torch.tensor([3, 5, 8, 13])
        self.declared_counts = torch.bincount(labels, minlength=4) if declared else None
        self.times_read = 0

    def settle_labels(self) -> Tensor | None:
        return None

    def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        self.times_read += 1
        for start in range(0, len(self.labels), self.size):
            rows = slice(start, start + self.size)
            receive("only", self.features[rows], self.labels[rows])
            decided = None if self.decided is None else self.decided[rows]
            end_batch(self.labels[rows], lambda found=decided: found)


def draw(counts: tuple[int, ...] = (12, 9, 14), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 features (n, 6) of classes with these sizes, shuffled, and their label numbers."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means = torch.randn(len(counts), 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return means[labels] + torch.randn(len(labels), 6, generator=generator, dtype=torch.float64), labels


def plan(metrics: list[str], *, scatter: Scatter = "full", split: str = "train") -> SplitPlan:
    return SplitPlan(
        (POINT,), {"only": PointWeight(None)}, select(metrics, split), {"only": scatter}, "balanced"
    )
