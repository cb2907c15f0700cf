"""The pretended device refuses what a real one refuses, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dispatch_counts import DispatchCounts
from pretended_device import DEVICE, PretendedDevice

HERE, MASK, N = torch.arange(6.0).view(2, 3), torch.tensor([True, False]), torch.tensor([0, 1])
REFUSED: dict[str, Callable[[Tensor], object]] = {
    "sums": lambda x: x + HERE,
    "products": lambda x: HERE @ x.T,
    "masks of another device": lambda x: HERE[x > 1],
    "indices of another device": lambda x: HERE[x[0].long() * 0],
    "index_add": lambda x: HERE.clone().index_add_(0, N, x),
    "masked assignment": lambda x: x.__setitem__(x > 1, torch.ones(4)),
    "cat": lambda x: torch.cat([x, HERE]),
    "out": lambda x: torch.sub(x, x, out=torch.empty(2, 3)),
    "numpy": lambda x: x.numpy(),
}
TAKEN: dict[str, Callable[[Tensor], object]] = {
    "numbers": lambda x: x + 1.0,
    "scalar tensors": lambda x: x * torch.tensor(2.0),
    "copies": lambda x: x.copy_(HERE),
    "slices": lambda x: x.__setitem__(0, torch.ones(3)),
    "CPU indices": lambda x: x[N],
    "CPU masks": lambda x: x[MASK],
}


@pytest.mark.parametrize("name", REFUSED)
def test_devices_do_not_mix(name: str) -> None:
    with PretendedDevice(), pytest.raises((RuntimeError, TypeError), match=r"same device|cpu\(\) first"):
        REFUSED[name](torch.ones(2, 3, device=DEVICE))


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_device_takes_from_the_cpu(name: str) -> None:
    with PretendedDevice():
        TAKEN[name](torch.ones(2, 3, device=DEVICE))


def test_results_are_where_they_would_be() -> None:
    with PretendedDevice():
        x = torch.arange(6.0, device=DEVICE).view(2, 3)
        there = [
            x.T,
            x.double(),
            torch.zeros_like(x),
            x.new_zeros(2),
            x.split(1)[0],
            x.sort().values,
            HERE.to(x),
        ]
        here = [x.cpu(), x.to("cpu"), torch.zeros_like(x, device="cpu"), HERE.to("cpu"), torch.ones(2)]
    assert [tensor.device for tensor in there] == [DEVICE] * len(there)
    assert [tensor.device.type for tensor in here] == ["cpu"] * len(here)


def test_copies_to_the_host_are_counted() -> None:
    with PretendedDevice() as pretended:
        x = torch.ones(2, 3, device=DEVICE)
        x.cpu()
        x.to(torch.float64)
        x.to("cpu")
        HERE.clone().copy_(x)
    assert +pretended.to_host == {"cpu": 1, "to": 1, "copy_": 1}


def test_read_backs_of_the_device_are_told_from_those_of_the_cpu() -> None:
    with PretendedDevice():
        x = torch.ones(2, 3, device=DEVICE)
        with DispatchCounts(DEVICE.type) as counts:
            float(HERE.sum())
            assert not counts.read_backs
            float(x.sum())
    assert counts.read_backs == {"aten._local_scalar_dense.default": 1}
