"""Features of a first pass that are kept in free memory, so that a second pass need not run the network again.

Letters: n samples of a batch, p features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from collapselab.distributed import rank_and_world
from collapselab.probes.free_memory import free_memory
from collapselab.statistics import is_deferred
from collapselab.user_code import is_out_of_memory

# Features are kept if they take no more of the free memory of an accelerator than this, and twice as much of that of the
# host, which processes share.
SHARE = 1 / 8
# On an accelerator batches are handed on together until a source has so many bytes of rows: few large kernels instead of
# many small ones. On a CPU they are handed on as they came: results are the same to the last bit.
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

    Args:
        num_labels: of the whole pass, in all processes, where known: nothing is copied that will not fit.

    Attributes:
        fits: whether everything was kept so far.
    """

    def __init__(self, num_labels: int | None = None) -> None:
        self._num_labels = num_labels
        self._batches: list[KeptBatches] = []
        self._current = KeptBatches()
        self._held: dict[torch.device, int] = {}
        self._room: dict[torch.device, float] = {}
        self.fits, self._is_complete = True, False

    def add(self, source: str, rows: Shaped[Tensor, "n p"]) -> None:
        """Keep a copy of the rows of a source; once they do not fit, nothing is kept."""
        if not self.fits:
            return
        device = rows.device
        if device not in self._room:
            self._room[device], self._held[device] = room_on(device), 0
        self._held[device] += rows.nbytes
        if self._held[device] > self._room[device]:
            self._drop()
            return
        try:
            self._current.rows.setdefault(source, []).append(rows.clone())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._drop()

    def end_batch(self, labels: Int[Tensor, " n"], decisions: Shaped[Tensor, " n"] | None) -> None:
        """End a batch of rows."""
        if not self.fits:
            return
        if self._num_labels is not None and len(labels):
            all_batches = self._num_labels / rank_and_world()[1] / len(labels)
            if any(self._held[device] * all_batches > room for device, room in self._room.items()):
                self._drop()
                return
            self._num_labels = None  # the first batch tells enough
        current = self._current
        current.labels.append(labels.clone())  # a loader may fill the same memory again
        if decisions is not None:
            current.decisions.append(decisions)
        largest = max((sum(part.nbytes for part in parts) for parts in current.rows.values()), default=0)
        if largest >= _GROUP_BYTES or not any(is_deferred("auto", device) for device in self._room):
            self._batches.append(current)
            self._current = KeptBatches()

    def _drop(self) -> None:
        self.fits, self._batches, self._current = False, [], KeptBatches()

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
            rows = {source: _joined(parts) for source, parts in batches.rows.items()}
            yield rows, _joined(batches.labels), _joined(batches.decisions) if batches.decisions else None


def room_on(device: torch.device) -> float:
    """Return how many bytes of features this process may keep on a device; 0 where its free memory is unknown."""
    share = 2 * SHARE / rank_and_world()[1] if device.type == "cpu" else SHARE
    return share * (free_memory(device) or 0)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
