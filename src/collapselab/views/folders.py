"""Read what a user measured earlier: the folder of a run, of a monitored run or of a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from collapselab.digests import Damaged
from collapselab.errors import InputError
from collapselab.probes import Profile
from collapselab.records import profile as stored_profile
from collapselab.records import run as stored_run
from collapselab.records.profile import FILE, STATISTICS, StoredProfile
from collapselab.records.run import Run
from collapselab.records.run_folder import RunFolder
from collapselab.storage import load_tensors


def read_run(folder: Path | str) -> Run:
    """Read a run, finished or not: `rows` has every metric by step, split and layer.

    Args:
        folder: written by `collapselab run`, or by a monitor or callback in your own training.

    Raises:
        InputError: there is no run, nothing is measured yet, or a file is damaged.
    """
    return stored_run.read_run(RunFolder(folder))


def read_profile(folder: Path | str) -> Profile:
    """Read a profile, with the class means and class variances of its layers.

    Args:
        folder: written by `collapselab profile --out`; or a profile.json, which has no class means.

    Raises:
        InputError: there is none, or a file is damaged.
    """
    return open_profile(Path(folder)).profile


def open_profile(path: Path) -> StoredProfile:
    """Return a profile with its class means, where they are stored, and how it was made.

    Raises:
        InputError: there is none, or a file is damaged.
    """
    stored = stored_profile.read_profile(path)
    file = path / STATISTICS
    if not (path.is_dir() and file.exists()):
        return stored
    try:
        tensors = load_tensors(file)
    except (OSError, Damaged) as error:
        raise InputError(f"{file}: damaged ({error}); restore it, or profile again") from error
    layers = []
    for layer in stored.profile.layers:
        splits = {
            split: replace(
                measured,
                class_means=tensors.get(f"{split}/{layer.name}/class_means"),
                class_variances=tensors.get(f"{split}/{layer.name}/class_variances"),
            )
            for split, measured in layer.splits.items()
        }
        layers.append(replace(layer, splits=splits))
    return replace(stored, profile=replace(stored.profile, layers=tuple(layers)))


def open_folder(path: Path) -> Run | StoredProfile:
    """Return the run or the profile in a folder.

    Raises:
        InputError: the folder holds neither, or a file is damaged.
    """
    if path.name == FILE or (path / FILE).exists():
        return open_profile(path)
    if (path / "experiment.json").exists():
        raise InputError(
            f"{path}: an experiment, which has a page of its own; collapselab judge {path} writes it again"
        )
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a run or of a profile")
    if not (path / "run.json").exists():
        raise InputError(
            f"{path}: holds neither run.json nor profile.json; give the folder of a run or of a profile"
        )
    return read_run(path)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]
