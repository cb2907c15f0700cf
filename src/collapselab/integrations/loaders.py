"""Read a training loop's data without affecting the loop."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from collapselab.errors import InputError

_DEFAULT_BATCH = 64


def loader_for_measuring(loader: Iterable[Any], name: str) -> Iterable[Any]:
    """Return a loader to read instead of `loader`, while the training loop may be in the middle of it.

    A `DataLoader` that visits its whole data set is read in order, including samples that it would drop. Any other
    `DataLoader` with persistent workers is rebuilt without them, since they would interrupt the loop's own pass.
    Anything else is returned unchanged.

    Args:
        loader: loader of the training loop.
        name: name of the argument, for errors.

    Raises:
        InputError: it is an iterator.
    """
    if isinstance(loader, Iterator):
        raise InputError(
            f"{name} is an iterator and can be read once; give the loader itself, which is read at every measurement"
        )
    if not isinstance(loader, DataLoader):
        return loader
    if _visits_all(loader):
        return in_order(loader, name)
    return _rebuilt(loader) if loader.persistent_workers else loader


def in_order(loader: Any, name: str, dataset: Any = None) -> DataLoader[Any]:
    """Return a loader of every sample in order, with the batch size, collation and workers of `loader`.

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
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _DEFAULT_BATCH
    return DataLoader(dataset, batch_size=size, **_manner(loader))


def _visits_all(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    if type(loader.batch_sampler) is not BatchSampler or isinstance(loader.dataset, IterableDataset):
        return False
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return isinstance(sampler, SequentialSampler)


def _rebuilt(loader: DataLoader[Any]) -> DataLoader[Any]:
    manner = _manner(loader)
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, **manner)
    if loader.batch_size is None and loader.batch_sampler is not None:
        return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, **manner)
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=loader.sampler,
        drop_last=loader.drop_last,
        **manner,
    )


def _manner(loader: DataLoader[Any]) -> dict[str, Any]:
    manner: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "worker_init_fn": loader.worker_init_fn,
        "timeout": loader.timeout,
    }
    if loader.num_workers:
        manner["multiprocessing_context"] = loader.multiprocessing_context
        manner["prefetch_factor"] = loader.prefetch_factor
    return manner


@contextmanager
def preserved_generators(*loaders: Any) -> Iterator[None]:
    """Put the states of random generators of loaders, their samplers and data sets back on exit.

    `profile` takes care of the global generators.
    """
    states = [_state(generator) for loader in loaders for generator in _generators(loader)]
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


def _state(generator: Any) -> tuple[Any, Any]:
    """Return a function that sets the state of a generator, and its current state."""
    if isinstance(generator, torch.Generator):
        return generator.set_state, generator.get_state()
    if isinstance(generator, random.Random):
        return generator.setstate, generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.set_state, generator.get_state()
    bits = generator.bit_generator
    return lambda state: setattr(bits, "state", state), copy.deepcopy(bits.state)


def _generators(loader: Any) -> Iterator[Any]:
    kinds = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
    parts, seen = [loader], set()
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        yield from (value for value in getattr(part, "__dict__", {}).values() if isinstance(value, kinds))
        parts += [getattr(part, name, None) for name in ("sampler", "batch_sampler", "dataset")]
