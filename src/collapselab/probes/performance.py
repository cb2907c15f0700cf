"""Loss and accuracy of the network itself, from the class scores that it returns in the first pass over a split."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from collapselab.distributed import summed_over_ranks
from collapselab.probes.batches import Batch
from collapselab.probes.scores import Scores


class Tally:
    """Sums of losses and of correct decisions; they stay on the device of the scores until they are asked for.

    Args:
        scores: where the network returns class scores; None where it has none.
    """

    def __init__(self, scores: Scores | None) -> None:
        self._scores, self._is_open = scores, scores is not None
        self._sums: Tensor | None = None  # losses, correct decisions, labels

    def add(self, output: Any, batch: Batch) -> None:
        """Add a batch of the first pass; those of later passes are the same.

        Raises:
            InputError: the output is not there, or has another shape than in the first batch.
        """
        if not self._is_open or self._scores is None or not len(batch.counted_labels):
            return
        rows = self._scores.rows(output, batch)
        # There are no float64 numbers on MPS.
        exact = torch.float32 if rows.device.type == "mps" else torch.float64
        rows, labels = rows.to(exact), batch.counted_labels.to(rows.device, non_blocking=True)
        correct = self._scores.decided(rows) == labels
        losses = cross_entropy(self._scores, rows, labels)
        sums = torch.stack([losses.sum(), correct.sum().to(exact), torch.ones_like(losses).sum()])
        self._sums = sums if self._sums is None else self._sums + sums

    def close(self) -> None:
        """End the first pass."""
        self._is_open = False

    def performance(self, *, is_shared: bool) -> tuple[float, float] | None:
        """Return mean loss and accuracy over the samples of all processes; None without class scores.

        Args:
            is_shared: whether other processes read other batches; then all must ask.
        """
        if self._scores is None:
            return None
        sums = torch.zeros(3, dtype=torch.float64) if self._sums is None else self._sums.cpu().double()
        loss, correct, count = (summed_over_ranks(sums) if is_shared else sums).tolist()
        return (loss / count, correct / count) if count else (math.nan, math.nan)


def cross_entropy(scores: Scores, rows: Tensor, labels: Tensor) -> Tensor:
    """Return minus the logarithm of the probability of each label (n,), in nats.

    Args:
        scores: whether the rows are probabilities already.
        rows: (n, c) class scores; (n,) or (n, 1) for one logit of two classes.
        labels: (n,).
    """
    if not scores.is_one_logit:
        logs = rows.log() if scores.are_probabilities else rows
        loss = functional.nll_loss if scores.are_probabilities else functional.cross_entropy
        return loss(logs, labels, reduction="none")
    truth = labels.to(rows.dtype)
    if scores.are_probabilities:
        return -torch.where(truth > 0, rows.flatten(), 1 - rows.flatten()).log()
    return functional.binary_cross_entropy_with_logits(rows.flatten(), truth, reduction="none")
