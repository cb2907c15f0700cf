"""Choose what to read of a training loop's data, and prepare batches as the loop does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from collapselab.errors import InputError
from collapselab.probes.batches import Readable, known_labels

_DEFAULT_BATCH = 64
# Iterators of these modules have a position that can be neither copied nor restored.
_ITERATORS = ("builtins", "itertools", "torch.utils.data.dataloader")


def loader_for_measuring(loader: Iterable[Any], name: str) -> Iterable[Any]:
    """Return a loader to read instead of `loader`, while the training loop may be in the middle of it.

    A `DataLoader` that visits its whole data set is read in order, including samples that it would drop. Anything else is
    returned unchanged: `profile` reads it without affecting the loop.

    Args:
        loader: loader of the training loop.
        name: name of the argument, for errors.

    Raises:
        InputError: it is an iterator, or holds one that reading would advance.
    """
    if isinstance(loader, Iterator):
        raise InputError(
            f"{name} is an iterator and can be read once; give the loader itself, which is read at every measurement"
        )
    held = _held_iterator(loader)
    if held is not None:
        raise InputError(
            f"{name}: {held} is an iterator, which measuring would advance under the training loop; give {name}= with a "
            "second loader of the same data"
        )
    return in_order(loader, name) if isinstance(loader, DataLoader) and _visits_all(loader) else loader


def in_order(loader: Any, name: str, dataset: Any = None) -> DataLoader[Any]:
    """Return a loader of every sample in order: a copy of `loader` but for its sampler.

    Args:
        loader: a `DataLoader`.
        name: name of the argument that replaces this loader, for errors.
        dataset: data set to read instead of the loader's own.

    Raises:
        InputError: it is not a `DataLoader`, or its data set cannot be indexed.
    """
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"the training data come from a {type(loader).__name__}, not a DataLoader; give {name}= with data to measure"
        )
    dataset = loader.dataset if dataset is None else dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise InputError(
            f"{type(dataset).__name__} cannot be indexed, so it cannot be read in order; give {name}= with data to measure"
        )
    # `accelerate` wraps a loader in a loader, which puts batches on devices; that is done for every batch anyway.
    loader = getattr(loader, "base_dataloader", None) or loader
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _DEFAULT_BATCH
    order = SequentialSampler(dataset)
    # Not by the constructor: that of a subclass can take anything.
    copied = object.__new__(type(loader))
    copied.__dict__.update(vars(loader))
    copied.__dict__.update(
        dataset=dataset,
        batch_size=size,
        sampler=order,
        batch_sampler=BatchSampler(order, size, drop_last=False),
        drop_last=False,
        _iterator=None,
    )
    if loader.collate_fn is default_convert:  # the loader yields samples one by one
        copied.collate_fn = default_collate
    return copied


def _visits_all(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    if type(loader.batch_sampler) is not BatchSampler or isinstance(loader.dataset, IterableDataset):
        return False
    if isinstance(sampler, RandomSampler):
        if sampler.replacement or sampler.num_samples != len(sampler.data_source):
            return False
    elif not isinstance(sampler, SequentialSampler):
        return False
    return len(sampler.data_source) == len(loader.dataset)  # pyright: ignore[reportArgumentType] its samplers need a length


def _held_iterator(loader: Any) -> str | None:
    """Return the name of an attribute of a loader, or of an iterable data set, that holds an iterator."""
    parts = [loader]
    if (
        isinstance(loader, DataLoader)
        and isinstance(loader.dataset, IterableDataset)
        and not loader.num_workers
    ):
        parts.append(loader.dataset)
    for part in parts:
        for name, value in getattr(part, "__dict__", {}).items():
            if name != "_iterator" and isinstance(value, Iterator) and type(value).__module__ in _ITERATORS:
                return f"{type(part).__name__}.{name}"
    return None


class Prepared:
    """A loader whose batches are prepared as a trainer prepares them.

    Args:
        loader: a loader.
        prepare: from a batch of the loader to what the model is called with and the labels.
        is_plain: whether labels are known to stay as they are. Otherwise the first batch tells.
    """

    def __init__(self, loader: Any, prepare: Callable[[Any], Any], *, is_plain: bool = False) -> None:
        self.loader, self.is_plain = loader, is_plain
        self._prepare = prepare

    def __iter__(self) -> Iterator[Any]:
        return map(self._prepare, iter(self.loader))

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def sampler(self) -> Any:
        return getattr(self.loader, "sampler", None)

    @property
    def labels(self) -> Tensor | None:
        """Labels of all samples, where they are known without reading them."""
        labels = known_labels(self.loader)
        return labels if labels is None or self.is_plain or self._keeps_labels() else None

    def _keeps_labels(self) -> bool:
        first: list[Tensor] = []
        for loader in (self.loader, self):
            try:
                first.append(Readable(loader, torch.device("cpu"), None, "train").first().labels)
            except InputError:
                return False
        return torch.equal(*first)
