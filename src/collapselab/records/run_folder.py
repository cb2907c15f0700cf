"""A run on disk: what is written when, so that killing it at any moment loses nothing that matters.

run.json               recipe, seed, versions, commit, hardware, status, seconds
measurements.jsonl     one line per (step, split, layer), appended and flushed
statistics/            step-000400.safetensors: counts, class means, class scatters
final_reference.jsonl  Hui's variances of every measured step over the references of the last one
verdicts.json          claims about the rows
features/              step-000400.safetensors: the last layer's test features, while the run goes on
checkpoints/           step-000400.safetensors (weights); trainer.pt (state to go on from), while the run goes on
report.html            one page over all of it
run.lock               empty; locked while a process trains here
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from collapselab.checks import InputError, one_line
from collapselab.probes import Profile
from collapselab.records.judgement import Judgement
from collapselab.storage import (
    FolderInUse,
    exclusive,
    is_temporary,
    load_tensors,
    replace_text,
    replacing,
    save_tensors,
)

_FOLDERS = ("statistics", "features", "checkpoints")


class RunFolder:
    """Paths, readers and writers of one run. Files are replaced whole or appended to, never rewritten."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.report = self.path / "report.html"
        self._run = self.path / "run.json"
        self._rows = self.path / "measurements.jsonl"
        self._final = self.path / "final_reference.jsonl"
        self._verdicts = self.path / "verdicts.json"
        self._trainer = self.path / "checkpoints" / "trainer.pt"
        self._lock = self.path / "run.lock"

    def create(self) -> None:
        """Make the folders.

        Raises:
            InputError: the path cannot be a folder.
        """
        try:
            for name in _FOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be made ({one_line(error)}); choose another --out"
            ) from error

    def exclusive(self) -> AbstractContextManager[None]:
        """While open, no other process trains here.

        Raises:
            FolderInUse: one does.
        """
        return exclusive(self._lock)

    def in_use(self) -> bool:
        """Whether some process trains here now."""
        if not self._lock.exists():
            return False
        try:
            with self.exclusive():
                return False
        except FolderInUse:
            return True

    # ---------------------------------------------------------------- run.json, verdicts.json

    def read_run(self) -> dict[str, Any] | None:
        """What run.json says, or None before the first start.

        Raises:
            InputError: it is not a run's.
        """
        if not self._run.exists():
            # A run killed before its first file was whole left only these.
            own = {*_FOLDERS, self._lock.name}
            if self.path.is_dir() and any(
                path.name not in own and not is_temporary(path) for path in self.path.iterdir()
            ):
                raise InputError(f"{self.path}: not empty and not a run; choose another --out")
            return None
        try:
            run = json.loads(self._run.read_text())
        except (ValueError, OSError) as error:
            raise InputError(f"{self._run}: not a run's ({one_line(error)}); choose another --out") from error
        if not isinstance(run, dict) or not {"recipe", "status"} <= run.keys():
            raise InputError(f"{self._run}: not a run's (no recipe or status); choose another --out")
        return run

    def write_run(self, run: dict[str, Any]) -> None:
        replace_text(self._run, json.dumps(run, indent=2) + "\n")

    def read_verdicts(self) -> list[Judgement]:
        return [Judgement.model_validate(one) for one in json.loads(self._verdicts.read_text())]

    def write_verdicts(self, verdicts: list[Judgement]) -> None:
        stored = [one.model_dump(mode="json") for one in verdicts]
        replace_text(self._verdicts, json.dumps(stored, indent=2, allow_nan=False) + "\n")

    def has_results(self) -> bool:
        """Whether there is anything that took time: rows, or a state to go on from."""
        return self._trainer.exists() or bool(self._rows.exists() and self._rows.stat().st_size)

    # ---------------------------------------------------------------- rows

    def read_rows(self) -> list[dict[str, Any]]:
        """The measured rows; a torn last line is left out."""
        return _read_lines(self._rows)

    def append_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows behind what is there, on disk before this returns."""
        with self._rows.open("a") as file:
            file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def append_profile(
        self,
        step: int,
        epoch: float,
        profile: Profile,
        *,
        spectra: bool = False,
        of_network: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Write a profile's statistics and then its rows: with these on disk the step is complete.

        Args:
            step: optimiser steps done.
            epoch: passes over the training data done.
            profile: of the network at this step.
            spectra: whether rows hold the spectra that the profile has, and the weights' singular values.
            of_network: by split, more numbers for the row of the last layer: loss and accuracy of the network itself.
        """
        self.write_statistics(step, statistics_of(profile))
        rows = []
        for layer in profile.layers:
            for split, measured in layer.splits.items():
                row: dict[str, Any] = {
                    "step": step,
                    "epoch": epoch,
                    "split": split,
                    "layer": layer.name,
                    "depth": layer.depth,
                    "metrics": dict(measured.metrics),
                }
                if layer is profile.layers[-1] and of_network is not None:
                    row["metrics"] |= of_network.get(split, {})
                if spectra:
                    weights = {"weight_singular_values": list(layer.weight_singular_values)}
                    row["spectra"] = measured.spectra | (weights if layer.weight_singular_values else {})
                if measured.warnings:
                    row["warnings"] = list(measured.warnings)
                rows.append(row)
        self.append_rows(rows)

    def drop_rows_after(self, step: int) -> None:
        """Forget rows of later steps and a torn last line: they are measured again."""
        kept = [row for row in self.read_rows() if row["step"] <= step]
        replace_text(self._rows, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))

    def read_final_reference(self) -> list[dict[str, Any]]:
        return _read_lines(self._final)

    def write_final_reference(self, rows: Iterable[dict[str, Any]]) -> None:
        replace_text(self._final, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def table(self) -> pd.DataFrame:
        """The measured rows, one column per metric, with step, epoch, split, layer and depth."""
        rows = [
            {name: row[name] for name in ("step", "epoch", "split", "layer", "depth")} | row["metrics"]
            for row in self.read_rows()
        ]
        return pd.DataFrame(rows)

    # ---------------------------------------------------------------- tensors

    def write_statistics(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Tensors named `split/layer/quantity`."""
        save_tensors(self.path / "statistics" / f"step-{step:06d}.safetensors", tensors)

    def read_statistics(self, step: int) -> dict[str, Tensor]:
        return load_tensors(self.path / "statistics" / f"step-{step:06d}.safetensors")

    def write_weights(self, step: int, weights: dict[str, Tensor]) -> None:
        save_tensors(self.weights_path(step), weights)

    def read_weights(self, step: int) -> dict[str, Tensor]:
        return load_tensors(self.weights_path(step))

    def weights_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}.safetensors"

    def write_features(self, step: int, features: Tensor) -> None:
        """The last layer's test features (n, p), which k-means needs when the run ends."""
        save_tensors(self.path / "features" / f"step-{step:06d}.safetensors", {"features": features})

    def read_features(self, step: int) -> Tensor | None:
        path = self.path / "features" / f"step-{step:06d}.safetensors"
        return load_tensors(path)["features"] if path.exists() else None

    def drop_working_files(self) -> None:
        """What a finished run needs no more: features, and the state to go on from."""
        shutil.rmtree(self.path / "features", ignore_errors=True)
        self._trainer.unlink(missing_ok=True)

    def write_trainer(self, state: dict[str, Any]) -> None:
        """Replace the state to go on from."""
        with replacing(self._trainer) as temporary:
            torch.save(state, temporary)

    def read_trainer(self) -> dict[str, Any] | None:
        """The state to go on from, or None; nothing in it is unpickled but tensors and plain values."""
        if not self._trainer.exists():
            return None
        # On the CPU whatever device wrote it: the network and its optimiser copy it to where they are.
        try:
            return torch.load(self._trainer, map_location="cpu", weights_only=True)
        except Exception as error:  # of zip files, of unpickling, of torch: all are the file's fault
            raise InputError(
                f"{self._trainer}: damaged ({one_line(error)[:100]}); remove {self.path}, or put the file back"
            ) from error


def statistics_of(profile: Profile) -> dict[str, Tensor]:
    """Counts, class means and class scatters of a profile, named `split/layer/quantity`."""
    tensors = {}
    for layer in profile.layers:
        for split, measured in layer.splits.items():
            place = f"{split}/{layer.name}"
            tensors[f"{place}/counts"] = measured.counts
            tensors[f"{place}/class_means"] = measured.class_means
            tensors[f"{place}/class_variances"] = measured.class_variances
    return tensors


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    # What follows the last line break was being written when the run was killed.
    for number, line in enumerate(path.read_text(errors="replace").split("\n")[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: damaged ({error}); put the file back, or remove {path.parent}"
            ) from error
    return rows
