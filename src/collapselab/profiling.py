"""A network and a data set by name: opened, profiled, written to a folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapselab.data import LabelledData, available_splits, open_data
from collapselab.data.pixels import Standardize
from collapselab.distributed import local_device, process_group
from collapselab.errors import InputError, one_line
from collapselab.models import open_model, required_channels, required_image_size
from collapselab.output import write_text
from collapselab.probes import Profile, profile
from collapselab.probes.passes import ProgressCallback
from collapselab.probes.plan import AutoScatter
from collapselab.statistics import Weighting
from collapselab.training.provenance import provenance
from collapselab.training.run_folder import save_tensors, statistics_of


@dataclass(frozen=True)
class ProfileJob:
    """What `collapselab profile` was asked for; see its help.

    Attributes:
        model: by name, or `path/to/file.py:function`.
        data: a data set by name or path; its `train` split is measured, and its `test` split where it has one.
        test_data: another data set to take the test split from.
        checkpoint: weights; else initial ones from `seed`.
        layers: names and globs, commas between them; None for every weight layer.
        reduce, scatter, weighting, epsilon, seed: as in `collapselab.profile`.
        limit: samples per split at most.
        batch_size: samples per forward pass.
        device: `auto`, `cpu`, `cuda`, …
        standardize: of images: per `channel` or per `pixel`, with the statistics of the train split, or `none`.
        against: a profile.json, or a folder with one, to draw beside this one.
        out: folder for profile.json, class statistics and the page.
    """

    model: str
    data: str
    test_data: str | None = None
    checkpoint: Path | None = None
    layers: str | None = None
    reduce: str = "flatten"
    scatter: AutoScatter = "auto"
    weighting: Weighting = "balanced"
    epsilon: float = 0.2
    limit: int | None = None
    batch_size: int = 128
    device: str = "auto"
    seed: int = 0
    standardize: Standardize = "channel"
    against: Path | None = None
    out: Path | None = None


def run_job(job: ProfileJob, progress: ProgressCallback | None = None) -> tuple[Profile | None, list[str]]:
    """Profile the network and write what was asked for.

    Started by `torchrun`, every process takes its share of the batches, and the first alone writes.

    Returns:
        The profile, None in all processes but the first; and what a reader is to be told.

    Raises:
        InputError: whatever is wrong with the request, before anything is measured where that can be told.
        ImportError: an extra that is not installed.
    """
    if job.batch_size < 1:
        raise InputError(f"--batch-size {job.batch_size}: give at least 1")
    if not 0 < job.epsilon < 1:
        raise InputError(f"--epsilon {job.epsilon}: give a share of variance between 0 and 1")
    initial = None if job.against is None else _read_profile(job.against)
    if job.out is not None:
        _make_folder(job.out)
    device = local_device(job.device)
    start = time.perf_counter()
    train, test = _open_splits(job)
    model = open_model(
        job.model,
        num_classes=train.num_classes,
        input_shape=train.input_shape,
        checkpoint=job.checkpoint,
        seed=job.seed,
    ).to(device)
    with process_group(device) as (rank, world):
        result = profile(
            model,
            train.batches(job.batch_size, rank=rank, world=world),
            None if test is None else test.batches(job.batch_size, rank=rank, world=world),
            layers=job.layers,
            reduce=job.reduce,
            scatter=job.scatter,
            weighting=job.weighting,
            epsilon=job.epsilon,
            seed=job.seed,
            name=job.model if job.checkpoint is None else f"{job.model}, {job.checkpoint.name}",
            progress=progress if rank == 0 else None,
        )
    if rank > 0:
        return None, []
    if job.out is None:
        return result, []
    made = _made(job, world, time.perf_counter() - start)
    return result, _write(job.out, result, made, initial)


def _open_splits(job: ProfileJob) -> tuple[LabelledData, LabelledData | None]:
    """Train and test data, with the size and channels that the model needs."""
    wanted: dict[str, Any] = {
        "image_size": required_image_size(job.model),
        "channels": required_channels(job.model),
        "limit": job.limit,
        "standardize": job.standardize,
    }
    splits = available_splits(job.data)
    if "train" not in splits:
        raise InputError(f"--data {job.data}: has no train split, only {', '.join(splits)}")
    train = open_data(job.data, **wanted)
    source = job.test_data or job.data
    if job.test_data is None and "test" not in splits:
        return train, None
    split = "test" if "test" in available_splits(source) else "train"
    test = open_data(source, split=split, reference=train, **wanted)
    if test.class_names is not None and train.class_names not in (None, test.class_names):
        raise InputError(
            f"--test-data {source}: its classes are not those of {job.data}: the labels would not mean the same"
        )
    return train, test


# ---------------------------------------------------------------- files


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {path}: cannot be made ({one_line(error.strerror or error)}); choose another folder"
        ) from error
    known = {"profile.json", "report.html", "statistics.safetensors"}
    if (path / "run.json").exists() or (
        any(path.iterdir()) and not any((path / name).exists() for name in known)
    ):
        raise InputError(f"--out {path}: holds something else than a profile; choose another folder")


def _read_profile(path: Path) -> dict[str, Any]:
    file = path / "profile.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not {"layers", "model", "first_collapsed_layer"} <= found.keys():
            raise ValueError("it has no layers")
    except FileNotFoundError as error:
        raise InputError(
            f"--against {path}: there is no {file.name}; give the --out of an earlier profile"
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"--against {path}: is no profile ({one_line(error)})") from error
    return found


def _made(job: ProfileJob, world: int, seconds: float) -> dict[str, Any]:
    known = provenance()
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(job).items()
        if value is not None
    }
    return {"options": options, "processes": world, "seconds": round(seconds, 2)} | known


def _write(out: Path, result: Profile, made: dict[str, Any], initial: dict[str, Any] | None) -> list[str]:
    from collapselab.report import write_profile_report

    text = result.to_dict() | {"made": made}
    write_text(out / "profile.json", json.dumps(text, indent=2, allow_nan=False) + "\n")
    save_tensors(out / "statistics.safetensors", statistics_of(result))
    write_profile_report(out, text, initial, made=made)
    return [f"Page: {out / 'report.html'}", f"Numbers: {out / 'profile.json'}"]
