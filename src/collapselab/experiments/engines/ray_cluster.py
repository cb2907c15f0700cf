"""Runs at once on a Ray cluster: one task per run, in a folder that all nodes share.

A task does what this process would do, with the same function: it takes the lock of the run, resumes it from its saved
state, and writes every file itself. The driver, the process that was started by the user, only decides what is run next.
So a node, a task or the driver may die at any moment; whoever does the run next continues it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from collapselab.data.names import COPIES_VARIABLE, local_copies
from collapselab.errors import InputError, one_line
from collapselab.experiments.grid import Grid, GridRun
from collapselab.experiments.running import Watcher, next_move
from collapselab.numerics import cpu_threads
from collapselab.records.experiment import RECORD
from collapselab.records.recipe import Recipe
from collapselab.storage import FolderInUse
from collapselab.text import counted
from collapselab.training import RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.samples import Samples

_LOOK_AGAIN_SECONDS = 0.5
_REPORT_SECONDS = 1.0
_MOST_LOSSES = 10  # a run that is lost more often, as for lack of memory, is given up


@dataclass(frozen=True)
class RayCluster:
    """An engine that does runs as tasks of a Ray cluster.

    Attributes:
        address: of the cluster; None for the one in RAY_ADDRESS or on this machine, or else a new one on this machine.
        gpus: that each run needs, such as 0.5 for two runs on a GPU; None for what the preset says.
    """

    address: str | None = None
    gpus: float | None = None

    def run_all(self, grid: Grid, left: Sequence[GridRun], watcher: Watcher, stopper: Stopper) -> None:
        """See `collapselab.experiments.running.Engine`.

        Raises:
            InputError: also where no cluster answers.
            ImportError: Ray is not installed; the message names the extra.
        """
        ray = _connected(self.address)
        try:
            with stopper.listening():  # Ray has a handler of its own for signals
                _Flights(ray, grid, grid.gpus if self.gpus is None else self.gpus, watcher, stopper).run_all(
                    left
                )
        finally:
            ray.shutdown()


def _connected(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("running on a cluster needs Ray: pip install 'collapselab[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address or 'its default address'} ({one_line(error)}); start one "
            "as docs/cluster.md says, or check address="
        ) from error
    return ray


# ---------------------------------------------------------------- the driver


class _Flights:
    """The runs of a grid that are tasks at the moment, and what happens to them."""

    def __init__(self, ray: Any, grid: Grid, gpus: float, watcher: Watcher, stopper: Stopper) -> None:
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._grid, self._gpus = ray, grid, gpus
        self._watcher, self._stopper = watcher, stopper
        self._copies = local_copies() if grid.copies is None else grid.copies
        self._flying: dict[Any, GridRun] = {}
        self._waiting: list[GridRun] = []
        self._errors: dict[tuple[str | None, int], InputError] = {}
        self._losses: Counter[int] = Counter()
        self._steps: dict[int, int] = {}  # done, by the number of the run
        # On the node of the driver: it is needed no longer than the driver.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._task = ray.remote(_run_here)

    def run_all(self, left: Sequence[GridRun]) -> None:
        self._waiting = list(left)
        self._describe_cluster()
        is_waiting = False
        while self._waiting or self._flying:
            if self._stopper.reason:
                self._stop(self._stopper.reason)
            self._waiting = [run for run in self._waiting if not self._is_begun(run)]
            if self._flying:
                done, _ = self._ray.wait(list(self._flying), timeout=_LOOK_AGAIN_SECONDS)
                for task in done:
                    self._land(task, self._flying.pop(task))
            elif self._waiting:
                if not is_waiting:
                    self._watcher.waiting(len(self._waiting))
                    is_waiting = True
                time.sleep(_LOOK_AGAIN_SECONDS)
            self._show_progress()
        if self._errors:
            raise next(iter(self._errors.values()))

    def _is_begun(self, run: GridRun) -> bool:
        """Begin a run as a task, if it can be begun; return whether nothing more has to be done here."""
        move = next_move(self._grid, run, self._errors)
        if move == "do":
            threads, cwd = _threads(run), os.getcwd()
            task = self._task.options(
                name=f"{run.job.name}, seed {run.seed}", num_cpus=threads, num_gpus=self._gpus, max_retries=0
            ).remote(
                run.job.recipe,
                self._grid.out.absolute(),
                run.folder.path.absolute(),
                threads=threads,
                copies={name: path.absolute() for name, path in self._copies.items()},
                cwd=cwd,
                has_gpu=self._gpus > 0,
                news=self._news,
                number=run.number,
            )
            self._flying[task] = run
        return move != "wait"

    def _land(self, task: Any, run: GridRun) -> None:
        """Take note of how a task ended."""
        name = f"{run.job.name}, seed {run.seed}"
        self._steps.pop(run.number, None)
        try:
            how, text, seconds = self._ray.get(task)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            self._losses[run.number] += 1
            how, text, seconds = "lost", type(error).__name__, 0.0
            if self._losses[run.number] >= _MOST_LOSSES:
                how, text = (
                    "error",
                    f"{name}: lost its worker {_MOST_LOSSES} times ({text}); check the logs of Ray",
                )
        if how == "error":
            self._errors[run.job.name, run.seed] = InputError(text)
            self._watcher.note(text)
        elif how == "ended":
            runs = len(self._grid.all())
            self._watcher.run_ended(run.job.name, run.seed, run.number, runs, text, seconds)
        else:
            if how == "lost":
                self._watcher.note(f"{name}: lost its worker ({text}); it is started again where it was")
            self._waiting.append(run)

    def _stop(self, reason: str) -> None:
        """Stop all tasks between two steps, and wait until they have saved their states."""
        self._watcher.note("stopping: waiting until the runs that go on have saved their states")
        for task in self._flying:
            self._ray.cancel(task)
        left = list(self._flying)
        while left:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=_LOOK_AGAIN_SECONDS)
        raise RunInterrupted(0, reason)

    def _show_progress(self) -> None:
        with suppress(self._ray.exceptions.RayError):
            if count := self._news.qsize():
                self._steps |= dict(self._news.get_nowait_batch(count))
        everything, going = self._grid.all(), {run.number for run in self._flying.values()}
        done = [run for run in everything if run.is_finished]
        steps = sum(run.job.recipe.steps for run in done)
        steps += sum(count for number, count in self._steps.items() if number in going)
        text = f"{len(done)} of {counted(len(everything), 'run')} done, {len(going)} submitted"
        self._watcher.at_once(steps, sum(run.job.recipe.steps for run in everything), text)

    def _describe_cluster(self) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        most = max(map(_threads, self._waiting))
        need = f"{counted(most, 'CPU')} and {self._gpus:g} GPUs"
        self._watcher.note(
            f"{counted(len(self._waiting), 'run')} left on {counted(len(nodes), 'node')} with {cpus:g} CPUs and {gpus:g} "
            f"GPUs; a run needs {need} (you can stop with Ctrl-C; the same command resumes)"
        )
        if not any(node.get("CPU", 0) >= most and node.get("GPU", 0) >= self._gpus for node in nodes):
            self._watcher.note(f"no node has {need}: waiting for one; otherwise give fewer threads or GPUs")


def _threads(run: GridRun) -> int:
    """Return the threads of a run, which decide the last digits: of its recipe, or as it was begun, or of this process."""
    record = run.folder.read_run()
    begun = record.recipe.num_threads if record is not None and isinstance(record.recipe, Recipe) else None
    return run.job.recipe.num_threads or begun or torch.get_num_threads()


# ---------------------------------------------------------------- a task, on any node

_How = Literal["ended", "error", "again"]


def _run_here(
    recipe: Recipe,
    out: Path,
    folder: Path,
    *,
    threads: int,
    copies: Mapping[str, Path],
    cwd: str,
    has_gpu: bool,
    news: Any,
    number: int,
) -> tuple[_How, str, float]:
    """Do a run on this node.

    Args:
        recipe: of the run.
        out, folder: of the experiment and of the run.
        threads: of the CPU.
        copies: paths of named data sets, as the driver knows them.
        cwd: folder that paths in recipes are relative to.
        has_gpu: whether the run may use one.
        news: queue that takes the number of the run with the steps done.
        number: of the run.

    Returns:
        How it ended: `ended` with why, `error` with a message, or `again` if somebody else works on it or it was stopped;
        and the seconds that it took.
    """
    start, node = time.perf_counter(), f"node {socket.gethostname()}"
    if not has_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        if not (out / RECORD).exists():
            raise InputError(f"{out} is not there; write to a folder that all nodes share")
        with suppress(OSError):
            os.chdir(cwd)
        data = _samples(tuple(_copies_here(copies, recipe.data.name).items())).of(recipe)
        with cpu_threads(threads):
            record = run_recipe(recipe, RunFolder(folder), _reporter(news, number), data=data)
    except (FolderInUse, RunInterrupted):
        return "again", "", 0.0
    except (InputError, ImportError) as error:
        return "error", f"{node}: {one_line(error)}", 0.0
    return "ended", str(record.ended), time.perf_counter() - start


def _copies_here(copies: Mapping[str, Path], name: str) -> dict[str, Path]:
    """Return the data sets of the driver that are also here, with those that this node names itself.

    Raises:
        InputError: the one that is needed is neither.
    """
    here = local_copies() | {name: path for name, path in copies.items() if path.exists()}
    if name in copies and name not in here:
        raise InputError(
            f"{name}={copies[name]} is not there; use a path that all nodes share, or set {COPIES_VARIABLE} on each"
        )
    return here


@lru_cache(maxsize=1)
def _samples(copies: tuple[tuple[str, Path], ...]) -> Samples:
    """Keep the samples of the last recipe: a process does many runs, mostly on the same ones."""
    return Samples(dict(copies))


def _reporter(news: Any, number: int) -> Callable[[int, int, str], None]:
    last = -_REPORT_SECONDS

    def report(done: int, _total: int, _doing: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_SECONDS:
            last = time.monotonic()
            with suppress(Exception):  # the queue dies with its node; runs go on
                news.put_nowait((number, done))

    return report
