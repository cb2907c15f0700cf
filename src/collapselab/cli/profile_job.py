"""The job behind `collapselab profile`: open a network and a data set, profile, write the results to a folder."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from collapselab.choices import Standardize
from collapselab.cli.output import make_result_folder
from collapselab.data import LabelledData, open_data_set
from collapselab.data.pixels import Pixels
from collapselab.distributed import local_device, process_group
from collapselab.errors import InputError, InputNote, encodable, in_strings, noted
from collapselab.models import (
    is_user_file,
    open_model,
    required_channels,
    required_image_size,
    untrained,
)
from collapselab.models.preprocessing import TextPreprocessing, chosen_preprocessing
from collapselab.models.pretrained import check_weights_wanted, saved_folder
from collapselab.names import near_matches
from collapselab.passes import ProgressCallback
from collapselab.probes import Profile, ProfileOptions, profile
from collapselab.probes.options import complete_options
from collapselab.records.profile import ProfileMade, StoredProfile, read_profile, write_profile
from collapselab.storage import WriteError, check_regular, provenance

_FILES = ("profile.json", "report.html", "statistics.safetensors")


@dataclass(frozen=True)
class ProfileJob:
    """Options of `collapselab profile`; see its help.

    Attributes:
        model: name of the network, or `path/to/file.py:function`.
        dataset: name or path of the data set; its `train` split is measured, and its `test` split if it has one.
        test_dataset: another data set to take the test split from.
        copies: paths of local copies of named data sets.
        checkpoint: weights to load; None for initial weights from the seed.
        checkpoint_key: place of the weights in the file.
        pretrained: whether published weights are loaded.
        preprocess: whether inputs are made as the network was trained with; None: with published weights.
        image_size: height and width of images; None for those that the network or the data have.
        limit: maximum number of samples per split.
        batch_size: samples per forward pass.
        device: `auto`, `cpu`, `cuda`, …
        standardize: statistics of the train split that images are standardised with.
        against: folder of an earlier profile, or its profile.json, to draw beside this one.
        out: folder for profile.json, class statistics and the page.
        options: arguments of `collapselab.profile`.
    """

    model: str
    dataset: str
    test_dataset: str | None = None
    copies: Mapping[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None
    checkpoint_key: str | None = None
    pretrained: bool = False
    preprocess: bool | None = None
    image_size: int | None = None
    limit: int | None = None
    batch_size: int = 128
    device: str = "auto"
    standardize: Standardize = "channel"
    workers: int | None = None
    against: Path | None = None
    out: Path | None = None
    options: ProfileOptions = field(default_factory=ProfileOptions)


def run_job(job: ProfileJob, progress: ProgressCallback | None = None) -> tuple[Profile | None, list[str]]:
    """Profile the network and write the requested files.

    Under `torchrun`, every process reads its share of the batches, and only the first writes.

    Returns:
        The profile, None in all processes but the first; and lines to show to the user.

    Raises:
        InputError: an invalid request; raised before anything is measured if possible.
        ImportError: an extra that is not installed.
    """
    _check(job)
    initial = None if job.against is None else _read_against(job.against)
    if job.out is not None:
        make_result_folder(job.out, _FILES, "a profile")
    device = local_device(job.device)
    if device.type == "meta":
        raise InputError(f"--device {job.device}: the meta device stores no data; use cpu or cuda")
    start = time.perf_counter()
    result, world = _profiled(job, device, progress)
    if result is None or job.out is None:
        return result, []
    made = _made(job, world, time.perf_counter() - start)
    return result, _write(job.out, result, made, initial)


def _check(job: ProfileJob) -> None:
    complete_options(job.options)
    if job.batch_size < 1:
        raise InputError(f"--batch-size {job.batch_size}: give at least 1")
    if job.against is not None and job.out is None:
        raise InputError(f"--against {job.against}: needs --out, whose page shows both profiles")


def _profiled(
    job: ProfileJob, device: torch.device, progress: ProgressCallback | None
) -> tuple[Profile | None, int]:
    """The profile, None in all processes but the first; and how many processes there are."""
    with noted() as said:
        if job.checkpoint is None and not job.pretrained:
            check_weights_wanted(job.model)  # before any data are read
        train, test, notes = _open_splits(job)
        model = open_model(
            job.model,
            num_classes=train.num_classes,
            input_shape=train.input_shape,
            checkpoint=job.checkpoint,
            checkpoint_key=job.checkpoint_key,
            pretrained=job.pretrained,
            seed=job.options.get("seed", 0),
        ).to(device)
    options: dict[str, Any] = dict(job.options)
    with process_group(device) as (rank, world):
        if isinstance(train.inputs, Pixels):
            # Once and by all processes together: one that has no batch to read would not take part later.
            _ = train.inputs.standardization
        result = profile(
            model,
            train.batches(job.batch_size, rank=rank, world=world),
            None if test is None else test.batches(job.batch_size, rank=rank, world=world),
            **options,
            name=_name(job),
            progress=progress if rank == 0 else None,
        )
    if rank:
        return None, world
    return dataclasses.replace(result, warnings=(*notes, *said, *result.warnings)), world


def _name(job: ProfileJob) -> str:
    """The network with its weights; the file of a user may load trained ones itself."""
    if job.checkpoint is not None:
        key = f" ({job.checkpoint_key})" if job.checkpoint_key else ""
        return f"{job.model}, {job.checkpoint.name}{key}"
    if job.pretrained or saved_folder(job.model) is not None:
        return f"{job.model}, pretrained"
    return job.model if is_user_file(job.model) else untrained(job.model, job.options.get("seed", 0))


def _open_splits(job: ProfileJob) -> tuple[LabelledData, LabelledData | None, tuple[str, ...]]:
    """Train and test data, with the size and channels that the model needs, and notes about their splits."""
    wanted: dict[str, Any] = {"limit": job.limit, "standardize": job.standardize} | _form(job)
    data = open_data_set(job.dataset, job.copies)
    if "train" not in data.splits:
        raise InputError(f"--dataset {job.dataset}: has no train split, only {', '.join(data.splits)}")
    train = data.open("train", **wanted).streamed(job.workers)
    if job.test_dataset is None:
        if "test" not in data.splits:
            note = (
                f"{data.name}: there is no test split; only train is measured; --test-dataset gives test data"
            )
            return train, None, (*data.notes, note)
        return train, data.open("test", reference=train, **wanted).streamed(job.workers), data.notes
    other = open_data_set(job.test_dataset, job.copies)
    split = "test" if "test" in other.splits else "train"
    test = other.open(split, reference=train, **wanted).streamed(job.workers)
    notes = (
        () if split == "test" else (f"{other.name}: there is no test split; train is used as the test split",)
    )
    if test.input_shape != train.input_shape:
        raise InputError(
            f"--test-dataset {job.test_dataset}: inputs of shape {test.input_shape}, but those of {job.dataset} have "
            f"{train.input_shape}; give test data of the same shape"
        )
    return train, _relabelled(test, train, job), (*other.notes, *notes)


def _form(job: ProfileJob) -> dict[str, Any]:
    """How inputs are made: by the network's own preprocessing, or in the size and channels that it needs."""
    has_published = job.checkpoint is None and (job.pretrained or saved_folder(job.model) is not None)
    own = chosen_preprocessing(job.model, job.preprocess, has_published=has_published)
    if own is not None:
        warnings.warn(
            f"inputs are made by the network's own preprocessing ({own.words})", InputNote, stacklevel=2
        )
        if isinstance(own, TextPreprocessing):
            return {"tokenize": own.tokenize}
        if job.image_size is not None:
            raise InputError(
                f"--image-size {job.image_size}: the network's own preprocessing has a size; add --no-preprocess"
            )
        return {"transform": own.transform}
    required, asked = required_image_size(job.model), job.image_size
    size = required if asked is None else (asked, asked)
    if required not in (None, size):
        raise InputError(
            f"--image-size {asked}: {job.model} takes images of {required[0]} x {required[1]} only; leave it out"
        )
    return {"image_size": size, "channels": required_channels(job.model)}


def _relabelled(test: LabelledData, train: LabelledData, job: ProfileJob) -> LabelledData:
    """Map the labels of another data set to the labels of the same classes in the training data.

    Classes are matched by name, or by number if one of the two data sets has only numbers.

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
            f"--test-dataset {job.test_dataset}: {int(torch.isin(test.labels, torch.tensor(unknown)).sum())} samples have "
            f"classes that are not in {job.dataset}, such as {name!r}; remove these samples"
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


def _read_against(path: Path) -> Profile:
    check_regular(path)
    try:
        return read_profile(path).profile
    except InputError as error:
        raise InputError(f"--against {error}") from error


def _made(job: ProfileJob, world: int, seconds: float) -> ProfileMade:
    asked = {name: value for name, value in vars(job).items() if name not in ("copies", "options")}
    copies = [f"{name}={path}" for name, path in job.copies.items()] or None
    options = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in (asked | {"data": copies} | job.options).items()
        if value is not None
    }
    own = {"options": options, "processes": world, "seconds": round(seconds, 2)}
    return ProfileMade.model_validate(in_strings(encodable, {**provenance(), **own}))


def _write(out: Path, result: Profile, made: ProfileMade, initial: Profile | None) -> list[str]:
    from collapselab.report.pages.profile import write_profile_page

    lines = [f"Page: {out / 'report.html'}", f"Numbers: {out / 'profile.json'}"]
    names = {layer.name for layer in result.layers}
    if initial is not None and not names & {layer.name for layer in initial.layers}:
        initial = None  # hours of measuring are not thrown away for it
        lines.append(f"warning: --against {made.options['against']}: has none of these layers; not drawn")
    try:
        write_profile(out, StoredProfile(result, made))
        write_profile_page(out, result, initial, made)
    except WriteError as error:
        raise InputError(f"--out {error}") from error
    return lines
