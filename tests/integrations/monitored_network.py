"""A small network, and data that draw from every kind of generator each time they are read."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

NUM_CLASSES, DIM, NUM_TRAIN = 3, 6, 48
BATCHES = 6  # of 8 samples


class Noisy(Dataset[tuple[Tensor, int]]):
    """Samples that draw from every kind of generator each time they are read, one of its own among them."""

    def __init__(self, num: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.targets = [index % NUM_CLASSES for index in range(num)]
        self.inputs = torch.randn(num, DIM, generator=draw) + torch.eye(NUM_CLASSES, DIM)[self.targets]
        self.own = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = random.random() + np.random.rand() + float(torch.rand(())) + self.own.random()  # noqa: NPY002 (the shared generator is what must not move)
        return self.inputs[index] + 0.01 * noise, self.targets[index]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(DIM, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, NUM_CLASSES)
    )
