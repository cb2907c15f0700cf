"""Values on their way from an accelerator to the host, which does other work until it needs them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def waits(device: torch.device) -> bool:
    """Return whether the host would wait for copies from or to this device, unless they are told not to block."""
    return device.type == "cuda" and torch.cuda.is_initialized()


class Readback:
    """A few values of an accelerator that are being copied to the host.

    Args:
        values: (k,), on any device.
    """

    def __init__(self, values: Float[Tensor, " k"]) -> None:
        self._values, self._copied = values, None
        if waits(values.device):
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """Return the values; wait for what computes them, not for what was launched after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


def moved_behind(values: Shaped[Tensor, " n"], device: torch.device) -> Shaped[Tensor, " n"]:
    """Return host values on a device; the copy waits for what the device does, the host waits for nothing."""
    if values.device.type == "cpu" and waits(device):
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
