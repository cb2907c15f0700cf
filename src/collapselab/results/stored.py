"""Read the stored experiments below a folder; what cannot be read is named, and the rest is returned."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from collapselab.digests import digest
from collapselab.errors import InputError, one_line
from collapselab.records.experiment import RECORD, ExperimentRecord, read_experiment
from collapselab.records.judgement import Judgement
from collapselab.records.verdicts import read_verdicts
from collapselab.storage import open_regular, read_bytes

_README = "README.md"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.Struct(">8s4x4sII")  # signature, length and type of the first chunk, width, height


@dataclass(frozen=True)
class StoredFigure:
    """A figure as PNG, and its size in pixels."""

    path: Path
    width: int
    height: int

    @property
    def pdf(self) -> Path | None:
        """The same figure as PDF, if it is stored."""
        path = self.path.with_suffix(".pdf")
        return path if path.is_file() else None


@dataclass(frozen=True)
class StoredExperiment:
    """What the folder of an experiment holds, finished or not.

    Attributes:
        folder: where it is stored.
        record: its experiment.json.
        judgements: its verdicts; empty before it is finished.
        figures: drawn figures, by name.
        files: other files to read: page, rows, verdicts, notes.
    """

    folder: Path
    record: ExperimentRecord
    judgements: tuple[Judgement, ...]
    figures: tuple[StoredFigure, ...]
    files: tuple[Path, ...]

    @property
    def is_finished(self) -> bool:
        return self.record.status == "finished"


@dataclass(frozen=True)
class StoredNotes:
    """A folder without an experiment that holds a README.md and figures."""

    folder: Path
    title: str
    figures: tuple[StoredFigure, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class StoredResults:
    """Everything found below a folder.

    Attributes:
        root: the folder.
        experiments: in the order in which they are shown.
        notes: other documented results.
        problems: one line for each folder that cannot be read.
    """

    root: Path
    experiments: Sequence[StoredExperiment] = ()
    notes: Sequence[StoredNotes] = ()
    problems: Sequence[str] = ()


def read_results(root: Path, order: Sequence[str] = ()) -> StoredResults:
    """Read all experiments at or below a folder; nothing is run.

    Args:
        root: the folder; links to other folders are not followed.
        order: ids of experiments in the order in which they are shown; others follow by id.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a folder that contains experiments")
    problems: list[str] = []
    found = _read_each(_folders(root, problems), problems)
    experiments = [one for one in found if isinstance(one, StoredExperiment)]
    notes = [one for one in found if isinstance(one, StoredNotes)]
    return StoredResults(root, _in_order(experiments, order), notes, problems)


def read_folders(root: Path, folders: Sequence[Path]) -> StoredResults:
    """Read the experiments in given folders, in this order; folders that do not exist yet are left out."""
    problems: list[str] = []
    found = _read_each((folder for folder in folders if (folder / RECORD).exists()), problems)
    return StoredResults(root, [one for one in found if isinstance(one, StoredExperiment)], (), problems)


def _read_each(folders: Iterator[Path], problems: list[str]) -> list[StoredExperiment | StoredNotes]:
    found = []
    for folder in folders:
        try:
            found.append(_experiment(folder) if (folder / RECORD).exists() else _notes(folder))
        except InputError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(_unreadable(error))
    return found


def _folders(root: Path, problems: list[str]) -> Iterator[Path]:
    """Yield folders of experiments and documented folders. Folders of runs lie in those of experiments and are skipped."""
    for place, inside, files in os.walk(root, onerror=lambda error: problems.append(_unreadable(error))):
        inside.sort()
        is_experiment = RECORD in files
        if is_experiment or (_README in files and any(name.endswith(".png") for name in files)):
            yield Path(place)
        inside[:] = [] if is_experiment else [name for name in inside if not name.startswith(".")]


def _unreadable(error: OSError) -> str:
    return f"{error.filename}: cannot be read ({one_line(error.strerror)}); check its permissions"


# ---------------------------------------------------------------- one folder


def _experiment(folder: Path) -> StoredExperiment:
    """Read the folder of an experiment.

    Raises:
        InputError, OSError: a file is damaged, missing or not readable.
    """
    record = read_experiment(folder)
    assert record is not None, "the folder has a record"
    verdicts, rows = folder / "verdicts.json", folder / "rows.csv"
    if record.status != "finished":
        return StoredExperiment(folder, record, (), (), ())
    if record.rows_digest and rows.exists() and digest(read_bytes(rows)) != record.rows_digest:
        raise InputError(f"{rows}: changed since it was written: its digest does not match; restore it")
    if not verdicts.exists():
        raise InputError(f"{verdicts}: is missing; restore it, or run collapselab judge {folder}")
    tables = sorted(folder.glob("*.csv"), key=lambda path: (path.name != rows.name, path.name))
    named = (folder / name for name in ("report.html", "verdicts.txt", verdicts.name, RECORD, _README))
    files = (*tables, *(path for path in named if path.is_file()))
    return StoredExperiment(folder, record, tuple(read_verdicts(verdicts)), _figures(folder), files)


def _notes(folder: Path) -> StoredNotes:
    readme = folder / _README
    heads = [
        line[2:] for line in read_bytes(readme).decode("utf-8", "replace").splitlines() if line[:2] == "# "
    ]
    files = (readme, *sorted(path for path in folder.iterdir() if path.suffix in (".json", ".csv", ".txt")))
    return StoredNotes(folder, (heads or [folder.name])[0].strip(), _figures(folder), files)


def _figures(folder: Path) -> tuple[StoredFigure, ...]:
    return tuple(StoredFigure(path, *_size(path)) for path in sorted(folder.glob("*.png")))


def _size(path: Path) -> tuple[int, int]:
    """Return width and height of a PNG file in pixels."""
    with open_regular(path) as file:
        head = file.read(_PNG_HEADER.size)
    if len(head) == _PNG_HEADER.size:
        signature, kind, width, height = _PNG_HEADER.unpack(head)
        if (signature, kind) == (_PNG, b"IHDR"):
            return width, height
    raise InputError(f"{path}: not a PNG image; restore it, or run collapselab judge {path.parent}")


def _in_order(experiments: Sequence[StoredExperiment], order: Sequence[str]) -> list[StoredExperiment]:
    place = {id: number for number, id in enumerate(order)}

    def key(one: StoredExperiment) -> tuple[int, str, str]:
        return place.get(one.record.experiment, len(place)), one.record.experiment, str(one.folder)

    return sorted(experiments, key=key)
