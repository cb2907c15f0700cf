"""What is ranked: feature files, finished runs and their checkpoints, and networks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from collapselab.choices import Standardize
from collapselab.digests import digest_of
from collapselab.errors import InputError
from collapselab.features.files import SUFFIXES, open_file
from collapselab.features.sources import FeatureSource, open_source
from collapselab.models import (
    is_user_file,
    open_model,
    required_channels,
    required_image_size,
    untrained,
)
from collapselab.models.checkpoints import is_weights
from collapselab.models.limits import OWN
from collapselab.models.preprocessing import ImagePreprocessing, TextPreprocessing, chosen_preprocessing
from collapselab.models.pretrained import (
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    check_weights_wanted,
    library_version,
    saved_folder,
)
from collapselab.names import near_matches
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.training.building import trained_model

_FORMS = (
    "a feature file or folder, a run folder, a checkpoint in a run folder, or a network as profile takes it, with weights as "
    "MODEL=FILE"
)
_BLOCK = 2**20
_LIBRARIES = (TORCHVISION, TIMM, TRANSFORMERS)


@dataclass(frozen=True)
class StoredFeatures:
    """Features of the target data that exist already.

    Attributes:
        name: in results.
        train: features and labels.
        test: of test data; None without.
    """

    name: str
    train: FeatureSource
    test: FeatureSource | None = None


@dataclass(frozen=True)
class NetworkOptions:
    """How networks are opened, and how their inputs are made; the arguments of `rank` that are called the same."""

    seed: int = 0
    pretrained: bool = False
    checkpoint_key: str | None = None
    preprocess: bool | None = None
    image_size: int | None = None
    standardize: Standardize | None = None


@dataclass(frozen=True)
class InputForm:
    """The samples that a network takes; None where it takes any.

    Attributes:
        shape: of one sample, where it has been trained.
        channels, image_size: of images.
        standardize: how it was trained, or by channel.
        own: the network's own preprocessing, instead of all else.
    """

    shape: tuple[int, ...] | None = None
    channels: int | None = None
    image_size: tuple[int, int] | None = None
    standardize: Standardize = "channel"
    own: ImagePreprocessing | TextPreprocessing | None = None


@dataclass(frozen=True)
class Network:
    """A network that turns samples of the target data into features.

    Attributes:
        name: in results.
        form: the samples that it takes.
        build: returns it for a number of classes and the shape of one sample.
        made_by: what decides its weights, for the cache; None where that is not known: code of the user.
        is_published: whether its weights are published ones, which may be replaced: those that are loaded decide, too.
        note: a warning about it.
        is_shared: whether it belongs to the caller, and stays on its device.
        title: what it is called in results, if not by its name.
    """

    name: str
    form: InputForm
    build: Callable[[int, tuple[int, ...]], nn.Module]
    made_by: dict[str, Any] | None = None
    note: str = ""
    is_shared: bool = False
    is_published: bool = False
    title: str = ""


Candidate = StoredFeatures | Network


def open_candidates(
    sources: Iterable[str | Path], options: NetworkOptions = NetworkOptions()
) -> list[Candidate]:
    """Find everything that is to be ranked; networks are built later.

    Args:
        sources: as the command line takes them.
        options: of networks.

    Raises:
        InputError: nothing is given; a source is unknown, given twice, or cannot be read.
        ImportError: an extra that is not installed.
    """
    found = [open_candidate(source, options) for source in sources]
    if not found:
        raise InputError(f"there is nothing to rank; give {_FORMS}")
    names = [candidate.name for candidate in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice; give each once")
    return found


def open_candidate(source: str | Path, options: NetworkOptions = NetworkOptions()) -> Candidate:
    """Find one candidate.

    Raises:
        InputError: as `open_candidates`.
    """
    path, text = Path(source), str(source)
    if not text.strip():
        raise InputError(f"a source is empty; give {_FORMS}")
    if saved_folder(text) is not None:
        return _named(text, None, text, replace(options, pretrained=True))
    if path.is_dir():
        return _run(path, text, options) if (path / "run.json").exists() else _feature_folder(path, text)
    if path.is_file() and not is_user_file(text):
        return _file(path, text, options)
    model, equals, weights = text.partition("=")
    if equals and not (model.strip() and weights.strip()):
        raise InputError(
            f"{text}: no {'file after' if model.strip() else 'network before'} the =; give MODEL=FILE"
        )
    if not (model in OWN or model.startswith(_LIBRARIES) or is_user_file(model)):
        near = near_matches(path.name, _beside(path))
        hint = near if near.startswith("did you mean") else f"give {_FORMS}"
        raise InputError(f"{text}: no such file, folder or network; {hint}")
    if equals:
        return _named(model, Path(weights), text, replace(options, pretrained=False))
    return _named(model, None, text, options)


def module_candidate(name: str, module: nn.Module, options: NetworkOptions = NetworkOptions()) -> Network:
    """Return a network that exists already; its features are not cached."""
    form = _sized(name, InputForm(), options)
    return Network(name, form, lambda _classes, _shape: module, is_shared=True)


def _beside(path: Path) -> list[str]:
    try:
        return [other.name for other in path.parent.iterdir() if other.name != path.name]
    except OSError:
        return []


# ---------------------------------------------------------------- files and folders


def _file(path: Path, name: str, options: NetworkOptions) -> Candidate:
    suffix = path.suffix.lower()
    run = path.parent.parent
    if path.parent.name == "checkpoints" and (run / "run.json").exists():
        step = path.stem.removeprefix("step-")
        if suffix != ".safetensors" or not step.isdecimal():
            raise InputError(
                f"{path}: not a checkpoint of this run; give one of {run}/checkpoints/step-*.safetensors"
            )
        return _run(run, name, options, int(step))
    if suffix == ".npz" or (suffix in SUFFIXES and "features" in open_file(path).names):
        return StoredFeatures(name, open_source(path))
    if is_weights(path):
        raise InputError(
            f"{path}: weights without a network; give MODEL={path}, such as torchvision/resnet18={path}"
        )
    raise InputError(f"{path}: not a kind of file that can be ranked; give {_FORMS}")


def _feature_folder(path: Path, name: str) -> StoredFeatures:
    """Return the features in a folder: `train` and `test`, each a file or a folder of shards, or shards of one split."""
    train, test = (_split_in(path, split) for split in ("train", "test"))
    if train is None:
        return StoredFeatures(name, open_source(path))
    return StoredFeatures(name, open_source(train), None if test is None else open_source(test))


def _split_in(folder: Path, split: str) -> Path | None:
    paths = [folder / split, *(folder / f"{split}{suffix}" for suffix in SUFFIXES)]
    found = [path for path in paths if path.exists()]
    if len(found) > 1:
        raise InputError(f"{folder}: holds {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def _run(path: Path, name: str, options: NetworkOptions, step: int | None = None) -> Network:
    folder = RunFolder(path)
    record = folder.read_run()
    assert record is not None, "run.json exists"
    recipe, data = record.recipe, record.data
    if not isinstance(recipe, Recipe) or data is None:
        raise InputError(
            f"{path}: a monitored run, which does not describe its network; give MODEL=FILE with a checkpoint of it"
        )
    steps = folder.stored_steps("checkpoints")
    if not steps:
        raise InputError(f"{path}: has no checkpoint yet; let the run finish, or name another")
    step = steps[-1] if step is None else step
    folder.check_tensors("checkpoints", step)
    shape = data.shape
    images = len(shape) == 3
    form = InputForm(
        shape, shape[0] if images else None, (shape[1], shape[2]) if images else None, recipe.data.standardize
    )
    own_code = is_user_file(recipe.model.name)
    made_by = {"run": record.run_id, "weights": _digest_of_file(folder.weights_path(step))}
    return Network(
        name,
        _sized(name, form, options),
        lambda _classes, _shape: trained_model(recipe, folder, step),
        None if own_code else made_by,
    )


# ---------------------------------------------------------------- networks by name


def _named(model: str, checkpoint: Path | None, name: str, options: NetworkOptions) -> Network:
    pretrained, seed, key = options.pretrained, options.seed, options.checkpoint_key
    if checkpoint is None and not pretrained:
        check_weights_wanted(model)
    if checkpoint is not None and not checkpoint.is_file():
        raise InputError(f"{name}: there is no file {checkpoint}; check the path of the weights")

    def build(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
        return open_model(
            model,
            num_classes=num_classes,
            input_shape=input_shape,
            checkpoint=checkpoint,
            checkpoint_key=None if checkpoint is None else key,
            pretrained=pretrained,
            seed=seed,
        )

    weights: dict[str, Any] = {"pretrained": True} if pretrained else {"seed": seed}
    if checkpoint is not None:
        weights = {"weights": _digest_of_file(checkpoint), "key": key}
    # What code does, and what is in a folder of several files, may change.
    is_known = not is_user_file(model) and saved_folder(model) is None
    is_untrained = checkpoint is None and not pretrained and not is_user_file(model)
    form = _form_of(model, name, options)
    note = f"{name}: untrained; give pretrained=, or {name}=FILE, for trained weights" if is_untrained else ""
    if form.own is not None:
        note = f"{name}: inputs are made by the network's own preprocessing ({form.own.words})"
    return Network(
        name,
        form,
        build,
        {"network": model, "library": library_version(model)} | weights if is_known else None,
        note,
        is_published=pretrained,
        title=untrained(name, seed) if is_untrained else "",
    )


def _form_of(model: str, name: str, options: NetworkOptions) -> InputForm:
    own = chosen_preprocessing(model, options.preprocess, has_published=options.pretrained)
    if own is None:
        form = InputForm(channels=required_channels(model), image_size=required_image_size(model))
        return _sized(name, form, options)
    if isinstance(own, ImagePreprocessing):
        for argument in ("image_size", "standardize"):
            if (value := getattr(options, argument)) is not None:
                raise InputError(
                    f"{argument}={value}: {name} has its own preprocessing, which decides it; leave it out, or give "
                    "preprocess=False"
                )
    return InputForm(own=own)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(iter(lambda: file.read(_BLOCK), b""))


def _sized(name: str, form: InputForm, options: NetworkOptions) -> InputForm:
    """Return the form with another size of images, where the network takes any, and another standardisation.

    Raises:
        InputError: the network takes images of another size only.
    """
    if options.image_size is not None:
        size = (options.image_size, options.image_size)
        if form.image_size not in (None, size):
            raise InputError(
                f"{name}: takes images of {form.image_size[0]} x {form.image_size[1]} only; leave out image_size="
            )
        form = replace(form, image_size=size)
    return replace(form, standardize=options.standardize or form.standardize)


def whole(source: FeatureSource) -> tuple[torch.Tensor, Any]:
    """Return all features (n, p) and labels (n,) of a source, in memory.

    Raises:
        InputError: damage, or values that are not finite.
    """
    source.load()
    return torch.cat([block.features for block in source.blocks()]), source.labels
