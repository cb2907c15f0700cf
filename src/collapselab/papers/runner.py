"""Doing an experiment: its runs, one after another, then rows, figures, verdicts and a page over all of it.

OUT/experiment.json    what was asked for, where it ran, how long it took
OUT/runs/JOB/seed-K/   one folder per run
OUT/extras/            what was computed from finished runs
OUT/rows.csv           the table that everything below is a function of
OUT/FIGURE.pdf, .png   as in the paper
OUT/verdicts.json, .txt
OUT/report.html
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from collapselab.claims import judge_all
from collapselab.data import open_data
from collapselab.errors import InputError
from collapselab.papers.experiment import Experiment, Scale
from collapselab.papers.grid import Grid
from collapselab.training import RunInterrupted, Stopper, run_recipe
from collapselab.training.run_folder import replace_text

_RECORD = "experiment.json"


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

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        """A run of `steps` begins; `steps_before` of all runs' `steps_of_all` are behind it."""

    def progress(self, done: int, total: int, doing: str) -> None:
        """Inside a run."""

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        """A run is finished."""

    def extra(self, name: str, seed: int) -> None:
        """Something is computed from finished runs."""


class _Silent:
    def timing(self, job: str) -> None: ...
    def estimated(self, runs_left: int, runs: int, seconds: float) -> None: ...
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
    """

    folder: Path
    rows: pd.DataFrame
    verdicts: list[dict[str, Any]]
    figures: list[Path]
    was_finished: bool


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
    from collapselab.papers.estimate import seconds_left

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
    _check_data(grid)
    record = _Record(out, request, list(seeds))
    everything = grid.all()
    left = [(job, seed) for job, seed in everything if not grid.steps_done(job.name, seed)[1]]
    with stopper.listening():
        if left:
            watcher.estimated(len(left), len(everything), seconds_left(grid, watcher.timing))
        _run_all(grid, watcher, stopper)
        for extra in experiment.extras:
            for seed in seeds:
                if not grid.has_extra(extra.name, seed):
                    if stopper.reason:
                        raise RunInterrupted(0, stopper.reason)
                    watcher.extra(extra.name, seed)
                    grid.write_extra(extra.name, seed, extra.compute(grid, seed))
    rows = experiment.rows(grid)
    verdicts = judge_all(experiment.claims, rows)
    figures = _write(experiment, rows, verdicts, out)
    record.finish(grid, anything_new=bool(left))
    _write_page(request, preset.reduced, rows, verdicts, record.content)
    return Outcome(out, rows, verdicts, figures, was_finished=not left)


def _run_all(grid: Grid, watcher: Watcher, stopper: Stopper) -> None:
    everything = grid.all()
    steps = sum(job.recipe.steps for job, _ in everything)
    before = 0
    for number, (job, seed) in enumerate(everything, start=1):
        if not grid.steps_done(job.name, seed)[1]:
            start = time.perf_counter()
            watcher.run_started(job.name, seed, number, len(everything), before, steps, job.recipe.steps)
            run = run_recipe(
                job.recipe,
                grid.folder(job.name, seed),
                watcher.progress,
                data=grid.data(job.recipe),
                stopper=stopper,
            )
            watcher.run_ended(
                job.name, seed, number, len(everything), run["ended"], time.perf_counter() - start
            )
        before += job.recipe.steps


def _check_data(grid: Grid) -> None:
    """Every data set is there before hours are spent on the first.

    Raises:
        InputError: one is not; names those runs that do without it, if any.
    """
    missing: dict[str, InputError] = {}
    names: dict[str, list[str]] = {}
    for job, seed in grid.all():
        names.setdefault(job.recipe.data.name, []).append(job.name)
        if grid.steps_done(job.name, seed)[1]:
            continue
        name = job.recipe.data.name
        if name in missing:
            continue
        try:
            open_data(name, copies=grid.copies)
        except InputError as error:
            missing[name] = error
    if not missing:
        return
    first = next(iter(missing.values()))
    others = sorted({job for name, jobs in names.items() if name not in missing for job in jobs})
    if others:
        raise InputError(f"{first}; or leave it out with --only {','.join(others)}")
    raise first


def _write(
    experiment: Experiment, rows: pd.DataFrame, verdicts: list[dict[str, Any]], out: Path
) -> list[Path]:
    from collapselab.report.experiment_page import verdicts_text
    from collapselab.report.paper_style import save_figure

    replace_text(out / "rows.csv", rows.to_csv(index=False, lineterminator="\n"))
    replace_text(out / "verdicts.json", json.dumps(verdicts, indent=2, allow_nan=False) + "\n")
    replace_text(out / "verdicts.txt", verdicts_text(verdicts))
    paths: list[Path] = []
    for name, draw in experiment.figures.items():
        save_figure(draw(rows), out / name)
        paths += [out / f"{name}.pdf", out / f"{name}.png"]
    return paths


def _write_page(
    request: Request,
    reduced: str,
    rows: pd.DataFrame,
    verdicts: list[dict[str, Any]],
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
            reduced=reduced + _changes_in_words(record["changes"]),
            scale=request.scale,
            seeds=record["seeds"],
            rows=rows,
            charts=list(experiment.charts(rows)),
            verdicts=verdicts,
            made=_made(record),
        ),
    )


def _changes_in_words(changes: Mapping[str, Any]) -> str:
    """What the command set differently; threads change nothing but rounding."""
    said = [f"{name} = {value}" for name, value in changes.items() if name != "num_threads"]
    return f" Set by the command: {', '.join(said)}." if said else ""


def _made(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """How the numbers came to be, as name and text."""
    out: list[tuple[str, Any]] = [("command", record["command"])] if record["command"] else []
    out += [("seeds", ", ".join(map(str, record["seeds"]))), ("runs", record["runs"])]
    if record["changes"]:
        out.append(("set", ", ".join(f"{name} = {value}" for name, value in record["changes"].items())))
    out += [
        ("hours training", record["hours"]["training"]),
        ("hours measuring", record["hours"]["measuring"]),
    ]
    out += [("commits", ", ".join(record["commits"]) or "unknown"), ("finished", record["finished"])]
    for place in ("versions", "hardware"):
        out += [
            (name.replace("_", " "), "none" if value is None else value)
            for name, value in record[place].items()
        ]
    for name, recipe in record["recipes"].items():
        out.append((f"recipe of {name}", recipe))
    return out


class _Record:
    """experiment.json."""

    def __init__(self, out: Path, request: Request, seeds: list[int]) -> None:
        self._path = out / _RECORD
        asked = {"experiment": request.experiment.id, "scale": request.scale}
        held = self._read(out)
        if held is not None and {name: held.get(name) for name in asked} != asked:
            raise InputError(
                f"{out}: holds {held.get('experiment')} at scale {held.get('scale')}; choose another --out"
            )
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out}: cannot be made ({error.strerror}); choose another --out") from error
        self.content: dict[str, Any] = asked | {
            "seeds": seeds,
            "command": request.command,
            "changes": dict(request.changes or {}),
            "only": list(request.only),
            "reduced": request.experiment.presets[request.scale].reduced,
            "status": "running",
        }
        self._held = held if held is not None and held.get("status") == "finished" else None
        if self._held is None:
            replace_text(self._path, json.dumps(self.content, indent=2) + "\n")

    def _read(self, out: Path) -> dict[str, Any] | None:
        if not self._path.exists():
            # An experiment that was killed before its record was whole has only these.
            own = {"runs", "extras", f"{_RECORD}.tmp"}
            if out.is_dir() and any(path.name not in own for path in out.iterdir()):
                raise InputError(f"{out}: not empty and not an experiment's; choose another --out")
            return None
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            held = None
        if not isinstance(held, dict):
            raise InputError(f"{self._path}: not an experiment's; choose another --out")
        return held

    def finish(self, grid: Grid, *, anything_new: bool) -> None:
        """Add what the runs say of themselves.

        Args:
            grid: the runs.
            anything_new: whether one of them was not finished before. Else, asked for the same again, the record stays
                what it was: when it was finished, by which command.
        """
        same = ("seeds", "changes", "only", "reduced")
        if (
            self._held is not None
            and not anything_new
            and all(self._held[n] == self.content[n] for n in same)
        ):
            self.content = self._held
            return
        runs = [grid.folder(job.name, seed).read_run() or {} for job, seed in grid.all()]
        hours = {
            name: round(sum(run["seconds"][name] for run in runs) / 3600, 3)
            for name in ("training", "measuring")
        }
        # In the order of the runs; where these were on several machines, the last one stands for them.
        slots = [slot for run in runs for slot in run["slots"]]
        self.content |= {
            "status": "finished",
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "runs": len(runs),
            "ended": _counts([run["ended"] for run in runs]),
            "hours": hours,
            "commits": sorted({slot["commit"] for slot in slots if slot["commit"]}),
            "hardware": slots[-1]["hardware"],
            "versions": slots[-1]["versions"],
            "data": {run["data"]["name"]: run["data"]["fingerprint"] for run in runs},
            "recipes": {job.name: _short(job.recipe.model_dump(mode="json")) for job, _ in grid.all()},
        }
        replace_text(self._path, json.dumps(self.content, indent=2) + "\n")


def _counts(values: list[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def _short(recipe: dict[str, Any]) -> str:
    """A recipe in one line: what differs from the defaults."""
    from collapselab.training import Recipe

    return ", ".join(
        f"{path} {value}" for path, value in _differences(recipe, Recipe().model_dump(mode="json"))
    )


def _differences(values: Any, defaults: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(values, dict) and isinstance(defaults, dict) and values:
        return [
            pair
            for name, value in values.items()
            for pair in _differences(value, defaults.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if values == defaults else [(path, values)]
