"""Training samples of each step: they depend only on the seed and the step number."""

from __future__ import annotations

import torch
from torch import Tensor

_SEEDS = 2**63  # torch takes no more


class Batches:
    """Batches of one epoch after another; each epoch visits every sample once, in an order of its own.

    An epoch's last batch may be smaller. One with fewer than two samples per process is left out: batch norm cannot
    train on a single sample.

    Args:
        num_samples: training samples.
        batch_size: samples per step, over all processes.
        seed: of the orders.
        device: where the rows are needed.
        shares: processes that share a batch.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, device: torch.device, shares: int = 1
    ) -> None:
        self._num_samples, self._size, self._seed, self._shares = num_samples, batch_size, seed, shares
        self._device = device
        self._starts = list(range(0, num_samples, batch_size))
        if len(self._starts) > 1 and num_samples - self._starts[-1] < 2 * shares:
            self._starts.pop()
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self._starts)

    @property
    def samples_per_epoch(self) -> int:
        """Samples that an epoch visits."""
        return min(self._num_samples, self._starts[-1] + self._size)

    def size(self, step: int) -> int:
        """Return the number of samples of the step that follows `step` finished ones, over all processes."""
        return min(self._size, self._num_samples - self._starts[step % len(self)])

    def rows(self, step: int) -> Tensor:
        """Return the numbers of the samples of the step that follows `step` finished ones, over all processes."""
        epoch, position = divmod(step, len(self))
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch + 1) % _SEEDS)
            order = torch.randperm(self._num_samples, generator=generator).to(self._device)
            self._order = (epoch, order)
        start = self._starts[position]
        return self._order[1][start : start + self._size]

    def share(self, step: int, rank: int) -> Tensor:
        """Return those of `rows` that one process trains on: every n-th of n processes."""
        return self.rows(step)[rank :: self._shares]

    def on_host(self) -> Batches:
        """Return the same batches with rows on the CPU, with an order of their own: they may be ahead by an epoch."""
        return Batches(self._num_samples, self._size, self._seed, torch.device("cpu"), self._shares)
