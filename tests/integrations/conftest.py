"""Loaders of the tests of monitors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monitored_network import NUM_TRAIN, Noisy
from torch.utils.data import DataLoader


@pytest.fixture
def train_loader() -> DataLoader[Any]:
    order = torch.Generator().manual_seed(5)
    return DataLoader(Noisy(NUM_TRAIN, 1), batch_size=8, shuffle=True, generator=order)


@pytest.fixture
def test_loader() -> DataLoader[Any]:
    return DataLoader(Noisy(18, 2), batch_size=8)
