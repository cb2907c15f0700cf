"""Random generators of torch, numpy and Python: seeded for a while, or put back to where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The states of all shared generators (torch on every device, numpy, Python) are put back on the way out."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (networks and data sets of users draw from it)
    # A GPU that nothing has used yet is left alone: reading its state would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 (the shared generator is what was kept)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Shared generators start from `seed` in here, and are what they were afterwards."""
    with random_states_kept():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (networks of users may draw from it)
        yield
