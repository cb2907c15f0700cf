"""Doing an experiment: its runs, one after another, then rows, figures, verdicts and a page over all of it.

OUT/experiment.json    what was asked for, where it ran, how long it took
OUT/runs/JOB/seed-K/   one folder per run
OUT/extras/            what was computed from finished runs
OUT/rows.csv           the table that everything below is a function of
OUT/FIGURE.pdf, .png   as in the paper
OUT/verdicts.json, .txt
OUT/report.html
OUT/experiment.lock    empty; locked while a process writes here
OUT/timings.json       how long steps took, for the estimate

Any number of processes may do the same experiment in the same folder: each takes runs that no other is at.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from collapselab.data.memory import check_samples
from collapselab.errors import InputError
from collapselab.experiments.claims import judge_claims
from collapselab.experiments.experiment import Experiment, Job, Scale
from collapselab.experiments.grid import Grid, few, samples_key
from collapselab.experiments.record import LOCK, Record, how_made, read_record
from collapselab.records.judgement import Judgement
from collapselab.storage import FolderInUse, exclusive, replace_text
from collapselab.training import RunInterrupted, Stopper, run_recipe
from collapselab.training.loop import cpu_threads
from collapselab.training.resuming import check_recipe

_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        experiment: which.
        scale: of its presets.
        seeds: 0 … seeds - 1; None for as many as the preset has.
        out: folder of everything; None for `runs/PAPER-FIGURE-SCALE`.
        copies: where the data sets of a name are on this machine.
        changes: values set in every recipe, by path.
        only: globs of job names.
        command: as it was typed, for the record.
    """

    experiment: Experiment
    scale: Scale
    seeds: int | None = None
    out: Path | None = None
    copies: Mapping[str, Path] | None = None
    changes: Mapping[str, Any] | None = None
    only: Sequence[str] = ()
    command: str = ""

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.experiment.id.replace('/', '-')}-{self.scale}"


@runtime_checkable
class Watcher(Protocol):
    """Is told of progress."""

    def timing(self, job: str) -> None:
        """A run of a new kind is being timed."""

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        """Before anything starts."""

    def waiting(self, runs: int) -> None:
        """Nothing is left to do but `runs` that other processes are at, or that start from such a run."""

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        """A run of `steps` begins; `steps_before` of all runs' `steps_of_all` are in finished ones."""

    def progress(self, done: int, total: int, doing: str) -> None:
        """Inside a run."""

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        """A run is finished."""

    def extra(self, name: str, seed: int) -> None:
        """Something is computed from finished runs."""


class _Silent:
    def timing(self, job: str) -> None: ...
    def estimated(self, runs_left: int, runs: int, seconds: float) -> None: ...
    def waiting(self, runs: int) -> None: ...
    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None: ...
    def progress(self, done: int, total: int, doing: str) -> None: ...
    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None: ...
    def extra(self, name: str, seed: int) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """A finished experiment.

    Attributes:
        folder: of everything.
        rows: the table.
        verdicts: as in verdicts.json.
        figures: the files that were drawn.
        was_finished: whether no run was left to do.
        left_out: runs that the results before had, and these have not: fewer seeds or names were asked for.
    """

    folder: Path
    rows: pd.DataFrame
    verdicts: list[Judgement]
    figures: list[Path]
    was_finished: bool
    left_out: int = 0


def reproduce(request: Request, watcher: Watcher | None = None, stopper: Stopper | None = None) -> Outcome:
    """Do an experiment, or what is left of it.

    Args:
        request: what is asked for.
        watcher: told of progress.
        stopper: says when to stop before the end; default on Ctrl-C and SIGTERM alone.

    Raises:
        InputError: data that are not there, values no recipe has, a folder that holds something else.
        RunInterrupted: stopped from outside; the same call goes on.
        ImportError: an extra that is not installed.
    """
    from collapselab.experiments.estimate import seconds_left

    watcher, stopper = watcher or _Silent(), stopper or Stopper()
    experiment, out = request.experiment, request.folder
    preset = experiment.presets[request.scale]
    if experiment.is_whole and request.only:
        raise InputError(f"--only: {experiment.id} needs all of its runs; leave --only out")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "experiments run in one process; give a single recipe to torchrun -m collapselab run"
        )
    seeds = range(preset.seeds if request.seeds is None else request.seeds)
    grid = Grid(out, preset, seeds, changes=request.changes, only=request.only, copies=request.copies)
    _check_data(grid, is_whole=experiment.is_whole)
    asked = {
        "experiment": experiment.id,
        "scale": request.scale,
        "seeds": list(seeds),
        "command": request.command,
        "changes": dict(request.changes or {}),
        "only": list(request.only),
        "reduced": preset.reduced,
    }
    held = read_record(out, asked)  # before anything is written where something else may be
    for job, seed in grid.all():
        check_recipe(job.recipe, grid.folder(job.name, seed))
    with stopper.listening():
        with _writing(out, stopper):
            record = Record(out, asked)
        runs = [_Run(number, job, seed) for number, (job, seed) in enumerate(grid.all(), start=1)]
        left = [run for run in runs if not grid.steps_done(run.job.name, run.seed)[1]]
        if left:
            watcher.estimated(len(left), len(runs), seconds_left(grid, watcher.timing, stopper))
        _run_all(grid, left, watcher, stopper)
        with _writing(out, stopper):
            for extra in experiment.extras:
                for seed in seeds:
                    if not grid.has_extra(extra.name, seed):
                        _check_stop(stopper)
                        watcher.extra(extra.name, seed)
                        with cpu_threads(grid.jobs(seed)[0].recipe.num_threads):
                            grid.write_extra(extra.name, seed, extra.compute(grid, seed))
            rows = experiment.rows(grid)
            verdicts = judge_claims(experiment.claims, rows, experiment.paper, experiment.where)
            figures = _write(experiment, request.scale, rows, verdicts, out)
            record.finish(grid, anything_new=bool(left))
            _write_page(
                request, _reduced(preset.reduced, grid, record.content), rows, verdicts, record.content
            )
    left_out = max(0, (held or {}).get("runs", 0) - len(runs))
    return Outcome(out, rows, verdicts, figures, was_finished=not left, left_out=left_out)


@dataclass(frozen=True)
class _Run:
    """A job for one seed, and its place among all."""

    number: int
    job: Job
    seed: int


def _run_all(grid: Grid, left: Sequence[_Run], watcher: Watcher, stopper: Stopper) -> None:
    """Every run that is left. One that another process is at is passed over, and looked at again later.

    Raises:
        InputError: some cannot begin; all others are done by then.
    """
    told = False
    lost: dict[tuple[str | None, int], InputError] = {}
    while left:
        others = []
        for run in left:
            if (run.job.after, run.seed) in lost:
                lost[run.job.name, run.seed] = lost[run.job.after, run.seed]
                continue
            try:
                if not _finish(grid, run, watcher, stopper):
                    others.append(run)
            except _NoStart as error:
                lost[run.job.name, run.seed] = error
        if len(others) == len(left):
            if not told:
                watcher.waiting(len(others))
                told = True
            _check_stop(stopper)
            time.sleep(_LOOK_AGAIN_SECONDS)
        left = others
    if lost:
        raise next(iter(lost.values()))


class _NoStart(InputError):
    """A run that cannot begin, as the one it starts from ended too early."""


def _finish(grid: Grid, run: _Run, watcher: Watcher, stopper: Stopper) -> bool:
    """Do a run; False if another process is at it, or at the one it starts from."""
    job, folder = run.job, grid.folder(run.job.name, run.seed)
    if grid.steps_done(job.name, run.seed)[1]:  # meanwhile, by another process
        return True
    if folder.in_use() or (job.after and not grid.steps_done(job.after, run.seed)[1]):
        return False
    _check_start(grid, run)
    everything = grid.all()
    finished = sum(one.recipe.steps for one, seed in everything if grid.steps_done(one.name, seed)[1])
    steps = sum(one.recipe.steps for one, _ in everything)
    start = time.perf_counter()
    watcher.run_started(job.name, run.seed, run.number, len(everything), finished, steps, job.recipe.steps)
    try:
        done = run_recipe(job.recipe, folder, watcher.progress, data=grid.data(job.recipe), stopper=stopper)
    except FolderInUse:  # since it was looked at
        return False
    seconds = time.perf_counter() - start
    watcher.run_ended(job.name, run.seed, run.number, len(everything), done["ended"], seconds)
    return True


def _check_start(grid: Grid, run: _Run) -> None:
    """That the weights which a run starts from are there.

    Raises:
        _NoStart: the run that should have written them ended before.
    """
    job = run.job
    if job.after is None or job.recipe.start is None:
        return
    # Relative to a folder that need not exist yet.
    path = os.path.normpath(grid.folder(job.name, run.seed).path / job.recipe.start.checkpoint)
    if not os.path.exists(path):
        before = grid.folder(job.after, run.seed).read_run() or {}
        raise _NoStart(
            f"{job.name}, seed {run.seed}: starts from {Path(job.recipe.start.checkpoint).name} of {job.after}, which "
            f"ended at step {before.get('steps')} ({before.get('ended')}); set other values for {job.after} and "
            f"remove {grid.out / 'runs' / job.after}"
        )


@contextmanager
def _writing(out: Path, stopper: Stopper) -> Iterator[None]:
    """While open, no other process writes what all runs of an experiment share."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(exclusive(out / LOCK))
                break
            except FolderInUse:
                _check_stop(stopper)
                time.sleep(_LOOK_AGAIN_SECONDS)
        yield


def _check_stop(stopper: Stopper) -> None:
    if stopper.reason:
        raise RunInterrupted(0, stopper.reason)


def _check_data(grid: Grid, *, is_whole: bool) -> None:
    """The samples of every run are there before hours are spent on the first.

    Raises:
        InputError: some are not; names those runs that do without them, if any and if they are enough.
    """
    checked: dict[str, InputError | None] = {}
    lacking: dict[str, InputError] = {}
    names = []
    for job, seed in grid.all():
        names.append(job.name)
        if grid.steps_done(job.name, seed)[1]:
            continue
        key = samples_key(job.recipe)
        if key not in checked:
            try:
                check_samples(job.recipe.data, job.recipe.seed, grid.copies)
                checked[key] = None
            except InputError as error:
                checked[key] = error
        if (error := checked[key]) is not None:
            lacking.setdefault(job.name, error)
    if not lacking:
        return
    first = next(iter(lacking.values()))
    others = sorted(set(names) - set(lacking))
    if others and not is_whole:
        raise InputError(f"{first}; or leave it out with --only {','.join(others)}")
    raise first


def _write(
    experiment: Experiment, scale: Scale, rows: pd.DataFrame, verdicts: list[Judgement], out: Path
) -> list[Path]:
    from collapselab.report.paper_style import save_figure
    from collapselab.report.wording import verdicts_text

    replace_text(out / "rows.csv", rows.to_csv(index=False, lineterminator="\n"))
    replace_text(
        out / "verdicts.json",
        json.dumps([one.model_dump(mode="json") for one in verdicts], indent=2, allow_nan=False) + "\n",
    )
    replace_text(out / "verdicts.txt", verdicts_text(verdicts, scale))
    paths: list[Path] = []
    for name, draw in experiment.figures.items():
        save_figure(draw(rows), out / name)
        paths += [out / f"{name}.pdf", out / f"{name}.png"]
    return paths


def _write_page(
    request: Request,
    reduced: str,
    rows: pd.DataFrame,
    verdicts: list[Judgement],
    record: Mapping[str, Any],
) -> None:
    from collapselab.report.experiment_page import ExperimentPageData, write_experiment_page

    experiment = request.experiment
    write_experiment_page(
        request.folder,
        ExperimentPageData(
            title=experiment.title,
            paper=experiment.paper,
            where=experiment.where,
            question=experiment.question,
            reduced=reduced,
            scale=request.scale,
            seeds=record["seeds"],
            rows=rows,
            charts=list(experiment.charts(rows)),
            verdicts=verdicts,
            made=how_made(record),
            beside=[f"{name}.{form}" for name in experiment.figures for form in ("pdf", "png")]
            + ["rows.csv", "verdicts.json"],
        ),
    )


def _reduced(reduced: str, grid: Grid, record: Mapping[str, Any]) -> str:
    """What differs from the paper: by the preset, by the command, and by runs that are not there.

    Threads change nothing but rounding.
    """
    said = [reduced] if reduced else []
    if changes := [f"{name} = {value}" for name, value in record["changes"].items() if name != "num_threads"]:
        said.append(f"Set by the command: {', '.join(changes)}.")
    if grid.left_out:
        said.append(f"Left out by the command, of each seed: {few(grid.left_out)}.")
    return " ".join(said)
