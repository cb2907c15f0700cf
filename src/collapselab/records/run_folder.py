"""A run on disk. Files are written in an order that allows a run killed at any moment to resume.

Every file that is read back has a digest and belongs to the run that run.json describes (`collapselab.digests`).

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

import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from collapselab.digests import Damaged, seal_content, unseal_content
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
    what_is_wrong,
    write_model,
)
from collapselab.records.verdicts import read_verdicts, write_verdicts
from collapselab.storage import (
    FolderInUse,
    exclusive,
    is_temporary,
    load_tensors,
    read_bytes,
    replace_bytes,
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

    def clear(self) -> None:
        """Remove the files of the run; files of others stay."""
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for path in (self._rows, self._final, self._verdicts, self.report, self._run):
            path.unlink(missing_ok=True)

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
            if self._rows.exists() or self._trainer.exists():
                raise self._is_gone(self._run)
            if self.path.is_dir() and any(
                path.name not in own and not is_temporary(path) for path in self.path.iterdir()
            ):
                raise InputError(f"{self.path}: not empty and not a run; choose another out=")
            return None
        return read_model(self._run, RunRecord, "a run record", "choose another out=")

    def write_run(self, record: RunRecord) -> None:
        """Replace run.json."""
        write_model(self._run, record)

    def _run_id(self) -> str | None:
        """Return what tells this run from others; None where there is no run.json."""
        record = self.read_run() if self._run.exists() else None
        return None if record is None else record.run_id

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
        return read_lines(self._rows, MeasuredRow, self._run_id())

    def append_rows(self, rows: Iterable[MeasuredRow]) -> None:
        """Append rows; they are on disk when this returns."""
        append_lines(self._rows, rows, self._run_id() or "")

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
        try:
            self.append_rows(profile_rows(profile, step, epoch, spectra=spectra, network=network))
        except BaseException:  # statistics without rows would look as if rows were lost
            self._tensors("statistics", step).unlink(missing_ok=True)
            raise

    def drop_rows_after(self, step: int) -> None:
        """Remove rows and statistics of later steps and an incomplete last line: they are measured again."""
        kept = [row for row in self.read_rows() if row.step <= step]
        replace_lines(self._rows, kept, self._run_id() or "")
        for later in self.stored_steps("statistics"):
            if later > step:
                self._tensors("statistics", later).unlink(missing_ok=True)

    def table(self) -> pd.DataFrame:
        """Return the measured rows, one column per metric, with step, epoch, split, layer and depth."""
        return rows_table(self.read_rows())

    def read_final_reference(self) -> list[FinalReferenceRow]:
        """Return the rows over references of the last step; none before the run ends.

        Raises:
            InputError: a line is damaged.
        """
        return read_lines(self._final, FinalReferenceRow, self._run_id())

    def write_final_reference(self, rows: Iterable[FinalReferenceRow]) -> None:
        """Replace the rows over references of the last step."""
        replace_lines(self._final, rows, self._run_id() or "")

    # ---------------------------------------------------------------- tensors

    def write_statistics(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write tensors named `split/layer/quantity`."""
        self._save("statistics", step, tensors)

    def read_statistics(self, step: int) -> dict[str, Tensor]:
        """Return tensors named `split/layer/quantity`; none where they were not kept.

        Raises:
            InputError: the file is damaged.
        """
        return self._load("statistics", step) or {}

    def statistics_places(self, step: int) -> set[tuple[str, str]]:
        """Return the splits and layers whose statistics are stored, by the names of the tensors alone.

        Raises:
            InputError: there are none, or the file is damaged.
        """
        path = self._tensors("statistics", step)
        if not path.is_file():
            raise self._is_gone(path)
        try:
            with safe_open(path, framework="pt") as file:
                names = [name.partition("/") for name in file.keys()]  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise self._is_damaged(path, error) from error
        return {(split, rest.rpartition("/")[0]) for split, _, rest in names}

    def write_weights(self, step: int, weights: dict[str, Tensor]) -> None:
        """Write a checkpoint."""
        self._save("checkpoints", step, weights)

    def read_weights(self, step: int) -> dict[str, Tensor]:
        """Return the weights of a checkpoint.

        Raises:
            InputError: there is none, or it is damaged.
        """
        weights = self._load("checkpoints", step)
        if weights is None:
            raise self._is_gone(self.weights_path(step))
        return weights

    def weights_path(self, step: int) -> Path:
        """Path of a checkpoint."""
        return self._tensors("checkpoints", step)

    def write_features(self, step: int, features: Tensor) -> None:
        """Write test features of the last layer (n, p), which k-means needs when the run ends."""
        self._save("features", step, {"features": features})

    def read_features(self, step: int) -> Tensor | None:
        """Return test features of the last layer (n, p), or None where they were not kept.

        Raises:
            InputError: the file is damaged.
        """
        tensors = self._load("features", step)
        return None if tensors is None else tensors["features"]

    def stored_steps(self, name: str) -> list[int]:
        """Return the steps of the files in `statistics`, `features` or `checkpoints`."""
        texts = (path.stem.removeprefix("step-") for path in (self.path / name).glob("step-*.safetensors"))
        return sorted(int(text) for text in texts if text.isdecimal())

    def check_tensors(self, name: str, step: int) -> None:
        """Check that a file in `statistics`, `features` or `checkpoints` is as it was written.

        Raises:
            InputError: there is none, or it is damaged.
        """
        if self._load(name, step) is None:
            raise self._is_gone(self._tensors(name, step))

    def _tensors(self, name: str, step: int) -> Path:
        return self.path / name / f"step-{step:06d}.safetensors"

    def _facts(self, path: Path) -> dict[str, str]:
        run = self._run_id()
        return {"file": str(path.relative_to(self.path).as_posix())} | ({} if run is None else {"run": run})

    def _save(self, name: str, step: int, tensors: dict[str, Tensor]) -> None:
        path = self._tensors(name, step)
        save_tensors(path, tensors, self._facts(path))

    def _load(self, name: str, step: int) -> dict[str, Tensor] | None:
        path = self._tensors(name, step)
        try:
            return load_tensors(path, self._facts(path))
        except FileNotFoundError:
            return None
        except (OSError, Damaged) as error:
            raise self._is_damaged(path, error) from error

    def _is_gone(self, path: Path) -> InputError:
        return InputError(f"{path}: is gone; restore it, or remove {self.path} so that it is run again")

    def _is_damaged(self, path: Path, error: Exception) -> InputError:
        return InputError(
            f"{path}: damaged ({what_is_wrong(error)}); restore it, or remove {self.path} so that it is run again"
        )

    # ---------------------------------------------------------------- the state to resume from

    def write_trainer(self, state: dict[str, Any]) -> None:
        """Replace the state to resume from."""
        content = io.BytesIO()
        torch.save(state, content)
        replace_bytes(self._trainer, *seal_content(content.getbuffer(), self._run_id() or "none"))

    def read_trainer(self) -> dict[str, Any] | None:
        """Return the state to resume from, or None; only tensors and plain values are unpickled.

        Raises:
            InputError: the file cannot be read, is damaged, or is of another run.
        """
        try:
            content, run = unseal_content(read_bytes(self._trainer))
            if run not in (None, "none", self._run_id()):
                raise Damaged("of another run")
            # On the CPU whatever device wrote it: the network and its optimiser copy it to where they are.
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except MemoryError:
            raise
        except OSError as error:
            reason = f"cannot be read ({what_is_wrong(error)})"
            raise InputError(f"{self._trainer}: {reason}; check the file and its permissions") from error
        except Exception as error:  # of zip files, of unpickling, of torch: the file is damaged in each case
            raise self._is_damaged(self._trainer, error) from error

    def drop_working_files(self) -> None:
        """Remove what a finished run no longer needs: features, the state to resume from, what killed processes left."""
        shutil.rmtree(self.path / "features", ignore_errors=True)
        for path in [self._trainer, *filter(is_temporary, self.path.rglob(".*"))]:
            path.unlink(missing_ok=True)


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint in a run folder is of that run; one that lies elsewhere is left to its reader.

    Raises:
        InputError: it is damaged, or of another run.
    """
    folder, step = RunFolder(path.parent.parent), path.stem.removeprefix("step-")
    is_stored = step.isdecimal() and folder.weights_path(int(step)) == path
    if is_stored and path.exists() and (folder.path / "run.json").exists():
        folder.check_tensors("checkpoints", int(step))
