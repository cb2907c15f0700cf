"""A network and a data set by name: opened, profiled, written to a folder."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from collapselab.checks import near_matches
from collapselab.data import LabelledData, available_splits, open_data
from collapselab.data.pixels import Standardize
from collapselab.distributed import local_device, process_group
from collapselab.errors import InputError, one_line
from collapselab.models import open_model, required_channels, required_image_size
from collapselab.passes import ProgressCallback
from collapselab.probes import Profile, profile
from collapselab.probes.options import AutoScatter
from collapselab.records.profile import ProfileMade, StoredProfile, read_profile, write_profile
from collapselab.statistics import Weighting
from collapselab.storage import provenance


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
    if job.against is not None and job.out is None:
        raise InputError(f"--against {job.against}: is drawn on the page of --out; give --out too")
    initial = None if job.against is None else read_profile(job.against).profile
    if job.out is not None:
        _make_folder(job.out)
    device = local_device(job.device)
    if device.type == "meta":
        raise InputError(f"--device {job.device}: holds no numbers; use cpu")
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
    if test.input_shape != train.input_shape:
        raise InputError(
            f"--test-data {source}: inputs of shape {test.input_shape}, but those of {job.data} have {train.input_shape}; "
            "give test data of the same shape"
        )
    return train, test if job.test_data is None else _relabelled(test, train, job)


def _relabelled(test: LabelledData, train: LabelledData, job: ProfileJob) -> LabelledData:
    """Test data of another source with the labels that its classes have in the training data.

    Classes are known by their names, or by their numbers where one of the two has numbers only.

    Raises:
        InputError: a class that the training data do not have.
    """
    ours, theirs = _class_names(train), _class_names(test)
    if _are_numbers(ours) and not _are_numbers(theirs):
        theirs = tuple(str(number) for number in range(len(theirs)))
    elif _are_numbers(theirs) and not _are_numbers(ours):
        ours = tuple(str(number) for number in range(len(ours)))
    of_name = {name: number for number, name in enumerate(ours)}
    unknown = [label for label in test.labels.unique().tolist() if theirs[label] not in of_name]
    if unknown:
        name = theirs[unknown[0]]
        near = near_matches(name, ours)
        raise InputError(
            f"--test-data {job.test_data}: {int(torch.isin(test.labels, torch.tensor(unknown)).sum())} samples are of "
            f"classes that {job.data} does not have, the first is {name!r}; leave them out"
            + (f" ({near})" if near.startswith("did you mean") and not _are_numbers(ours) else "")
        )
    of_label = torch.tensor([of_name.get(name, -1) for name in theirs])
    return dataclasses.replace(
        test, labels=of_label[test.labels], num_classes=train.num_classes, class_names=train.class_names
    )


def _class_names(data: LabelledData) -> tuple[str, ...]:
    return data.class_names or tuple(str(number) for number in range(data.num_classes))


def _are_numbers(names: tuple[str, ...]) -> bool:
    return all(name.isdecimal() for name in names)


# ---------------------------------------------------------------- files


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {path}: cannot be made ({one_line(error.strerror or error)}); choose another folder"
        ) from error
    if not os.access(path, os.W_OK):
        raise InputError(f"--out {path}: may not be written; choose another folder")
    known = {"profile.json", "report.html", "statistics.safetensors"}
    if (path / "run.json").exists() or (
        any(path.iterdir()) and not any((path / name).exists() for name in known)
    ):
        raise InputError(f"--out {path}: holds something else than a profile; choose another folder")


def _made(job: ProfileJob, world: int, seconds: float) -> ProfileMade:
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(job).items()
        if value is not None
    }
    own = {"options": options, "processes": world, "seconds": round(seconds, 2)}
    return ProfileMade.model_validate({**provenance(), **own})


def _write(out: Path, result: Profile, made: ProfileMade, initial: Profile | None) -> list[str]:
    from safetensors import SafetensorError

    from collapselab.report.pages.profile import write_profile_page

    lines = [f"Page: {out / 'report.html'}", f"Numbers: {out / 'profile.json'}"]
    names = {layer.name for layer in result.layers}
    if initial is not None and not names & {layer.name for layer in initial.layers}:
        initial = None  # hours of measuring are not thrown away for it
        lines.append(f"warning: --against {made.options['against']}: has none of these layers; not drawn")
    try:
        write_profile(out, StoredProfile(result, made))
        write_profile_page(out, result, initial, made)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"--out {out}: cannot be written ({one_line(reason)}); choose another folder"
        ) from error
    return lines
