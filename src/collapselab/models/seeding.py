"""Draws that follow from a seed, and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Generators of torch, numpy and Python start from `seed` in here, and are what they were afterwards."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 networks of users may draw from the global generator
    # A GPU that nothing has used yet is left alone: reading its state would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    try:
        with torch.random.fork_rng(devices=list(devices)):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
