"""The runs of an experiment on disk: their folders, which runs are left, and reading their results."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue
from torch import nn

from collapselab.data import DataSplits
from collapselab.errors import InputError
from collapselab.experiments.recipes import At, Job
from collapselab.models.checkpoints import load_state
from collapselab.models.opening import required_channels, required_image_size
from collapselab.records.completeness import check_finished
from collapselab.records.experiment import ExtraRecord, ExtraRow, run_identity
from collapselab.records.run_record import RunRecord
from collapselab.records.stored import read_model, write_model
from collapselab.storage import make_folder
from collapselab.text import listed
from collapselab.training import Recipe, RunFolder
from collapselab.training.building import build_model, load_data

# Labels of jobs, each with the field of the recipe that it states.
_LABELLED = {
    "dataset": "data.name",
    "model": "model.name",
    "num_train": "data.train.count",
    "learning_rate": "optimizer.learning_rate",
    "dropout": "model.options.dropout",
    "pretrain_step": "start.checkpoint",
}


def samples_key(recipe: Recipe) -> str:
    """Return a text that is equal where the samples are: the seed counts only where some are drawn."""
    drawn = any(sample.method not in ("all", "first") for sample in (recipe.data.train, recipe.data.test))
    return f"{recipe.data.model_dump_json()} {recipe.seed if drawn else ''}"


class Grid:
    """The jobs of a preset for some seeds, in one folder.

    Args:
        out: the experiment's folder.
        preset: its jobs.
        seeds: which.
        changes: values set in recipes, by path: `{"steps": 500}` in all, `{"mnist-*:steps": 500}` in those of some jobs.
        only: globs of job names; default all. What a job starts from comes with it.
        copies: paths of named data sets on this machine.

    Attributes:
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
        self.out, self.copies = out, copies
        everything = {seed: preset.jobs(seed) for seed in seeds}
        self._jobs = {seed: _chosen(jobs, only, changes or {}) for seed, jobs in everything.items()}
        self.left_out: tuple[str, ...] = tuple(sorted(_names(everything) - _names(self._jobs)))
        # The samples read last: mostly the next run has the same.
        self._samples: tuple[str, DataSplits] | None = None

    @property
    def seeds(self) -> Sequence[int]:
        return tuple(self._jobs)

    def jobs(self, seed: int) -> Sequence[Job]:
        """Return the jobs of a seed, in the order in which they are run."""
        return self._jobs[seed]

    def all(self) -> list[tuple[Job, int]]:
        """Return every job of every seed, seed by seed: any number of complete seeds can be evaluated."""
        return [(job, seed) for seed in self.seeds for job in self._jobs[seed]]

    def job(self, name: str, seed: int) -> Job:
        """Return a job by its name."""
        return next(job for job in self._jobs[seed] if job.name == name)

    # ---------------------------------------------------------------- runs

    def folder(self, job: str, seed: int) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.out / "runs" / job / f"seed-{seed}")

    def records(self) -> list[RunRecord]:
        """Return the records of all runs that were started."""
        found = (self.folder(job.name, seed).read_run() for job, seed in self.all())
        return [record for record in found if record is not None]

    def check_finished(self) -> None:
        """Check that every finished run is whole: its rows are what is judged.

        Raises:
            InputError: a file of one is damaged, or rows are missing.
        """
        for job, seed in self.all():
            folder = self.folder(job.name, seed)
            record = folder.read_run()
            if record is not None:
                check_finished(folder, record)

    def is_finished(self, job: str, seed: int) -> bool:
        """Whether a run is finished."""
        record = self.folder(job, seed).read_run()
        return record is not None and record.is_finished

    def steps_done(self, job: str, seed: int) -> int:
        """Return the steps that need not be run again, as far as rows tell."""
        folder = self.folder(job, seed)
        record = folder.read_run()
        if record is None or record.is_finished:
            return 0 if record is None else record.steps
        return max((row.step for row in folder.read_rows()), default=0)

    def data(self, recipe: Recipe) -> DataSplits:
        """Return the samples of a run; those of the last call are cached."""
        name = recipe.model.name
        key = f"{samples_key(recipe)} {required_channels(name)} {required_image_size(name)}"
        if self._samples is None or self._samples[0] != key:
            self._samples = None  # two large data sets need not fit at once
            self._samples = (key, load_data(recipe, self.copies))
        return self._samples[1]

    def model(self, job: Job, step: int | None = None) -> nn.Module:
        """Return the network of a run with the weights of a step, by default the last."""
        folder = self.folder(job.name, job.recipe.seed)
        record = folder.read_run()
        assert record is not None, "rows are made of finished runs"
        assert record.data is not None
        model = build_model(job.recipe, record.data, folder.path)
        step = record.steps if step is None else step
        load_state(model, folder.read_weights(step), folder.weights_path(step))
        return model

    # ---------------------------------------------------------------- extras

    def _extra_path(self, name: str, seed: int) -> Path:
        return self.out / "extras" / f"{name}-seed-{seed}.json"

    def has_extra(self, name: str, seed: int) -> bool:
        """Whether it was computed, from these very runs. A damaged file is computed again."""
        try:
            return self._read_extra(name, seed).of == self._identities(seed)
        except InputError:
            return False

    def extra(self, name: str, seed: int) -> Sequence[ExtraRow]:
        """Return the rows that an extra computed."""
        return self._read_extra(name, seed).rows

    def _read_extra(self, name: str, seed: int) -> ExtraRecord:
        return read_model(self._extra_path(name, seed), ExtraRecord, "computed rows", "remove it")

    def write_extra(self, name: str, seed: int, rows: Sequence[ExtraRow]) -> None:
        """Store the rows that an extra computed."""
        path = self._extra_path(name, seed)
        make_folder(path.parent)
        write_model(path, ExtraRecord(of=self._identities(seed), rows=tuple(rows)))

    def _identities(self, seed: int) -> dict[str, str]:
        """Tell each run of a seed from another of the same job: by its recipe, its samples and its first start."""
        return {job.name: run_identity(self.folder(job.name, seed).read_run()) for job in self._jobs[seed]}


# ---------------------------------------------------------------- which jobs, with which values


def _names(jobs: Mapping[int, Sequence[Job]]) -> set[str]:
    return {job.name for some in jobs.values() for job in some}


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
        raise InputError(f"{where}: {glob} matches no run; the runs are {listed(sorted(set(names)), 6)}")


def _check_label(job: Job, path: str, where: str) -> None:
    """Refuse to override what a label of the job states, or a part of the recipe that contains it."""
    for label, field in _LABELLED.items():
        if label in job.labels and f"{field}.".startswith(f"{path}."):
            raise InputError(
                f"{where}: {job.name} stands for {label} {job.labels[label]} in rows and figures; you cannot override "
                "what runs are compared by"
            )
