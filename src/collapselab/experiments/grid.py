"""The runs of an experiment on disk: where they are, which are left, and what is read back from them."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from collapselab.data import DataSplits
from collapselab.errors import InputError
from collapselab.experiments.experiment import Job, Preset
from collapselab.models.checkpoints import load_checkpoint
from collapselab.models.opening import required_channels, required_image_size
from collapselab.storage import replace_text
from collapselab.training import Recipe, RunFolder
from collapselab.training.building import build_model, load_data


@dataclass(frozen=True)
class _Form:
    """Of the samples that a run was trained on, as its record has it."""

    num_classes: int
    input_shape: tuple[int, ...]


# Labels of jobs, each with what it says of the recipe.
_LABELLED = {
    "dataset": "data.name",
    "model": "model.name",
    "num_train": "data.train.count",
    "learning_rate": "optimizer.learning_rate",
    "dropout": "model.options.dropout",
    "pretrain_step": "start.checkpoint",
}


def samples_key(recipe: Recipe) -> str:
    """Equal where the samples are: the seed counts only where some are drawn."""
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
        copies: where the data sets of a name are on this machine.

    Raises:
        InputError: no job has such a name, a recipe has no such value.
    """

    def __init__(
        self,
        out: Path,
        preset: Preset,
        seeds: Sequence[int],
        *,
        changes: Mapping[str, Any] | None = None,
        only: Sequence[str] = (),
        copies: Mapping[str, Path] | None = None,
    ) -> None:
        self.out, self.copies = out, copies
        self._seeds = tuple(seeds)
        everything = {seed: preset.jobs(seed) for seed in self.seeds}
        self._jobs = {seed: _chosen(jobs, only, changes or {}) for seed, jobs in everything.items()}
        names, chosen = (
            {job.name for jobs in of.values() for job in jobs} for of in (everything, self._jobs)
        )
        self._left_out = sorted(names - chosen)
        # Of the samples read last: the next run mostly has the same.
        self._samples: tuple[str, DataSplits] | None = None

    @property
    def seeds(self) -> Sequence[int]:
        return self._seeds

    @property
    def left_out(self) -> Sequence[str]:
        """Names of the preset's jobs that `only` leaves out."""
        return self._left_out

    def jobs(self, seed: int) -> Sequence[Job]:
        return self._jobs[seed]

    def all(self) -> list[tuple[Job, int]]:
        """Every job of every seed, seed by seed: with any number of whole seeds there is something to look at."""
        return [(job, seed) for seed in self.seeds for job in self._jobs[seed]]

    def job(self, name: str, seed: int) -> Job:
        return next(job for job in self._jobs[seed] if job.name == name)

    def folder(self, job: str, seed: int) -> RunFolder:
        return RunFolder(self.out / "runs" / job / f"seed-{seed}")

    def steps_done(self, job: str, seed: int) -> tuple[int, bool]:
        """Steps that need not be run again, as far as rows tell, and whether the run is finished."""
        folder = self.folder(job, seed)
        run = folder.read_run()
        if run is None:
            return 0, False
        if run["status"] == "finished":
            return int(run["steps"]), True
        return max((row["step"] for row in folder.read_rows()), default=0), False

    def data(self, recipe: Recipe) -> DataSplits:
        """The samples of a run; those of the last call are kept."""
        name = recipe.model.name
        key = f"{samples_key(recipe)} {required_channels(name)} {required_image_size(name)}"
        if self._samples is None or self._samples[0] != key:
            self._samples = None  # two large data sets need not fit at once
            self._samples = (key, load_data(recipe, self.copies))
        return self._samples[1]

    def model(self, job: Job, step: int | None = None) -> nn.Module:
        """The network of a run with the weights of a step, by default the last."""
        folder = self.folder(job.name, job.recipe.seed)
        run = folder.read_run()
        assert run is not None, "rows are made of finished runs"
        form = _Form(run["data"]["num_classes"], tuple(run["data"]["shape"]))
        model = build_model(job.recipe, form, folder.path)
        load_checkpoint(model, folder.weights_path(int(run["steps"]) if step is None else step))
        return model

    def _extra_path(self, name: str, seed: int) -> Path:
        return self.out / "extras" / f"{name}-seed-{seed}.json"

    def has_extra(self, name: str, seed: int) -> bool:
        """Whether it was computed, from these very runs. A damaged file is computed again."""
        try:
            held = json.loads(self._extra_path(name, seed).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(held, dict) and "rows" in held and held.get("of") == self._identities(seed)

    def extra(self, name: str, seed: int) -> list[dict[str, Any]]:
        return json.loads(self._extra_path(name, seed).read_text(encoding="utf-8"))["rows"]

    def write_extra(self, name: str, seed: int, rows: list[dict[str, Any]]) -> None:
        path = self._extra_path(name, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"of": self._identities(seed), "rows": rows}
        replace_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def _identities(self, seed: int) -> dict[str, str]:
        """What tells each run of a seed from another of the same job: its recipe, its samples and when it began."""
        out = {}
        for job in self._jobs[seed]:
            run = self.folder(job.name, seed).read_run() or {}
            begun = [slot.get("started") for slot in run.get("slots", [])[:1]]
            told = json.dumps([run.get("recipe"), run.get("data"), begun], sort_keys=True)
            out[job.name] = hashlib.sha256(told.encode()).hexdigest()[:16]
        return out


def _chosen(jobs: Sequence[Job], only: Sequence[str], changes: Mapping[str, Any]) -> list[Job]:
    names = [job.name for job in jobs]
    for glob in only:
        if not fnmatch.filter(names, glob):
            raise InputError(f"--only {glob}: matches none of the runs; there are {few(names)}")
    wanted = {name for name in names if not only or any(fnmatch.fnmatch(name, glob) for glob in only)}
    wanted |= {job.after for job in jobs if job.name in wanted and job.after}
    return [replace(job, recipe=_changed(job, changes, names)) for job in jobs if job.name in wanted]


def _changed(job: Job, changes: Mapping[str, Any], names: Sequence[str]) -> Recipe:
    own: dict[str, Any] = {}
    for name, value in changes.items():
        glob, colon, path = name.rpartition(":")
        if colon and not fnmatch.filter(names, glob):
            raise InputError(f"--set {name}: {glob} matches none of the runs; there are {few(names)}")
        if path == "seed":
            raise InputError(f"--set {name}: every run has a seed of its own; say how many with --seeds")
        if not colon or fnmatch.fnmatch(job.name, glob):
            label = next(
                # Or a part of the recipe that holds it.
                (
                    key
                    for key, place in _LABELLED.items()
                    if f"{place}.".startswith(f"{path}.") and key in job.labels
                ),
                None,
            )
            if label is not None:
                raise InputError(
                    f"--set {name}: {job.name} stands for {label} {job.labels[label]} in rows and figures; leave it out"
                )
            own[path] = value
    return job.recipe.with_changes(own) if own else job.recipe


def few(names: Sequence[str]) -> str:
    """The first of them, in alphabetical order."""
    names = sorted(set(names))
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
