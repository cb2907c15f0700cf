"""Run an experiment: first its runs, then rows, figures, verdicts and a page.

OUT/experiment.json    request, hardware, duration
OUT/runs/JOB/seed-K/   one folder per run
OUT/extras/            further results computed from finished runs
OUT/rows.csv           table of all measurements; everything below is computed from it
OUT/FIGURE.pdf, .png   as in the paper
OUT/verdicts.json, .txt
OUT/report.html
OUT/experiment.lock    empty; locked while a process writes here
OUT/timings.json       recent step timings, for the estimate

Any number of processes may run the same experiment in the same folder: each takes runs that no other process works on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from pydantic import JsonValue

from collapselab.errors import InputError, one_line
from collapselab.experiments.estimate import seconds_left
from collapselab.experiments.experiment import Experiment, Extra
from collapselab.experiments.grid import Grid
from collapselab.experiments.record import DESCRIPTION, finished_record, held_record
from collapselab.experiments.results import write_results
from collapselab.experiments.rows import read_rows_csv
from collapselab.experiments.running import check_data, check_stop, run_all, unfinished_runs, writing
from collapselab.experiments.watching import Silent, Watcher
from collapselab.numerics import cpu_threads
from collapselab.records.experiment import RECORD, ExperimentRecord, Scale, read_experiment, write_experiment
from collapselab.records.outcome import Outcome
from collapselab.storage import now
from collapselab.training import Stopper
from collapselab.training.resuming import check_recipe


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        experiment: which.
        scale: of its presets.
        seeds: 0 … seeds - 1; None for as many as the preset has.
        out: folder of everything; None for `runs/PAPER-FIGURE-SCALE`.
        copies: paths of named data sets on this machine.
        changes: values set in every recipe, by path; with `GLOB:PATH` in those of some jobs.
        only: globs of job names; empty for all.
        command: as it was typed, for the record.
    """

    experiment: Experiment
    scale: Scale
    seeds: int | None = None
    out: Path | None = None
    copies: Mapping[str, Path] | None = None
    changes: Mapping[str, JsonValue] | None = None
    only: Sequence[str] = ()
    command: str = ""

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.experiment.id.replace('/', '-')}-{self.scale}"

    def grid(self) -> Grid:
        """Return the runs.

        Raises:
            InputError: a glob matches no job, a recipe has no such field, or runs that are needed are left out.
        """
        if self.experiment.is_whole and self.only:
            raise InputError(
                f"only={','.join(self.only)}: {self.experiment.id} needs all of its runs; leave only= out"
            )
        preset = self.experiment.presets[self.scale]
        seeds = range(preset.seeds if self.seeds is None else self.seeds)
        return Grid(self.folder, preset, seeds, changes=self.changes, only=self.only, copies=self.copies)

    def record(self, grid: Grid) -> ExperimentRecord:
        """Return the record of the experiment while it runs."""
        record = ExperimentRecord(
            experiment=self.experiment.id,
            scale=self.scale,
            seeds=tuple(grid.seeds),
            command=self.command,
            changes=dict(self.changes or {}),
            only=tuple(self.only),
            left_out=grid.left_out,
        )
        return _described(record, self.experiment)


def reproduce(request: Request, watcher: Watcher | None = None, stopper: Stopper | None = None) -> Outcome:
    """Do an experiment, or what is left of it.

    Args:
        request: what is asked for.
        watcher: told of progress.
        stopper: says when to stop before the end; default on Ctrl-C and SIGTERM alone.

    Raises:
        InputError: data are missing, a recipe has no such field, or the folder holds something else.
        RunInterrupted: stopped from outside; the same call resumes.
        ImportError: an extra is not installed; the message names it.
    """
    watcher, stopper = watcher or Silent(), stopper or Stopper()
    experiment, out = request.experiment, request.folder
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "experiments run in one process; give a single recipe to torchrun -m collapselab run"
        )
    grid = request.grid()
    check_data(grid, is_whole=experiment.is_whole)
    asked = request.record(grid)
    held = held_record(out, asked)  # before anything is written where something else may be
    for job, seed in grid.all():
        check_recipe(job.recipe, grid.folder(job.name, seed))
    grid.check_finished()  # before hours are spent on the others
    with stopper.listening():
        with writing(out, stopper):
            held = held_record(out, asked)
            if held is None or held.status != "finished":
                write_experiment(out, asked)
        left = unfinished_runs(grid)
        if left:
            watcher.estimated(len(left), len(grid.all()), seconds_left(grid, watcher.timing, stopper))
        run_all(grid, left, watcher, stopper)
        with writing(out, stopper):
            grid.check_finished()
            for extra in experiment.extras:
                _compute_extra(extra, grid, watcher, stopper)
            record = finished_record(asked, held, grid, anything_new=bool(left))
            outcome = write_results(experiment, record, experiment.rows(grid), out)
    left_out = max(0, (0 if held is None else held.runs) - len(grid.all()))
    return replace(outcome, was_finished=not left, left_out=left_out)


def judge_again(folder: Path, find: Callable[[str], Experiment]) -> Outcome:
    """Judge the stored rows of an experiment again, and write verdicts, figures and page anew; nothing is trained.

    Rows of schema 1 are written in the present form. Of their plain variances only those at the end of a run are known;
    reproducing the experiment in its folder, where the runs are still there, gives all of them.

    Args:
        folder: of a finished experiment; its runs need not be there.
        find: returns an experiment by its id.

    Raises:
        InputError: the folder holds no finished experiment, or its rows cannot be read.
    """
    held = read_experiment(folder) if (folder / RECORD).is_file() else None
    if held is None or held.status != "finished":
        raise InputError(f"{folder}: no finished experiment; give the folder of one")
    experiment = find(held.experiment)
    with writing(folder, Stopper()):
        stored = read_rows_csv(folder / "rows.csv", held.schema_, held.rows_digest)
        rows = _with_ending(stored, held)
        record = _described(held, experiment).model_copy(update={"judged": now()})
        try:
            outcome = write_results(experiment, record, rows, folder)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if held.rows_digest or isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder / 'rows.csv'}: not the rows of {experiment.id} ({one_line(error)[:100]}); restore it"
            ) from error
        return replace(outcome, is_verified=bool(held.rows_digest))


def _described(record: ExperimentRecord, experiment: Experiment) -> ExperimentRecord:
    texts = {name: getattr(experiment, name) for name in DESCRIPTION if name != "reduced"}
    return record.model_copy(update=texts | {"reduced": experiment.presets[record.scale].reduced})


def _with_ending(rows: pd.DataFrame, record: ExperimentRecord) -> pd.DataFrame:
    """Add why runs ended, where the rows of schema 1 do not say and all runs ended alike."""
    if "ended" in rows or "job" not in rows or len(record.ended) != 1:
        return rows
    rows = rows.copy()
    rows.insert(list(rows).index("seed") + 1, "ended", next(iter(record.ended)))
    return rows


def _compute_extra(extra: Extra, grid: Grid, watcher: Watcher, stopper: Stopper) -> None:
    for seed in grid.seeds:
        if not grid.has_extra(extra.name, seed):
            check_stop(stopper)
            watcher.extra(extra.name, seed)
            with cpu_threads(grid.jobs(seed)[0].recipe.num_threads):
                grid.write_extra(extra.name, seed, extra.compute(grid, seed))
