"""Features of a first pass that are kept on an accelerator, so that a second pass need not run the network again.

Letters: n samples of a batch, p features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from collapselab.probes.free_memory import free_memory
from collapselab.statistics import is_deferred

# Features are kept if they take no more of the free memory than this.
SHARE = 1 / 8
# Batches are handed on together until a source has so many bytes of rows: few large kernels instead of many small ones.
_GROUP_BYTES = 2**25


@dataclass
class KeptBatches:
    """Rows of consecutive batches.

    Attributes:
        rows: by source, (n, p) of each batch.
        labels: (n,) of each batch, as they come, without those that do not count.
        decisions: (n,) the network's decision for each label, of each batch; empty where it has no scores.
    """

    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    labels: list[Int[Tensor, " n"]] = field(default_factory=list)
    decisions: list[Shaped[Tensor, " n"]] = field(default_factory=list)


class KeptFeatures:
    """Rows, labels and decisions of one pass, if they fit.

    On a CPU nothing is kept: its memory is often that of other work.

    Attributes:
        fits: whether everything was kept so far.
    """

    def __init__(self) -> None:
        self._batches: list[KeptBatches] = []
        self._current = KeptBatches()
        self._room: dict[torch.device, float] = {}
        self.fits, self._is_complete = True, False

    def add(self, source: str, rows: Shaped[Tensor, "n p"]) -> None:
        """Keep a copy of the rows of a source; once they do not fit, nothing is kept."""
        if not self.fits:
            return
        device = rows.device
        if device not in self._room:
            free = free_memory(device) if is_deferred("auto", device) else None
            self._room[device] = 0 if free is None else SHARE * free
        self._room[device] -= rows.nbytes
        if self._room[device] < 0:
            self.fits, self._batches, self._current = False, [], KeptBatches()
            return
        self._current.rows.setdefault(source, []).append(rows.clone())

    def end_batch(self, labels: Int[Tensor, " n"], decisions: Shaped[Tensor, " n"] | None) -> None:
        """End a batch of rows."""
        if not self.fits:
            return
        current = self._current
        current.labels.append(labels.clone())  # a loader may fill the same memory again
        if decisions is not None:
            current.decisions.append(decisions)
        largest = max((sum(part.nbytes for part in parts) for parts in current.rows.values()), default=0)
        if largest >= _GROUP_BYTES:
            self._batches.append(current)
            self._current = KeptBatches()

    def complete(self) -> None:
        """Say that the pass is over."""
        if self.fits and self._current.labels:
            self._batches.append(self._current)
            self._current = KeptBatches()
        self._is_complete = True

    def __bool__(self) -> bool:
        """Whether a whole pass was kept."""
        return self._is_complete and self.fits and bool(self._batches)

    def read(self) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor | None]]:
        """Yield rows by source, labels and decisions of several batches at a time."""
        for batches in self._batches:
            rows = {source: torch.cat(parts) for source, parts in batches.rows.items()}
            yield rows, torch.cat(batches.labels), torch.cat(batches.decisions) if batches.decisions else None
