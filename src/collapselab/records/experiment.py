"""experiment.json: what was asked for, where it ran, how long it took. It describes itself: no code is needed to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from collapselab.errors import InputError
from collapselab.records.run_record import Seconds as Hours
from collapselab.records.run_record import in_words
from collapselab.records.stored import Versioned, read_model, write_model
from collapselab.storage import Hardware, is_temporary
from collapselab.text import few, words

Scale = Literal["smoke", "cpu", "paper"]
Label = str | int | float
ExtraRow = dict[str, Label | None]
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

    @property
    def differences(self) -> str:
        """Return what differs from the paper, in sentences: by the preset, by the command, by runs left out."""
        said = [self.reduced] if self.reduced else []
        # Threads change nothing but rounding.
        changes = [f"{name} = {value}" for name, value in self.changes.items() if name != "num_threads"]
        if changes:
            said.append(f"Set by the command: {', '.join(changes)}.")
        if self.left_out:
            said.append(f"Left out by the command, of each seed: {few(self.left_out)}.")
        return " ".join(said)

    def how_made(self) -> list[tuple[str, str]]:
        """Return all that decided the numbers, as names and values in words."""
        changes = ", ".join(f"{name} = {value}" for name, value in self.changes.items())
        facts: list[tuple[str, object]] = [
            ("command", self.command),
            ("seeds", self.seeds),
            ("runs", self.runs),
            ("set", changes),
            ("hours training", self.hours.training),
            ("hours measuring", self.hours.measuring),
            ("runs that ended by", ", ".join(f"{why}: {count}" for why, count in self.ended.items())),
            ("commits", self.commits or "unknown"),
            ("finished", self.finished),
            *([("judged again", self.judged)] if self.judged else []),
            *self.versions.items(),
            *((words(name), value) for name, value in (self.hardware or {}).items()),
            *((f"recipe of {name}", recipe) for name, recipe in self.recipes.items()),
        ]
        return [(name, in_words(value)) for name, value in facts if value != ""]


class ExtraRecord(Versioned):
    """Rows computed from finished runs.

    Attributes:
        of: by job, what tells the run from another of the same job.
        rows: what was computed.
    """

    of: dict[str, str]
    rows: tuple[ExtraRow, ...]


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
