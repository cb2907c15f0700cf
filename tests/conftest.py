"""Fixtures every test may use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings

# Examples are drawn the same way on every machine, and a slow machine is no failure.
settings.register_profile("collapselab", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("collapselab")

# Tensors here are small: waiting for a second thread costs more than it saves.
torch.set_num_threads(1)


@pytest.fixture
def seed() -> int:
    """The one number that every draw of a test starts from."""
    return 20220216


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
