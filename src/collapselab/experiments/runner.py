"""Run an experiment: first its runs, then rows, figures, verdicts and a page.

docs/experiments.md lists the files that it writes. Any number of processes may run the same experiment in the same folder: each takes
runs that no other process works on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
from pydantic import JsonValue

from collapselab.digests import digest
from collapselab.errors import InputError, one_line
from collapselab.experiments.claims import judge_claims
from collapselab.experiments.engines.local import ThisProcess, seconds_left
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.grid import Grid
from collapselab.experiments.running import Engine, Silent, Watcher, check_data, writing
from collapselab.records.experiment import RECORD, ExperimentRecord, Scale, read_experiment, write_experiment
from collapselab.records.outcome import Outcome
from collapselab.records.rows_csv import read_rows_csv
from collapselab.records.verdicts import write_verdicts
from collapselab.storage import now, replace_bytes, replace_text
from collapselab.training import Stopper
from collapselab.training.resuming import check_recipe

_RUNS = ("seeds", "changes", "only", "left_out")  # what decides which runs there are


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
        share: (i, n): run only the i-th of n shares of the grid, from 1. Figures and verdicts are made when all are there.
        engine: how runs are done; None for one after another in this process.
        command: as it was typed, for the record.
    """

    experiment: Experiment
    scale: Scale
    seeds: int | None = None
    out: Path | None = None
    copies: Mapping[str, Path] | None = None
    changes: Mapping[str, JsonValue] | None = None
    only: Sequence[str] = ()
    share: tuple[int, int] = (1, 1)
    engine: Engine | None = None
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
        return ExperimentRecord(
            experiment=self.experiment.id,
            scale=self.scale,
            seeds=tuple(grid.seeds),
            command=self.command,
            changes=dict(self.changes or {}),
            only=tuple(self.only),
            left_out=grid.left_out,
        )


class SharesLeft(Exception):
    """The requested share of a grid is done, but runs of other shares are not.

    Attributes:
        runs: how many.
    """

    def __init__(self, runs: int) -> None:
        super().__init__(f"{runs} runs of other shares are left")
        self.runs = runs


def reproduce(request: Request, watcher: Watcher | None = None, stopper: Stopper | None = None) -> Outcome:
    """Do an experiment, or what is left of it.

    Args:
        request: what is asked for.
        watcher: told of progress.
        stopper: says when to stop before the end; default on Ctrl-C and SIGTERM alone.

    Raises:
        InputError: data are missing, a recipe has no such field, or the folder holds something else.
        RunInterrupted: stopped from outside; the same call resumes.
        SharesLeft: only a share was asked for, and others are not done yet.
        ImportError: an extra is not installed; the message names it.
    """
    watcher, stopper = watcher or Silent(), stopper or Stopper()
    experiment, out, engine = request.experiment, request.folder, request.engine or ThisProcess()
    with stopper.listening():
        grid, asked, held = _begun(request, stopper)
        if left := grid.left(*request.share):
            engine.run_all(grid, left, watcher, stopper)
        if others := len(grid.left()):
            raise SharesLeft(others)
        with writing(out, stopper):
            grid.check_finished()
            for name, seed in product(experiment.extras, grid.seeds):
                if not grid.has_extra(name, seed):
                    stopper.check()
                    watcher.extra(name, seed)
                    grid.compute_extra(name, seed, experiment.extras[name])
            record = _described(_finished(asked, held, grid, anything_new=bool(left)), experiment)
            outcome = _write_results(experiment, record, experiment.rows(grid), out)
    left_out = max(0, (0 if held is None else held.runs) - len(grid.all()))
    return replace(outcome, was_finished=not left, left_out=left_out)


def estimate(request: Request, watcher: Watcher, stopper: Stopper) -> tuple[int, float]:
    """Return how many runs of a request are left, and the seconds that they will take in this process.

    Raises:
        InputError, RunInterrupted, ImportError: as `reproduce`, which would fail in the same way.
    """
    with stopper.listening():
        grid, _, _ = _begun(request, stopper)
        left = grid.left(*request.share)
        return len(left), seconds_left(grid, left, watcher, stopper)


def _begun(request: Request, stopper: Stopper) -> tuple[Grid, ExperimentRecord, ExperimentRecord | None]:
    """Check everything before hours are spent, and write a record. Return the runs, this record and the one before it."""
    experiment, out = request.experiment, request.folder
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "experiments run in one process; give a single recipe to torchrun -m collapselab run"
        )
    grid = request.grid()
    check_data(grid, is_whole=experiment.is_whole)
    asked = _described(request.record(grid), experiment)
    _held(out, asked)  # before anything is written where something else may be
    for run in grid.all():
        check_recipe(run.job.recipe, run.folder)
    grid.check_finished()
    with writing(out, stopper):
        held = _held(out, asked)
        if held is None or held.status != "finished":
            write_experiment(out, asked)
    return grid, asked, held


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
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; give the folder of a finished experiment")
    held = read_experiment(folder) if (folder / RECORD).is_file() else None
    if held is None or held.status != "finished":
        raise InputError(f"{folder}: not a finished experiment; give a folder that reproduce wrote")
    experiment = find(held.experiment)
    with writing(folder, Stopper()):
        rows = read_rows_csv(folder / "rows.csv", held.schema_, held.rows_digest, held.ended)
        rows = rows.assign(**{name: value for name, value in experiment.before.items() if name not in rows})
        record = _described(held, experiment).model_copy(update={"judged": now()})
        try:
            outcome = _write_results(experiment, record, rows, folder)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if held.rows_digest or isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder / 'rows.csv'}: not the rows of {experiment.id} ({one_line(error)}); restore it"
            ) from error
        return replace(outcome, is_verified=bool(held.rows_digest))


def _write_results(
    experiment: Experiment, record: ExperimentRecord, rows: pd.DataFrame, folder: Path
) -> Outcome:
    """Judge the claims on the rows; write rows, verdicts, figures, page and, last, the record."""
    from collapselab.records.wording import verdicts_text
    from collapselab.report.pages.experiment import experiment_page
    from collapselab.report.pages.rendering import write_page
    from collapselab.report.paper import save_figures

    judgements = tuple(judge_claims(experiment.claims, rows, experiment.paper, experiment.where))
    outcome = Outcome(folder, record, rows, judgements)
    charts = [chart for make in experiment.charts for chart in make(rows) if chart.panels]
    table = rows.to_csv(index=False, lineterminator="\n").encode()
    replace_bytes(folder / "rows.csv", table)
    write_verdicts(folder / "verdicts.json", judgements)
    replace_text(folder / "verdicts.txt", verdicts_text(judgements, record.scale))
    save_figures(charts, folder)
    write_page(outcome.page, experiment_page(outcome, charts))
    write_experiment(folder, record.model_copy(update={"rows_digest": digest(table)}))
    return outcome


# ---------------------------------------------------------------- the record


def _held(folder: Path, asked: ExperimentRecord) -> ExperimentRecord | None:
    """Return the record that a folder holds, or None before the first start; refuse a folder with anything else."""
    held = read_experiment(folder)
    if held is not None and (held.experiment, held.scale) != (asked.experiment, asked.scale):
        raise InputError(f"{folder}: holds {held.experiment} at scale {held.scale}; choose another out=")
    return held


def _finished(
    asked: ExperimentRecord, held: ExperimentRecord | None, grid: Grid, *, anything_new: bool
) -> ExperimentRecord:
    """Return the record of a finished experiment.

    If the folder held one of the same runs and none of them is new, when it was finished and by which command stays.
    """
    same = held is not None and all(getattr(held, name) == getattr(asked, name) for name in _RUNS)
    if held is not None and held.status == "finished" and same and not anything_new:
        return held
    # Reversed: a job has the recipe of its first seed.
    recipes = {run.job.name: run.job.recipe.in_one_line() for run in reversed(list(grid.all()))}
    return asked.finished_with([run.record for run in grid.all()]).model_copy(update={"recipes": recipes})


def _described(record: ExperimentRecord, experiment: Experiment) -> ExperimentRecord:
    texts = {name: getattr(experiment, name) for name in ("title", "paper", "where", "question")}
    return record.model_copy(update=texts | {"reduced": experiment.presets[record.scale].reduced})
