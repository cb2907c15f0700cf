"""experiment.json: request, hardware and duration of an experiment, readable without the code."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from collapselab.choices import Scale
from collapselab.errors import InputError
from collapselab.records.recipe import Recipe
from collapselab.records.run_record import RunRecord, in_words
from collapselab.records.run_record import Seconds as Hours
from collapselab.records.stored import Stored, Versioned, read_model, write_model
from collapselab.storage import Hardware, hardware, is_temporary, make_folder, now
from collapselab.text import counted, listed, words

Label = str | int | float
ExtraRow = dict[str, Label | None]
_ENDED = {"steps": "last step reached", "loss": "loss below its threshold"}
RECORD, LOCK, TIMINGS = "experiment.json", "experiment.lock", "timings.json"


class ExperimentRecord(Versioned):
    """What experiment.json holds.

    Attributes:
        experiment: `paper/figure`.
        title, paper, where, question: see `collapselab.experiments.experiment.Experiment`; empty in files of schema 1.
        scale: of the preset.
        seeds: that were run.
        command: as it was typed; empty from Python.
        changes: values set in recipes, by path.
        only: globs of the jobs that were run; empty for all.
        left_out: jobs of the preset that were not run.
        reduced: what the preset has less of than the paper, or what the paper leaves open.
        status: `running` until all of it is done.
        finished: UTC, ISO 8601.
        judged: when the claims were judged again from the stored rows, else None.
        runs: how many.
        ended: number of runs by why they ended.
        hours: over all runs.
        commits, hardware, versions: of the runs; those of the last one stand for all where they differ.
        data: fingerprints of the samples, by data set.
        recipes: by job, what differs from the defaults, in one line.
        rows_digest: of rows.csv; empty in files of earlier schemas.
    """

    experiment: str
    title: str = ""
    paper: str = ""
    where: str = ""
    question: str = ""
    scale: Scale
    seeds: tuple[int, ...]
    command: str = ""
    changes: dict[str, JsonValue] = Field(default_factory=dict)
    only: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    reduced: str = ""
    status: Literal["running", "finished"] = "running"
    finished: str | None = None
    judged: str | None = None
    runs: int = 0
    ended: dict[str, int] = Field(default_factory=dict)
    hours: Hours = Field(default_factory=Hours)
    commits: tuple[str, ...] = ()
    hardware: Hardware | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    data: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    recipes: dict[str, str] = Field(default_factory=dict)
    rows_digest: str = ""

    def finished_with(self, runs: Sequence[RunRecord]) -> ExperimentRecord:
        """Return the record of the finished experiment, with what the records of its runs say together.

        Args:
            runs: at least one, in the order in which they were run.
        """
        slots = [slot for run in runs for slot in run.slots]
        facts = {
            "status": "finished",
            "finished": now(),
            "runs": len(runs),
            "ended": dict(sorted(Counter(str(run.ended) for run in runs).items())),
            "hours": Hours(**{name: _hours(runs, name) for name in ("training", "measuring")}),
            "commits": tuple(sorted({slot.commit for slot in slots if slot.commit})),
            "hardware": slots[-1].hardware,
            "versions": slots[-1].versions,
            "data": _fingerprints(runs),
        }
        return self.model_copy(update=facts)

    @property
    def differences(self) -> str:
        """Return what differs from the paper, in sentences: by the preset, by the command, by runs left out."""
        said = [self.reduced] if self.reduced else []
        # Threads change nothing but rounding.
        changes = [f"{name} = {value}" for name, value in self.changes.items() if name != "num_threads"]
        if changes:
            said.append(f"Set by the command: {', '.join(changes)}.")
        if self.left_out:
            said.append(f"Left out by the command, of each seed: {listed(sorted(set(self.left_out)), 6)}.")
        return " ".join(said)

    def how_made(self) -> list[tuple[str, str]]:
        """Return all that decided the numbers, as names and values in words."""
        changes = ", ".join(f"{name} = {value}" for name, value in self.changes.items())
        example = ", for one of the seeds" if len(self.seeds) > 1 else ""
        facts: list[tuple[str, object]] = [
            ("command", self.command),
            ("seeds", self.seeds),
            ("runs", self.runs),
            ("set", changes),
            ("hours training", self.hours.training),
            ("hours measuring", self.hours.measuring),
            (
                "why runs ended",
                ", ".join(
                    f"{_ENDED.get(why, why)}: {counted(count, 'run')}" for why, count in self.ended.items()
                ),
            ),
            ("commits", self.commits or "unknown"),
            ("finished", self.finished),
            *([("judged again", self.judged)] if self.judged else []),
            *self.versions.items(),
            *((words(name), value) for name, value in (self.hardware or {}).items()),
            *((f"recipe of {name}{example}", recipe) for name, recipe in self.recipes.items()),
        ]
        return [(name, in_words(value)) for name, value in facts if value != ""]


def _hours(runs: Sequence[RunRecord], name: str) -> float:
    return round(sum(getattr(run.seconds, name) for run in runs) / 3600, 3)


def _fingerprints(runs: Sequence[RunRecord]) -> dict[str, tuple[str, ...]]:
    """Return the fingerprints of all samples, by the name of their data set."""
    by_name: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.data is not None:
            by_name.setdefault(run.data.name, {})[run.data.fingerprint] = None
    return {name: tuple(fingerprints) for name, fingerprints in by_name.items()}


# ---------------------------------------------------------------- beside experiment.json


class ExtraRecord(Versioned):
    """Rows computed from finished runs.

    Attributes:
        of: by job, what tells the run from another of the same job.
        rows: what was computed.
    """

    of: dict[str, str]
    rows: tuple[ExtraRow, ...]


def run_identity(record: RunRecord | None) -> str:
    """Return what tells a run from another of the same job: a digest of its recipe, its samples and its first start."""
    values = {} if record is None else record.model_dump(mode="json")
    begun = [slot["started"] for slot in values.get("slots", [])[:1]]
    text = json.dumps([values.get("recipe"), values.get("data"), begun], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class KindTiming(Stored):
    """Seconds of a training step, and per sample of a measurement, of one kind of run; `at` is Unix time."""

    at: float
    step: float
    sample: float

    def seconds(self, recipe: Recipe, done: int, num_samples: int) -> float:
        """Return the seconds that a run of this kind takes after `done` steps, with samples of both splits."""
        measured = sum(at >= done for at in recipe.measured_steps())
        return (recipe.steps - done) * self.step + measured * self.sample * num_samples


class Timings(Versioned):
    """Timings by kind of run, on one machine."""

    hardware: Hardware
    torch: str
    kinds: dict[str, KindTiming] = Field(default_factory=dict)


# ---------------------------------------------------------------- reading and writing


def read_extra(folder: Path, name: str, seed: int) -> ExtraRecord:
    """Return the rows that were computed under a name for a seed.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_model(_extra_path(folder, name, seed), ExtraRecord, "computed rows", "remove it")


def write_extra(folder: Path, name: str, seed: int, record: ExtraRecord) -> None:
    """Store computed rows in the folder of their experiment."""
    path = _extra_path(folder, name, seed)
    make_folder(path.parent)
    write_model(path, record)


def _extra_path(folder: Path, name: str, seed: int) -> Path:
    return folder / "extras" / f"{name}-seed-{seed}.json"


def read_timings(folder: Path) -> Timings:
    """Return the timings of this machine; none where the file is missing, unreadable or of another machine."""
    import torch

    here = Timings(hardware=hardware(), torch=torch.__version__)
    with suppress(InputError):
        held = read_model(folder / TIMINGS, Timings, "timings", "remove it")
        return held if (held.hardware, held.torch) == (here.hardware, here.torch) else here
    return here


def read_experiment(folder: Path) -> ExperimentRecord | None:
    """Return the record of an experiment's folder, or None before the first start.

    Args:
        folder: it need not exist.

    Raises:
        InputError: the folder holds something else.
    """
    path = folder / RECORD
    if path.exists():
        return read_model(path, ExperimentRecord, "an experiment's record", "choose another out=")
    # An experiment killed before its record was whole left only these.
    own = {"runs", "extras", LOCK}
    if folder.is_dir() and any(
        inside.name not in own and not is_temporary(inside) for inside in folder.iterdir()
    ):
        raise InputError(f"{folder}: not empty and not an experiment; choose another out=")
    return None


def write_experiment(folder: Path, record: ExperimentRecord) -> None:
    """Replace experiment.json."""
    write_model(folder / RECORD, record)
