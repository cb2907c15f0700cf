"""Several processes, each with a share of the data: the only import of `torch.distributed`.

Everything here does nothing in a single process. Each process ends with the same numbers, bit for bit: all of them
merge the same parts in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from collapselab.errors import InputError, one_line
from collapselab.statistics import ClassStats


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """While open, the processes that `torchrun` started work together; yields (rank, how many).

    Args:
        device: of this process's model; its kind decides how processes talk.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not dist.is_available() or dist.is_initialized():
        yield rank_and_world()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield rank_and_world()
    finally:
        dist.destroy_process_group()


def local_device(wanted: str) -> torch.device:
    """`auto`: this process's GPU where there is one, else the CPU; or whatever device is named.

    Raises:
        InputError: there is no such device.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {wanted}: cannot be used ({one_line(error)}); use cpu") from error
    return device


def merged_over_ranks(stats: ClassStats) -> ClassStats:
    """The statistics of all processes' samples together, on every process.

    Every process learns the first-order sums of all, finds from them the same common centres, expresses its own
    scatter about these, and scatters are added on the way: each travels once.
    """
    rank, world = rank_and_world()
    if world == 1:
        return stats
    parts = []
    for source in range(world):
        state = stats.state_dict(with_scatter=False) if source == rank else None
        state = _broadcast_state(state, source)
        parts.append(stats if source == rank else ClassStats.from_state_dict(state))
    merged = ClassStats.merge(parts)
    total = merged.scatter_total()
    if total is not None:
        reduced = total.to(_device()).contiguous()
        dist.all_reduce(reduced)
        merged.replace_scatter(
            reduced.to(total.device), max(_gathered(stats.max_abs if stats.has_samples else 0.0))
        )
    return merged


def _broadcast_state(state: dict[str, Any] | None, source: int) -> dict[str, Any]:
    """What `state_dict` gave on process `source`, on every process: plain values, then tensors."""
    moments = (state or {}).get("moments") or {}
    announced = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in moments.items()}
    plain = {name: value for name, value in (state or {}).items() if name != "moments"}
    carried: list[Any] = [(plain, announced)]
    dist.broadcast_object_list(carried, src=source)
    plain, announced = carried[0]
    received = {}
    for name, (shape, dtype) in announced.items():
        own = moments[name].to(_device()).contiguous() if moments else None
        received[name] = torch.empty(shape, dtype=dtype, device=_device()) if own is None else own
        dist.broadcast(received[name], src=source)
    return plain | {"moments": received or None}


def summed_over_ranks(values: Tensor) -> Tensor:
    """The sum of all processes' `values`, of one shape and dtype everywhere, added in the order of ranks."""
    rank, world = rank_and_world()
    if world == 1:
        return values
    total = torch.zeros_like(values)
    for source in range(world):
        part = (
            values.to(_device()).contiguous()
            if source == rank
            else torch.empty_like(values, device=_device())
        )
        dist.broadcast(part, src=source)
        total += part.to(total.device)
    return total


def largest_over_ranks(value: int) -> int:
    """The largest of all processes' whole numbers."""
    return max(_gathered(value))


def raise_together(error: Exception | None) -> None:
    """Raise in every process if any has an error, so that none waits for another in vain.

    Raises:
        Exception: this process's own error, or one of its kind that names the process it happened in.
    """
    _, world = rank_and_world()
    if world == 1:
        if error is not None:
            raise error
        return
    found = _gathered(None if error is None else (type(error).__name__, str(error)))
    if error is not None:
        raise error
    for rank, problem in enumerate(found):
        if problem is not None:
            kind, text = problem
            raise (InputError if kind == "InputError" else RuntimeError)(f"process {rank}: {text}")


def _gathered(value: Any) -> list[Any]:
    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def _device() -> torch.device:
    """Where the process group's collectives take their tensors from."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
