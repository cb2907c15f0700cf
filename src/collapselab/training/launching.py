"""Start a run in several processes of this machine, one per device, and follow it from here."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from collapselab.errors import InputError
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.storage import FolderInUse
from collapselab.training.progress import StepCallback
from collapselab.training.stopping import RunInterrupted, Stopper

_POLL_SECONDS = 0.1
# Processes that wait for one that failed are ended after this time.
_GRACE_SECONDS = 5.0


def processes_started() -> int:
    """Return how many processes `torchrun`, or `launched`, has started for this run; 1 for none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Work:
    """What each process does.

    Attributes:
        run: trains; called with `options`, progress and a stopper, by name.
        recipe: with its number of devices and threads.
        folder: path of the run.
        options: further arguments of `run`.
    """

    run: Callable[..., object]
    recipe: Recipe
    folder: Path
    options: Mapping[str, Any]


def launched(work: Work, on_step: StepCallback, stopper: Stopper) -> None:
    """Run in as many processes as the recipe has devices; return when all have ended.

    Signals, progress and errors are handled here as if the work was done in this process.

    Raises:
        InputError: too few devices; a mistake that a process reports, or a process that was killed.
        RunInterrupted: stopped from outside. The state is saved.
    """
    from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, start_processes

    recipe = _resolved(work.recipe)
    work = Work(work.run, recipe, work.folder, work.options)
    context = torch.multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    ends: list[Exception] = []

    def read() -> None:
        while True:
            try:
                kind, values = messages.get_nowait()
            except Empty:
                return
            if kind == "step":
                on_step(*values)
            elif kind == "warning":
                warnings.warn(values, stacklevel=2)
            else:
                ends.append(_ENDS[kind](*values))

    processes: Any = start_processes(
        _process, (recipe.devices, _free_port(), work, messages, stop), recipe.devices, join=False
    )
    try:
        while not processes.join(_POLL_SECONDS, _GRACE_SECONDS):
            read()
            if stopper.reason is not None:
                stop.set()
    except ProcessException as error:
        time.sleep(_POLL_SECONDS)  # what it said may still be on its way
        read()
        if not ends:
            if not isinstance(error, ProcessExitedException):
                raise
            raise InputError(
                f"process {error.error_index} of {recipe.devices} was killed ({error}); run the same again to resume"
            ) from error
    finally:
        for process in processes.processes:
            process.kill()
    read()
    if ends:
        # One that failed ends the others, which then have less to say.
        end = next((end for end in ends if not isinstance(end, RunInterrupted)), ends[0])
        if isinstance(end, RunInterrupted):
            end = RunInterrupted(end.step, stopper.reason or end.reason)
        raise end


_ENDS: dict[str, Callable[..., Exception]] = {
    "in use": FolderInUse,
    "refused": InputError,
    "missing": ImportError,
    "interrupted": RunInterrupted,
}


def _resolved(recipe: Recipe) -> Recipe:
    """Return the recipe with its number of threads: the processes share the processors.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else None
    if gpus is not None and recipe.devices > gpus:
        raise InputError(f"devices={recipe.devices}: there are {gpus} GPUs here; give at most {gpus}")
    threads = recipe.num_threads or max(1, torch.get_num_threads() // recipe.devices)
    return recipe.model_copy(update={"num_threads": threads})


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _FollowedStopper(Stopper):
    """Stops when the process that started this one says so, or at a signal."""

    def __init__(self, stop: Any) -> None:
        super().__init__()
        self._stop = stop

    @property
    def reason(self) -> str | None:
        return super().reason or ("out of time" if self._stop.is_set() else None)


def _process(rank: int, world: int, port: int, work: Work, messages: Any, stop: Any) -> None:
    """Do the work of one process. The first one reports progress and warnings; all report what ended them."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    with suppress(ImportError):  # which is reported in its place
        import lightning_fabric  # noqa: F401 (it sets its level when it is imported)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    is_first = rank == 0

    def warn(message: object, *_: object, **__: object) -> None:
        if is_first:
            messages.put(("warning", str(message)))

    def on_step(*progress: object) -> None:
        if is_first:
            messages.put(("step", progress))

    warnings.showwarning = warn
    try:
        folder, stopper = RunFolder(work.folder), _FollowedStopper(stop)
        work.run(work.recipe, folder, on_step, stopper=stopper, **work.options)
    except RunInterrupted as stopped:
        messages.put(("interrupted", (stopped.step, stopped.reason)))
    except (InputError, ImportError) as error:
        kind = "in use" if isinstance(error, FolderInUse) else "refused"
        messages.put(("missing" if isinstance(error, ImportError) else kind, (str(error),)))
        sys.exit(1)
