"""A run on disk. Files are written in an order that allows a run killed at any moment to resume.

run.json               recipe, seed, versions, commit, hardware, status, seconds
measurements.jsonl     one line per (step, split, layer), appended and flushed
statistics/            step-000400.safetensors: counts, class means, class scatters
final_reference.jsonl  Hui's variances of every measured step over the references of the last one
verdicts.json          judged claims
features/              step-000400.safetensors: test features of the last layer, until the run ends
checkpoints/           step-000400.safetensors (weights); trainer.pt (state to resume from), until the run ends
report.html            one page over all of it
run.lock               empty; locked while a process trains here
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from collapselab.errors import InputError, one_line
from collapselab.probes import Profile
from collapselab.records.judgement import Judgement
from collapselab.records.profile import statistics_of
from collapselab.records.rows import (
    FinalReferenceRow,
    MeasuredRow,
    NetworkNumbers,
    profile_rows,
    rows_table,
)
from collapselab.records.run_record import RunRecord
from collapselab.records.stored import (
    append_lines,
    read_lines,
    read_model,
    replace_lines,
    write_model,
)
from collapselab.records.verdicts import read_verdicts, write_verdicts
from collapselab.storage import (
    FolderInUse,
    exclusive,
    is_temporary,
    load_tensors,
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
        """Create the folder and those within it.

        Raises:
            InputError: the path cannot be a folder.
        """
        try:
            for name in _FOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be created ({one_line(error)}); choose another out="
            ) from error

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other processes from training here while open.

        Raises:
            FolderInUse: another process trains here.
        """
        return exclusive(self._lock)

    def in_use(self) -> bool:
        """Whether another process trains here now."""
        if not self._lock.exists():
            return False
        try:
            with self.exclusive():
                return False
        except FolderInUse:
            return True

    # ---------------------------------------------------------------- run.json, verdicts.json

    def read_run(self) -> RunRecord | None:
        """Return the record of the run, or None before its first start.

        Raises:
            InputError: the folder holds something else.
        """
        if not self._run.exists():
            # A run killed before its first file was whole left only these.
            own = {*_FOLDERS, self._lock.name}
            if self.path.is_dir() and any(
                path.name not in own and not is_temporary(path) for path in self.path.iterdir()
            ):
                raise InputError(f"{self.path}: not empty and not a run; choose another out=")
            return None
        return read_model(self._run, RunRecord, "a run record", "choose another out=")

    def write_run(self, record: RunRecord) -> None:
        """Replace run.json."""
        write_model(self._run, record)

    def read_verdicts(self) -> list[Judgement]:
        """Return the judged claims; none before they are judged.

        Raises:
            InputError: the file is damaged.
        """
        return read_verdicts(self._verdicts) if self._verdicts.exists() else []

    def write_verdicts(self, judgements: Sequence[Judgement]) -> None:
        """Replace verdicts.json."""
        write_verdicts(self._verdicts, judgements)

    def has_results(self) -> bool:
        """Whether there is anything that took time: rows, or a state to resume from."""
        return self._trainer.exists() or bool(self._rows.exists() and self._rows.stat().st_size)

    # ---------------------------------------------------------------- rows

    def read_rows(self) -> list[MeasuredRow]:
        """Return the measured rows; an incomplete last line is left out.

        Raises:
            InputError: a line is damaged.
        """
        return read_lines(self._rows, MeasuredRow)

    def append_rows(self, rows: Iterable[MeasuredRow]) -> None:
        """Append rows; they are on disk when this returns."""
        append_lines(self._rows, rows)

    def append_profile(
        self,
        step: int,
        epoch: float,
        profile: Profile,
        *,
        spectra: bool = False,
        network: Mapping[str, NetworkNumbers] | None = None,
    ) -> None:
        """Write a profile's statistics and then its rows: with these on disk the step is complete.

        Args:
            step, epoch, profile, spectra, network: see `collapselab.records.rows.profile_rows`.
        """
        self.write_statistics(step, statistics_of(profile))
        self.append_rows(profile_rows(profile, step, epoch, spectra=spectra, network=network))

    def drop_rows_after(self, step: int) -> None:
        """Remove rows of later steps and an incomplete last line: they are measured again."""
        replace_lines(self._rows, (row for row in self.read_rows() if row.step <= step))

    def table(self) -> pd.DataFrame:
        """Return the measured rows, one column per metric, with step, epoch, split, layer and depth."""
        return rows_table(self.read_rows())

    def read_final_reference(self) -> list[FinalReferenceRow]:
        """Return the rows over references of the last step; none before the run ends.

        Raises:
            InputError: a line is damaged.
        """
        return read_lines(self._final, FinalReferenceRow)

    def write_final_reference(self, rows: Iterable[FinalReferenceRow]) -> None:
        """Replace the rows over references of the last step."""
        replace_lines(self._final, rows)

    # ---------------------------------------------------------------- tensors

    def write_statistics(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write tensors named `split/layer/quantity`."""
        save_tensors(self._tensors("statistics", step), tensors)

    def read_statistics(self, step: int) -> dict[str, Tensor]:
        """Return tensors named `split/layer/quantity`; none where they were not kept."""
        path = self._tensors("statistics", step)
        return load_tensors(path) if path.exists() else {}

    def write_weights(self, step: int, weights: dict[str, Tensor]) -> None:
        """Write a checkpoint."""
        save_tensors(self.weights_path(step), weights)

    def read_weights(self, step: int) -> dict[str, Tensor]:
        """Return the weights of a checkpoint."""
        return load_tensors(self.weights_path(step))

    def weights_path(self, step: int) -> Path:
        """Path of a checkpoint."""
        return self._tensors("checkpoints", step)

    def write_features(self, step: int, features: Tensor) -> None:
        """Write test features of the last layer (n, p), which k-means needs when the run ends."""
        save_tensors(self._tensors("features", step), {"features": features})

    def read_features(self, step: int) -> Tensor | None:
        """Return test features of the last layer (n, p), or None where they were not kept."""
        path = self._tensors("features", step)
        return load_tensors(path)["features"] if path.exists() else None

    def _tensors(self, folder: str, step: int) -> Path:
        return self.path / folder / f"step-{step:06d}.safetensors"

    # ---------------------------------------------------------------- the state to resume from

    def write_trainer(self, state: dict[str, Any]) -> None:
        """Replace the state to resume from."""
        with replacing(self._trainer) as temporary:
            torch.save(state, temporary)

    def read_trainer(self) -> dict[str, Any] | None:
        """Return the state to resume from, or None; only tensors and plain values are unpickled.

        Raises:
            InputError: the file is damaged.
        """
        if not self._trainer.exists():
            return None
        # On the CPU whatever device wrote it: the network and its optimiser copy it to where they are.
        try:
            return torch.load(self._trainer, map_location="cpu", weights_only=True)
        except Exception as error:  # of zip files, of unpickling, of torch: the file is damaged in each case
            raise InputError(
                f"{self._trainer}: damaged ({one_line(error)[:100]}); remove {self.path}, or restore the file"
            ) from error

    def drop_working_files(self) -> None:
        """Remove what a finished run no longer needs: features, and the state to resume from."""
        shutil.rmtree(self.path / "features", ignore_errors=True)
        self._trainer.unlink(missing_ok=True)
