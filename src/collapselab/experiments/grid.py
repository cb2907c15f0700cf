"""The runs of an experiment on disk: their folders, which runs are left, and reading their results."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
from pydantic import JsonValue
from torch import nn

from collapselab.errors import InputError
from collapselab.experiments.recipes import At, Job
from collapselab.numerics import cpu_threads
from collapselab.records.completeness import check_finished
from collapselab.records.experiment import ExtraRecord, ExtraRow, read_extra, run_identity, write_extra
from collapselab.records.run_curve import run_curve
from collapselab.records.run_record import RunRecord
from collapselab.text import listed
from collapselab.training import Recipe, RunFolder
from collapselab.training.building import trained_model
from collapselab.training.samples import Samples

# Labels of jobs, each with the field of the recipe that it states.
_LABELLED = {
    "dataset": "data.name",
    "model": "model.name",
    "num_train": "data.train.count",
    "learning_rate": "optimizer.learning_rate",
    "dropout": "model.options.dropout",
    "weight_decay": "optimizer.weight_decay",
    "temperature": "temperature",
    "regulariser": "within_class_cosine",
    "pretrain_step": "start.checkpoint",
}


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
        number: its place among all runs, from 1.
        job: what is run.
        seed: of the run.
        folder: where it is stored.
    """

    number: int
    job: Job
    seed: int
    folder: RunFolder

    @property
    def record(self) -> RunRecord:
        """The record of a run that was started."""
        record = self.folder.read_run()
        assert record is not None, "rows are made of finished runs"
        return record

    @property
    def is_finished(self) -> bool:
        record = self.folder.read_run()
        return record is not None and record.is_finished

    @property
    def steps_done(self) -> int:
        """Steps that need not be run again, as far as rows tell."""
        return max((row.step for row in self.folder.read_rows()), default=0)

    def curve(self) -> pd.DataFrame:
        """Return its rows, with the job, its labels, the seed and why it ended; see `run_curve`."""
        record = self.folder.read_run()
        ended = None if record is None else record.ended
        labels = {"job": self.job.name, **self.job.labels, "seed": self.seed, "ended": ended}
        return run_curve(self.folder, labels)

    def model(self, step: int | None = None) -> nn.Module:
        """Return the network with the weights of a step, by default the last."""
        return trained_model(self.job.recipe, self.folder, step)


class Grid:
    """The runs of a preset for some seeds, in one folder.

    Args:
        out: the experiment's folder.
        preset: its jobs.
        seeds: which.
        changes: values set in recipes, by path: `{"steps": 500}` in all, `{"mnist-*:steps": 500}` in those of some jobs.
        only: globs of job names; default all. What a job starts from comes with it.
        copies: paths of named data sets on this machine.

    Attributes:
        gpus: that a run needs on a cluster.
        copies: as given.
        samples: of the recipes.
        extra_data: data sets that only extras read.
        left_out: names of the preset's jobs that `only` leaves out.

    Raises:
        InputError: a glob matches no job, or a recipe has no such field.
    """

    def __init__(
        self,
        out: Path,
        preset: At,
        seeds: Sequence[int],
        *,
        changes: Mapping[str, JsonValue] | None = None,
        only: Sequence[str] = (),
        copies: Mapping[str, Path] | None = None,
    ) -> None:
        self.out, self.seeds, self.gpus = out, tuple(seeds), preset.gpus or 0.0
        self.copies, self.samples = copies, Samples(copies)
        self.extra_data = preset.extra_data
        everything = {seed: preset.jobs(seed) for seed in seeds}
        chosen = [(job, seed) for seed in seeds for job in _chosen(everything[seed], only, changes or {})]
        self._runs = [
            GridRun(number, job, seed, RunFolder(out / "runs" / job.name / f"seed-{seed}"))
            for number, (job, seed) in enumerate(chosen, start=1)
        ]
        names = {job.name for jobs in everything.values() for job in jobs}
        self.left_out: tuple[str, ...] = tuple(sorted(names - {job.name for job, _ in chosen}))

    def all(self) -> Sequence[GridRun]:
        """Return every run, seed by seed: any number of complete seeds can be evaluated."""
        return self._runs

    def left(self, share: int = 1, shares: int = 1) -> list[GridRun]:
        """Return the unfinished runs of a share of the grid, which depends only on its jobs and seeds.

        The seeds of a job are spread over the shares; a run is in the share of the one that it starts from.

        Args:
            share: which, from 1.
            shares: how many there are.
        """
        first = {run.job.name: run.job.after or run.job.name for run in self._runs}
        while first != (before := {name: first[at] for name, at in first.items()}):
            first = before
        jobs = dict.fromkeys(first.values())
        place = {(name, seed): number for number, (name, seed) in enumerate(product(jobs, self.seeds))}
        return [
            run
            for run in self._runs
            if place[first[run.job.name], run.seed] % shares == share - 1 and not run.is_finished
        ]

    def of(self, seed: int) -> dict[str, GridRun]:
        """Return the runs of a seed by job, in the order in which they are run."""
        return {run.job.name: run for run in self._runs if run.seed == seed}

    def check_finished(self) -> None:
        """Check that every finished run is whole: its rows are what is judged.

        Raises:
            InputError: a file of one is damaged, or rows are missing.
        """
        for run in self._runs:
            record = run.folder.read_run()
            if record is not None:
                check_finished(run.folder, record)

    # ---------------------------------------------------------------- extras

    def has_extra(self, name: str, seed: int) -> bool:
        """Whether it was computed, from these very runs. A damaged file is computed again."""
        try:
            return read_extra(self.out, name, seed).of == self._identities(seed)
        except InputError:
            return False

    def extra(self, name: str, seed: int) -> Sequence[ExtraRow]:
        """Return the rows that an extra computed."""
        return read_extra(self.out, name, seed).rows

    def compute_extra(self, name: str, seed: int, compute: Callable[[Grid, int], list[ExtraRow]]) -> None:
        """Compute and store the rows of an extra, with as many threads as the runs have."""
        first, *_ = self.of(seed).values()
        with cpu_threads(first.job.recipe.num_threads):
            rows = tuple(compute(self, seed))
        write_extra(self.out, name, seed, ExtraRecord(of=self._identities(seed), rows=rows))

    def _identities(self, seed: int) -> dict[str, str]:
        """Tell each run of a seed from another of the same job: by its recipe, its samples and its first start."""
        return {name: run_identity(run.folder.read_run()) for name, run in self.of(seed).items()}


# ---------------------------------------------------------------- which jobs, with which values


def _chosen(jobs: Sequence[Job], only: Sequence[str], changes: Mapping[str, JsonValue]) -> list[Job]:
    names = [job.name for job in jobs]
    for glob in only:
        _check_glob(glob, names, f"only={glob!r}")
    wanted = {name for name in names if not only or any(fnmatch.fnmatch(name, glob) for glob in only)}
    wanted |= {job.after for job in jobs if job.name in wanted and job.after}
    return [replace(job, recipe=_changed(job, changes, names)) for job in jobs if job.name in wanted]


def _changed(job: Job, changes: Mapping[str, JsonValue], names: Sequence[str]) -> Recipe:
    own: dict[str, JsonValue] = {}
    for name, value in changes.items():
        where = f"changes={name!r}"
        glob, colon, path = name.rpartition(":")
        if colon:
            _check_glob(glob, names, where)
        if path == "seed":
            raise InputError(f"{where}: every run has its own seed; choose how many with seeds=")
        if not colon or fnmatch.fnmatch(job.name, glob):
            _check_label(job, path, where)
            own[path] = value
    return job.recipe.with_changes(own) if own else job.recipe


def _check_glob(glob: str, names: Sequence[str], where: str) -> None:
    if not fnmatch.filter(names, glob):
        raise InputError(f"{where}: {glob!r} matches no run; the runs are {listed(sorted(set(names)), 6)}")


def _check_label(job: Job, path: str, where: str) -> None:
    """Refuse to override what a label of the job states, or a part of the recipe that contains it."""
    for label, field in _LABELLED.items():
        if label in job.labels and f"{field}.".startswith(f"{path}."):
            raise InputError(
                f"{where}: {job.name} stands for {label} {job.labels[label]} in rows and figures; you cannot override "
                "what runs are compared by"
            )
