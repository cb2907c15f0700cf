"""Interpret the batches of loaders and the outputs of models, in all supported forms."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from collapselab.distributed import rank_and_world
from collapselab.errors import InputError
from collapselab.probes.containers import LABEL_KEYS, call, moved, split_labels
from collapselab.probes.tensors import UnreadableError, ordinary

# Positions with this label are padding and not samples, as in torch's own losses.
IGNORED_LABEL = -100

# From one batch, as the loader yields it, to what the model is called with and the labels.
SplitBatch = Callable[[Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Batch:
    """One batch: inputs on the model's device, labels on the host, where nothing waits for them.

    Attributes:
        place: name of the batch in messages, such as `train, batch 3`.
        inputs: what the model is called with: see `collapselab.probes.containers.call`.
        labels: of any shape; one per sample, or one per token.
        device: where the inputs are.
    """

    place: str
    inputs: Any
    labels: Tensor
    device: torch.device

    @cached_property
    def counted(self) -> Tensor | None:
        """Numbers of the flattened labels that are not padding; None if none is padding."""
        flat = self.labels.flatten().numpy()
        if len(flat) == 0 or flat.min() > IGNORED_LABEL:
            return None
        counted = flat != IGNORED_LABEL
        return None if counted.all() else torch.from_numpy(np.flatnonzero(counted))

    @cached_property
    def counted_labels(self) -> Tensor:
        """Labels that are not padding, one per row of features."""
        return self.labels.flatten() if self.counted is None else self.labels.flatten()[self.counted]

    def rows_that_count(self, rows: Tensor) -> Tensor:
        """Return the entries of `rows` (one for each flattened label, on any device) whose label is not padding."""
        if self.counted is None:
            return rows
        if rows.device not in self._counted_on:
            self._counted_on[rows.device] = self.counted.to(rows.device, non_blocking=True)
        return rows[self._counted_on[rows.device]]

    @cached_property
    def _counted_on(self) -> dict[torch.device, Tensor]:
        return {}

    def run(self, model: nn.Module) -> Any:
        """Return what the model returns for the inputs."""
        return call(model, self.inputs)


class Readable:
    """A loader whose first batch can be looked at before it is read, and that yields this process's batches only.

    If there are several processes and the loader yields all batches, each process takes its part of them. Samples that
    a `DistributedSampler` repeats, so that every process has equally many, are labelled as padding.

    Args:
        loader: yields batches; an iterator can be read once.
        device: where batches are put.
        split_batch: see `collapselab.probes.options`.
        split: name of the split in messages.
        is_whole: whether every process takes all batches that its loader yields.
        change: applied to every batch.

    Attributes:
        is_spent: whether the loader was an iterator and has been read.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        device: torch.device,
        split_batch: SplitBatch | None,
        split: str,
        is_whole: bool = False,
        change: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        self._is_whole = is_whole
        self._loader, self._device, self._split_batch, self._split = loader, device, split_batch, split
        self._change = change
        self._begun: Iterator[Any] | None = None
        self.is_spent = False

    @property
    def is_share(self) -> bool:
        """Whether the loader yields only this process's share of the data."""
        return _is_share(self._loader)

    def first(self) -> Batch:
        """Return the first batch, whichever process it belongs to; `read` yields it again.

        Raises:
            InputError: there is none, or it is not inputs with labels.
        """
        begun = iter(self._loader)
        for raw in begun:
            self._begun = itertools.chain([raw], begun)
            return self._batch(raw, 0)
        of_all = getattr(self._loader, "first_of_all", None)
        if of_all is not None and _is_share(self._loader):
            return self._batch(of_all(), 0)
        raise InputError(f"{self._split}: the loader yields nothing; give one that yields batches")

    def second(self) -> Batch | None:
        """Return the second batch after `first`, if there is one; `read` yields both again."""
        if self._begun is None:
            return None
        begun = list(itertools.islice(self._begun, 2))
        self._begun = itertools.chain(begun, self._begun)
        return self._batch(begun[1], 1) if len(begun) == 2 else None

    def read(self) -> Iterator[Batch]:
        """Yield this process's batches.

        Raises:
            InputError: a batch that is not inputs with labels, or labels that are not whole numbers.
        """
        begun, self._begun = self._begun, None
        raw_batches = iter(self._loader) if begun is None else begun
        self.is_spent = isinstance(self._loader, Iterator)
        rank, world = rank_and_world()
        num_parts = 1 if self._is_whole or self.is_share else world
        left = _distinct_samples(self._loader)
        for number, raw in enumerate(raw_batches):
            if number % num_parts != rank % num_parts:
                continue
            batch = self._batch(raw, number)
            if left is not None:
                if len(batch.labels) > left:
                    labels = batch.labels.clone()
                    labels[left:] = IGNORED_LABEL
                    batch = dataclasses.replace(batch, labels=labels)
                left -= min(left, len(batch.labels))
            yield batch

    def _batch(self, raw: Any, number: int) -> Batch:
        # Memory that a `DataLoader` has pinned is not used again before it was copied; that of others may be.
        is_pinned = isinstance(self._loader, DataLoader) and self._loader.pin_memory
        batch = _read_batch(
            raw, f"{self._split}, batch {number}", self._device, self._split_batch, non_blocking=is_pinned
        )
        return self._change(batch)


def _read_batch(
    raw: Any, place: str, device: torch.device, split_batch: SplitBatch | None, *, non_blocking: bool
) -> Batch:
    """Return a batch, as a loader yields it, checked and on `device`."""
    inputs, labels = split_batch(raw) if split_batch else _split(raw, place)
    if np.ma.isMaskedArray(labels):
        raise InputError(
            f"{place}: labels are masked; give plain whole numbers, {IGNORED_LABEL} for those to ignore"
        )
    if isinstance(labels, Tensor | PackedSequence):
        try:
            labels = ordinary(labels)
        except UnreadableError as error:
            raise InputError(f"{place}: labels are {error}") from error
    if not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{place}: labels are a {type(labels).__name__}, not whole numbers; give class numbers"
            ) from error
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim == 0:
        raise InputError(
            f"{place}: labels have dtype {labels.dtype} and shape {tuple(labels.shape)}; give whole numbers, one per "
            "sample: labels.long() of class numbers, labels.argmax(1) of one-hot rows"
        )
    return Batch(
        place=place,
        inputs=moved(inputs, device, non_blocking=non_blocking),
        labels=labels.detach().to(device="cpu", dtype=torch.int64),
        device=device,
    )


def _is_share(loader: Any) -> bool:
    """Return whether the loader yields only this process's share of the data."""
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, DistributedSampler) or bool(getattr(loader, "is_share", False))


def _distinct_samples(loader: Any) -> int | None:
    """Return how many samples of a `DistributedSampler`'s share come before those it repeats; None for other loaders."""
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    # The share is every num_replicas-th entry of a list that begins with each sample once.
    return -(-(len(sampler.dataset) - sampler.rank) // sampler.num_replicas)  # pyright: ignore[reportArgumentType] the sampler itself takes its length


def _split(raw: Any, place: str) -> tuple[Any, Any]:
    by_name = split_labels(raw)
    if by_name is not None:
        return by_name
    if isinstance(raw, Mapping):
        raise InputError(
            f"{place}: a mapping with the keys {sorted(map(str, raw))} and none of {', '.join(LABEL_KEYS)}; "
            "give split_batch= to name the labels"
        )
    if isinstance(raw, list | tuple) and len(raw) >= 2 and not isinstance(raw, PackedSequence):
        *inputs, labels = raw
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), labels
    raise InputError(
        f"{place}: a {type(raw).__name__}, not inputs with labels; yield (inputs, labels) or a mapping, or give "
        "split_batch="
    )


def known_labels(loader: Any) -> Tensor | None:
    """Return the labels of all samples of a pass over `loader`, in any order; None if they are not known beforehand.

    They are known for loaders that have `labels` (`collapselab.data`), and for a `DataLoader` that visits each sample
    of a data set with known labels once.
    """
    if isinstance(getattr(loader, "labels", None), Tensor):
        return loader.labels
    if not isinstance(loader, DataLoader) or loader.drop_last or loader.batch_size is None:
        return None
    sampler = loader.sampler
    plain = isinstance(sampler, SequentialSampler | DistributedSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if not plain or (isinstance(sampler, DistributedSampler) and sampler.drop_last):
        return None
    labels = _labels_of_dataset(loader.dataset)
    fits = labels is not None and labels.ndim == 1 and len(labels) == len(loader.dataset)  # pyright: ignore[reportArgumentType] a plain sampler needs a length
    return labels.long() if fits and labels is not None else None


def _labels_of_dataset(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        labels = _labels_of_dataset(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return _whole_numbers(dataset.tensors[-1])
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for key in ("labels", "targets"):
        if hasattr(dataset, key):
            return _whole_numbers(getattr(dataset, key))
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list):  # the `datasets` library
        for key in LABEL_KEYS:
            if key in names:
                return _whole_numbers(dataset.with_format(None)[key][:])
    return None


def _whole_numbers(labels: Any) -> Tensor | None:
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor
