"""Several processes, each with a share of the data: the only module that imports `torch.distributed`.

In a single process, these functions do nothing. All processes get the same numbers, bit for bit: each of them merges the
same parts in the same order.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from collapselab.errors import InputError, one_line

Stats = TypeVar("Stats")
Result = TypeVar("Result")
# `parameters`: they are gathered before a layer runs (FSDP), so that each process computes batches of its own, but all
# must run equally many. `layers`: all processes compute the same batch together (tensor parallelism).
Split = Literal["parameters", "layers"] | None


def _import_without_process_group() -> None:
    """Import `torch.distributed.nn.functional`, which reads the default process group when it is imported.

    Its functions have that group as a default argument. A `TorchDispatchMode` imports it; if the group exists by then, it
    stays alive after `destroy_process_group`, and so do threads of gloo, which now and then abort the process at its end.
    """
    group, dist.group.WORLD = dist.group.WORLD, None
    try:
        import_module("torch.distributed.nn.functional")
    finally:
        dist.group.WORLD = group


if dist.is_available():
    _import_without_process_group()


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Connect the processes that `torchrun` started while the context is open; yield (rank, number of processes).

    Args:
        device: device of this process's model; its type decides which backend is used.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not dist.is_available() or dist.is_initialized():
        yield rank_and_world()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield rank_and_world()
    finally:
        dist.destroy_process_group()


def leave_process_group_at_exit() -> None:
    """Destroy, at the end of this process, a process group that others opened and leave open.

    One that still lives then has threads of gloo, which now and then abort the process.
    """
    atexit.unregister(_leave_process_group)  # once is enough, however many runs there are
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if dist.is_available() and dist.is_initialized():
        # Networks that were trained hold the group, in circles.
        gc.collect()
        dist.destroy_process_group()


def local_device(wanted: str) -> torch.device:
    """Return the device of that name; for `auto` this process's GPU if there is one, else the CPU.

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
        raise InputError(f"device={wanted}: cannot be used ({one_line(error)}); use cpu") from error
    return device


def merged_over_ranks(stats: Stats) -> Stats:
    """Return the statistics of the samples of all processes together, in every process.

    Every process receives the first-order sums of all processes, computes the same common centres from them and
    re-expresses its own scatter about these; the scatters are then added. So each scatter is sent only once.

    Args:
        stats: with the methods of `collapselab.statistics.ClassStats`.
    """
    rank, world = rank_and_world()
    if world == 1:
        return stats
    # Known by its methods: this module lies below the statistics.
    own, kind = cast(Any, stats), cast(Any, type(stats))
    parts = []
    for source in range(world):
        state = _broadcast_state(own.state_dict(with_scatter=False) if source == rank else None, source)
        parts.append(own if source == rank else kind.from_state_dict(state))
    merged = kind.merge(parts)
    total = merged.scatter_total()
    if total is not None:
        reduced = total.to(_device()).contiguous()
        dist.all_reduce(reduced)
        largest = max(_gathered(own.max_abs if own.has_samples else 0.0))
        merged.replace_scatter(reduced.to(total.device), largest)
        _keep_few_rows(own, merged)
    return merged


def _keep_few_rows(own: Any, merged: Any) -> None:
    """Give the rows of all processes to the merged statistics, if they are few: other processes' sums lack them."""
    rows = own.all_rows()
    found = _gathered(None if rows is None else (str(rows[0].dtype), len(rows[1])))
    counts = [0 if one is None else one[1] for one in found]
    dtypes = {one[0] for one, count in zip(found, counts, strict=True) if count}
    if rows is None or None in found or len(dtypes) != 1 or sum(counts) > merged.dim:
        return
    first = sum(counts[: rank_and_world()[0]])
    features, labels = (joined_over_ranks({first: part} if len(part) else {}, sum(counts)) for part in rows)
    merged.keep_rows(features, labels)


def _broadcast_state(state: dict[str, Any] | None, source: int) -> dict[str, Any]:
    """Return what `state_dict` gave in process `source`, in every process: plain values first, then tensors."""
    moments = (state or {}).get("moments") or {}
    announced = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in moments.items()}
    plain = {name: value for name, value in (state or {}).items() if name != "moments"}
    message: list[Any] = [(plain, announced)]
    dist.broadcast_object_list(message, src=source)
    plain, announced = message[0]
    received = {}
    for name, (shape, dtype) in announced.items():
        own = moments[name].to(_device()).contiguous() if moments else None
        received[name] = torch.empty(shape, dtype=dtype, device=_device()) if own is None else own
        dist.broadcast(received[name], src=source)
    return plain | {"moments": received or None}


def summed_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of all processes' `values`, added in the order of ranks.

    Args:
        values: of the same shape and dtype in every process.
    """
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


def joined_over_ranks(parts: Mapping[int, Tensor], count: int) -> Tensor:
    """Return the rows of all processes, in order, in every process.

    Args:
        parts: consecutive rows of this process, by the number of the first.
        count: of rows of all processes.
    """
    own = next(iter(parts.values()), None)
    forms = _gathered(None if own is None else (tuple(own.shape[1:]), own.dtype))
    shape, dtype = next(form for form in forms if form is not None)
    rows = torch.zeros((count, *shape), dtype=dtype)
    for first, part in parts.items():
        rows[first : first + len(part)] = part
    return summed_over_ranks(rows)  # exact: every row is that of one process and zero in the others


def gathered_over_ranks(value: Any) -> list[Any]:
    """Return the plain values of all processes, in the order of ranks, in every process."""
    return _gathered(value)


def copy_buffers_of_first_rank(model: nn.Module) -> None:
    """Make the buffers of a model those of the first process, as `DistributedDataParallel` does before a forward pass."""
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            whole = buffer.to(_device()).contiguous()
            dist.broadcast(whole, src=0)
            buffer.copy_(whole)


def splits_of(model: nn.Module) -> Split:
    """Return what of a model is split over several processes; None for nothing."""
    known = [getattr(parameter, "device_mesh", None) for parameter in model.parameters()]
    meshes = [mesh for mesh in known if mesh is not None and mesh.size() > 1]
    modules = list(model.modules())
    if any(mesh.ndim > 1 for mesh in meshes) or (meshes and not any(map(_reshards, modules))):
        return "layers"
    flat = rank_and_world()[1] > 1 and any(map(_is_flat, modules))
    return "parameters" if meshes or flat else None


def whole_parameters(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which the parameters of the older FSDP are whole; those of `fully_shard` gather themselves."""
    flat = next((module for module in model.modules() if _is_flat(module)), None)
    return nullcontext() if flat is None else cast(Any, type(flat)).summon_full_params(model, writeback=False)


@contextmanager
def resharding(model: nn.Module) -> Iterator[None]:
    """On exit, release parameters that FSDP gathered: kept, they would hide the next step of an optimiser."""
    try:
        yield
    finally:
        for module in filter(_reshards, model.modules()):
            cast(Any, module).reshard()


def _is_flat(module: nn.Module) -> bool:
    """Return whether a module is a `FullyShardedDataParallel`, which keeps parts of flattened parameters."""
    return type(module).__name__ == "FullyShardedDataParallel"


def _reshards(module: nn.Module) -> bool:
    """Return whether `fully_shard` was applied to a module."""
    return hasattr(module, "reshard") and hasattr(module, "unshard")


def differing_over_ranks(values: list[float]) -> list[int]:
    """Return the places at which not all processes have the same value, up to rounding."""
    parts = _gathered(values)
    return [
        at
        for at, column in enumerate(zip(*parts, strict=True))
        if max(column) - min(column) > 1e-5 * max(map(abs, column))
    ]


def union_over_ranks(values: Tensor) -> Tensor:
    """Return all processes' values (k,) together, each once, in ascending order."""
    return torch.cat(_gathered(values.cpu())).unique()


def is_same_over_ranks(value: str) -> bool:
    """Return whether all processes have the same value."""
    return len(set(_gathered(value))) == 1


def largest_over_ranks(value: int) -> int:
    """Return the largest of all processes' values."""
    return max(_gathered(value))


def run_together(work: Callable[[], Result]) -> Result:
    """Return the result of `work()`; if it fails in any process, raise in every process.

    Raises:
        Exception: see `raise_together`.
    """
    try:
        result = work()
    except Exception as error:
        raise_together(error)
        raise
    raise_together(None)
    return result


def raise_together(error: Exception | None) -> None:
    """Raise in every process if any of them has an error, so that none waits for the others forever.

    Raises:
        Exception: this process's own error; else an InputError or RuntimeError that names the process with the error.
    """
    _, world = rank_and_world()
    if world == 1:
        if error is not None:
            raise error
        return
    found = _gathered(None if error is None else (isinstance(error, InputError), str(error)))
    if error is not None:
        raise error
    for rank, problem in enumerate(found):
        if problem is not None:
            is_of_user, text = problem
            raise (InputError if is_of_user else RuntimeError)(f"process {rank}: {text}")


def _gathered(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of ranks."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def _device() -> torch.device:
    """Return the device from which the process group's collectives take their tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
