"""A training loop sees the same samples with and without a monitor, which measures in the middle of its epochs."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    StackDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from collapselab import InputError, profile
from collapselab.integrations import Monitor

NUM, DIM = 24, 4


def tensors() -> TensorDataset:
    labels = torch.arange(NUM) % 2
    return TensorDataset(torch.arange(NUM * DIM).view(NUM, DIM).float() / NUM + labels[:, None], labels)


class Jitter(Dataset[tuple[Tensor, int]]):
    """Draws from generators of its own and of its transform, counts reads and shuffles a list."""

    def __init__(self, seed: int, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.base, self.transform = tensors(), transform
        self.draw, self.numpy, self.reads = (
            torch.Generator().manual_seed(seed),
            np.random.default_rng(seed),
            0,
        )
        self.shifts = [0.0, 0.25, 0.5]

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, label = self.base[index]
        self.reads += 1
        self.shifts.append(self.shifts.pop(0))
        shift = self.shifts[0] + self.reads + float(torch.rand((), generator=self.draw)) + self.numpy.random()
        return (inputs if self.transform is None else self.transform(inputs)) + shift, int(label)


class Draw:
    """A transform with a generator in a slot."""

    __slots__ = ("generator",)

    def __init__(self) -> None:
        self.generator = random.Random(5)

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs + self.generator.random() + _SHARED.random()


_SHARED = np.random.default_rng(6)


class Counting(Sampler[int]):
    """Another order in every epoch: it counts them, and shuffles an array in place."""

    def __init__(self) -> None:
        self.epoch, self.order = 0, np.arange(NUM)

    def __len__(self) -> int:
        return NUM

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        np.random.default_rng(self.epoch).shuffle(self.order)
        return iter(self.order.tolist())


class Halves(Sampler[list[int]]):
    """Batches in an order of its own generator."""

    def __init__(self) -> None:
        self.random, self.position = random.Random(7), 0

    def __len__(self) -> int:
        return NUM // 6

    def __iter__(self) -> Iterator[list[int]]:
        batches = [list(range(start, start + 6)) for start in range(0, NUM, 6)]
        self.random.shuffle(batches)
        for self.position in range(len(batches)):
            yield batches[self.position]


class Stream(IterableDataset[Any]):
    """Goes on where the last pass ended."""

    def __init__(self) -> None:
        self.data, self.next = tensors(), 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(NUM):
            self.next = (self.next + 5) % NUM
            yield self.data[self.next]


class Wrapper:
    """Moves batches somewhere else, as timm's prefetcher does, and counts them."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.batches = loader, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for inputs, labels in self.loader:
            self.batches += 1
            yield inputs + self.batches, labels


def noisy_collate(samples: list[Any], generator: torch.Generator | None = None) -> Any:
    inputs, labels = default_collate(samples)
    return inputs + torch.rand((), generator=generator) + _SHARED.random(), labels


def closure() -> Callable[[list[Any]], Any]:
    generator = torch.Generator().manual_seed(8)
    return lambda samples: noisy_collate(samples, generator)


def composed() -> Any:
    transforms = pytest.importorskip("torchvision.transforms")
    return Jitter(3, transforms.Compose([Draw()]))


def prepared() -> Any:
    accelerate = pytest.importorskip("accelerate")
    loader = DataLoader(tensors(), 6, shuffle=True)
    return accelerate.data_loader.prepare_data_loader(loader, put_on_device=False, use_seedable_sampler=True)


def stacked(samples: list[Any]) -> Any:
    first, second = zip(*samples, strict=True)
    inputs, labels = default_collate(list(first))
    return inputs + default_collate(list(second))[0], labels


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(tensors(), 6, shuffle=True),
    "shuffled by a generator": lambda: DataLoader(
        tensors(), 6, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(1)
    ),
    "persistent workers": lambda: DataLoader(
        tensors(), 6, sampler=Counting(), num_workers=2, persistent_workers=True
    ),
    "weighted": lambda: DataLoader(
        Jitter(1), 6, sampler=WeightedRandomSampler(torch.arange(NUM).float().tolist(), NUM)
    ),
    "weighted by a generator": lambda: DataLoader(
        tensors(),
        6,
        sampler=WeightedRandomSampler([1.0] * NUM, NUM, generator=torch.Generator().manual_seed(1)),
    ),
    "with replacement": lambda: DataLoader(
        tensors(),
        6,
        sampler=RandomSampler(
            tensors(), replacement=True, num_samples=40, generator=torch.Generator().manual_seed(1)
        ),
    ),
    "counting sampler": lambda: DataLoader(tensors(), 6, sampler=Counting()),
    "batch sampler": lambda: DataLoader(tensors(), batch_sampler=Halves()),
    "batches of a sampler": lambda: DataLoader(tensors(), batch_sampler=BatchSampler(Counting(), 5, False)),
    "parts": lambda: DataLoader(
        ConcatDataset([Subset(Jitter(1), range(10)), ConcatDataset([Jitter(2)])]), 6, shuffle=True
    ),
    "stack": lambda: DataLoader(StackDataset(Jitter(1), Jitter(2)), 6, shuffle=True, collate_fn=stacked),
    "transforms": lambda: DataLoader(composed(), 6, shuffle=True),
    "collate closure": lambda: DataLoader(tensors(), 6, shuffle=True, collate_fn=closure()),
    "collate partial": lambda: DataLoader(
        tensors(), 6, collate_fn=functools.partial(noisy_collate, generator=torch.Generator().manual_seed(2))
    ),
    "stream": lambda: DataLoader(ChainDataset([Stream(), Stream()]), 6),
    "wrapper": lambda: Wrapper(DataLoader(Jitter(1), 6, shuffle=True)),
    "wrapped persistent workers": lambda: Wrapper(
        DataLoader(tensors(), 6, shuffle=True, num_workers=1, persistent_workers=True)
    ),
    "accelerate": prepared,
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_loop_sees_the_same_samples(name: str, tmp_path: Path) -> None:
    global _SHARED
    seen = []
    for monitored in (False, True):
        loader, model = LOADERS[name](), nn.Linear(DIM, 2)
        monitor = Monitor(model, loader, loader, out=tmp_path, every=3, steps_per_epoch=4)
        torch.manual_seed(7)
        _SHARED = np.random.default_rng(6)
        if monitored:
            monitor.start()
        batches = []
        for _ in range(2):
            for inputs, labels in loader:
                batches.append(torch.cat([inputs, labels[:, None]], 1))
                if monitored:
                    monitor.step()
        if monitored:
            monitor.finish()
            assert not monitor.failures
        seen.append(batches)
    assert len(seen[0]) == len(seen[1])
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


def test_profile_does_not_end_the_iteration_of_a_loop() -> None:
    loader = DataLoader(Jitter(1), 6, shuffle=True, num_workers=1, persistent_workers=True)
    batches = 0
    for _ in loader:
        batches += 1
        if batches == 2:
            profile(nn.Linear(DIM, 2), loader)
    assert batches == NUM // 6


class Normalising(DataLoader[Any]):
    """A loader with a signature and an iteration of its own."""

    def __init__(self, data: Dataset[Any], scale: float) -> None:
        super().__init__(data, batch_size=6, shuffle=True)
        self.scale = scale

    def __iter__(self) -> Any:
        for inputs, labels in super().__iter__():
            yield inputs * self.scale, labels


def test_a_loader_of_ones_own_class_is_read_as_it_iterates(tmp_path: Path) -> None:
    monitor = Monitor(nn.Linear(DIM, 2), Normalising(tensors(), 0.25), out=tmp_path).start()
    assert monitor.profile is not None
    inputs, labels = tensors().tensors
    expected = torch.stack([inputs[labels == label].double().mean(0) * 0.25 for label in (0, 1)])
    means = monitor.profile[""].splits["train"].class_means
    assert means is not None
    torch.testing.assert_close(means.double(), expected)


class Endless(DataLoader[Any]):
    """As in timm: one iterator for all epochs."""

    def __init__(self) -> None:
        super().__init__(tensors(), batch_size=6)
        self.endless = super().__iter__()

    def __iter__(self) -> Any:
        for _ in range(len(self)):
            yield next(self.endless)


class Lines(IterableDataset[Any]):
    def __init__(self) -> None:
        self.lines = iter([(torch.ones(DIM), 0)] * 8)

    def __iter__(self) -> Any:
        return self.lines


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (Endless, r"Endless\.endless"),
        (lambda: DataLoader(Lines(), 2), r"Lines\.lines"),
    ],
)
def test_iterators_that_cannot_be_put_back_are_refused(
    loader: Callable[[], Any], name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=name + " is an iterator.*give train_loader= with a second loader"):
        Monitor(nn.Linear(DIM, 2), loader(), out=tmp_path, steps_per_epoch=1)
