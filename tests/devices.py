"""The accelerators that tests run on: a real one where there is one, and a pretended one everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from pretended_device import PretendedDevice, on_device

Put = Callable[[Tensor], Tensor]

cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)
accelerators = pytest.mark.parametrize("accelerator", ["pretended", cuda])


@contextmanager
def putting_on(accelerator: str) -> Iterator[Put]:
    """Yield a function that moves tensors to the accelerator, which exists while the context is open."""
    if accelerator == "pretended":
        with PretendedDevice():
            yield on_device
    else:
        yield Tensor.cuda
