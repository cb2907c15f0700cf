"""Random generators of torch, numpy and Python: seeded inside a context, or restored on exit."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# Objects that random numbers are drawn from.
GENERATORS = (
    torch.Generator,
    random.Random,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
)


def generator_state(generator: Any) -> Callable[[], object]:
    """Return a function that puts a generator back into its current state.

    Args:
        generator: one of `GENERATORS`.
    """
    if isinstance(generator, random.Random):
        state = generator.getstate()
        return lambda: generator.setstate(state)
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return functools.partial(generator.set_state, generator.get_state())
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    state = copy.deepcopy(bits.state)
    return lambda: setattr(bits, "state", state)


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Put the states of all shared generators (torch on every device, numpy, Python) back on exit."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (networks and data sets of users draw from it)
    # Reading the state of a GPU that is not used yet would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 (the shared generator is what is preserved)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start all shared generators from `seed`, and put their states back on exit."""
    with preserved_random_states():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Start all shared generators from `seed`; those of a GPU only if it is in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (networks of users may draw from it)
