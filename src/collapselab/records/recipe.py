"""Complete description of a training run: the same recipe gives the same run. Read and written as YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from collapselab.data.recipe import EVERY_FIELD, DataSpec, Part, Text
from collapselab.errors import InputError, one_line
from collapselab.models.limits import check_options
from collapselab.names import near_matches
from collapselab.records.plain_yaml import read_yaml
from collapselab.records.training_parts import (
    LARGEST,
    MOST_LISTED,
    MOST_STEPS,
    Augmentation,
    Optimizer,
    Schedule,
    Steps,
)
from collapselab.storage import check_regular
from collapselab.text import flat

# Far beyond what can be run, and within what torch, numpy and the files take.
MAX_SEED = 2**63 - 1
_MOST_SAMPLES = 10**9

_Value = bool | Annotated[int, Field(ge=-(10**12), le=10**12)] | float | Text
# A list in YAML: channels of each stage of a network.
Option = _Value | Annotated[tuple[_Value, ...], Field(max_length=1000)]


class ModelSpec(Part):
    """The network to train."""

    name: Text = Field(
        default="mlp", description="mlp, convnet, vgg11, torchvision/NAME, timm/NAME or FILE.py:FUNCTION."
    )
    options: dict[Text, Option] = Field(
        default_factory=dict,
        max_length=100,
        description="Arguments of the network's builder: width (units), depth (hidden layers), dropout (a share), …",
    )

    @model_validator(mode="after")
    def _sizes_are_possible(self) -> ModelSpec:
        check_options(self.name, self.options)
        return self


class StartFrom(Part):
    """Weights to start from instead of random ones: fine-tuning."""

    checkpoint: Text = Field(
        description="A .safetensors or .pt checkpoint; a relative path starts at the run folder."
    )
    new_classifier: bool = Field(
        default=True,
        description="Start the last weight layer from random weights, whatever the checkpoint holds.",
    )


class Measuring(Part):
    """When the network is measured, and what is measured."""

    later_fields = ("stats_device",)

    count: int = Field(
        default=16,
        ge=2,
        le=MOST_LISTED,
        description="Number of log-spaced steps to measure at, in addition to step 0. Duplicates after rounding are removed.",
    )
    at: Steps = Field(default=(), description="Further steps to measure at.")
    layers: Literal["all", "last"] | tuple[Text, ...] = Field(
        default="all", description="all weight layers, the last one (the classifier), or names and globs."
    )
    metrics: tuple[Text, ...] | None = Field(default=None, description="Names of metrics; default all.")
    weak_test_variance: bool = Field(
        default=True,
        description="Fit k-means to the test features of the last layer, at every measured step.",
    )
    spectra: bool = Field(default=True, description="Store spectra of the first and the last step.")
    batch_size: int = Field(default=1024, ge=1, le=_MOST_SAMPLES, description="Samples per forward pass.")
    epsilon: float = Field(
        default=0.2, gt=0, lt=1, description="A layer is collapsed where normalized_within is below this."
    )
    stats_device: Text | None = Field(
        default=None,
        description="Device where class statistics are stored, such as cpu; default: where the network is.",
    )


class Checkpoints(Part):
    """Which weights are stored, and how often the state to resume from is written."""

    at: Steps | Literal["measured", "last"] = Field(
        default="last",
        description="Steps whose weights are stored: a list of steps, measured (every measured step) or last.",
    )
    save_every: float = Field(
        default=60.0,
        ge=0,
        le=LARGEST,
        description="Seconds between writes of the state from which a killed run resumes.",
    )


class Recipe(Part):
    """A network, its data and how it is trained and measured.

    No value is derived from another when the run starts.
    """

    later_fields = ("label_smoothing", "within_class_cosine", "augmentation", "stop_loss", "devices")

    model: ModelSpec = Field(default_factory=ModelSpec, description="The network.")
    data: DataSpec = Field(default_factory=DataSpec, description="The samples.")
    start: StartFrom | None = Field(default=None, description="Weights to start from; default: random.")
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="cross_entropy, or mse (outputs against one-hot labels, mean over classes).",
    )
    temperature: float = Field(default=1.0, ge=1e-6, le=1e6, description="The loss divides outputs by this.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of each label that cross_entropy spreads evenly over all classes.",
    )
    within_class_cosine: float = Field(
        default=0.0,
        ge=-LARGEST,
        le=LARGEST,
        description="Adds this times the within-class cosine similarity of the batch's last-layer features, each class "
        "divided by its samples in the batch, to the loss.",
    )
    optimizer: Optimizer = Field(default_factory=Optimizer, description="The optimiser.")
    schedule: Schedule = Field(default_factory=Schedule, description="The schedule of the learning rate.")
    augmentation: Augmentation = Field(
        default_factory=Augmentation,
        description="Random changes of training images; measurements use unchanged ones.",
    )
    steps: int = Field(default=4000, ge=1, le=MOST_STEPS, description="Optimiser steps.")
    batch_size: int = Field(
        default=128,
        ge=2,
        le=_MOST_SAMPLES,
        description="Samples per step, over all processes; the last batch of an epoch may be smaller.",
    )
    stop_below_loss: float | None = Field(
        default=None,
        gt=0,
        le=LARGEST,
        description="Stop when the training loss is below this.",
    )
    stop_loss: Literal["batches", "evaluation"] = Field(
        default="batches",
        description="Training loss that stops: batches (mean over an epoch of training) or evaluation (of the network at the "
        "end of an epoch, in evaluation mode; every few epochs if they are short).",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=MAX_SEED,
        description="Seed for the initial weights, the choice of samples and their order.",
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(
        default="32-true", description="Precision of training; measuring is always float32."
    )
    num_threads: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="CPU threads; default: PyTorch's. The last digits depend on it.",
    )
    devices: int = Field(
        default=1,
        ge=1,
        le=4096,
        description="Devices that share every batch, one process each: GPUs, or processes on a CPU.",
    )
    measuring: Measuring = Field(default_factory=Measuring, description="When and what to measure.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="Which weights are stored.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        mixes = bool(self.augmentation.mixup or self.augmentation.cutmix)
        if self.loss == "mse" and (self.label_smoothing or mixes):
            raise ValueError("label_smoothing, mixup and cutmix need loss cross_entropy")
        if mixes and self.within_class_cosine:
            raise ValueError("within_class_cosine needs samples of one class; set mixup and cutmix to 0")
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared by {self.devices} processes; give a multiple"
            )
        if self.schedule.warm_up > self.steps:
            raise ValueError(f"schedule.warm_up {self.schedule.warm_up}: there are {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _steps_exist(self) -> Recipe:
        named = {
            "measuring.at": self.measuring.at,
            "checkpoints.at": () if isinstance(self.checkpoints.at, str) else self.checkpoints.at,
        }
        for where, steps in named.items():
            for step in steps:
                if not 0 <= step <= self.steps:
                    raise ValueError(f"{where} names step {step}; there are steps 0 to {self.steps}")
        return self

    def measured_steps(self) -> list[int]:
        """Return all steps to measure at: step 0, log-spaced ones, those asked for, and those whose weights are stored."""
        spaced = log_spaced_steps(self.steps, self.measuring.count)
        stored = () if isinstance(self.checkpoints.at, str) else self.checkpoints.at
        return sorted({*spaced, *self.measuring.at, *stored})

    def keeps_weights(self, step: int, *, is_last: bool) -> bool:
        """Whether the weights of a measured step are stored."""
        if isinstance(self.checkpoints.at, str):
            return is_last or self.checkpoints.at == "measured"
        return step in self.checkpoints.at

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the step that follows `step` finished ones."""
        return self.schedule.learning_rate(self.optimizer.learning_rate, step, self.steps)

    def with_changes(self, changes: Mapping[str, object]) -> Recipe:
        """Return a copy with other values, each named by its path: `{"optimizer.learning_rate": 0.01}`.

        Raises:
            InputError: an unknown field, or a value out of range.
        """
        values = self.model_dump(mode="json", context=EVERY_FIELD)
        for path, value in changes.items():
            *parents, last = path.split(".")
            part = values
            for name in parents:
                part = _inside(part, name, path)
            if parents != ["model", "options"]:
                _inside(part, last, path)
            part[last] = value
        return Recipe.parse(values, "the changed recipe")

    def in_one_line(self) -> str:
        """Describe the recipe by what differs from the defaults."""
        defaults = dict(flat(Recipe().model_dump(mode="json")))
        values = flat(self.model_dump(mode="json"))
        return ", ".join(f"{path} {value}" for path, value in values if defaults.get(path, ...) != value)

    @staticmethod
    def parse(values: object, where: str) -> Recipe:
        """Validate plain values.

        Raises:
            InputError: a field is unknown or out of range.
        """
        try:
            return Recipe.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "recipe"
            message = _problem(first)
            if first["loc"][:2] == ("model", "options"):  # one of several types, each with its own complaint
                field = ".".join(str(part) for part in first["loc"][:3])
                message = (
                    "give true, false, text, a number of ordinary size, or a list of these"
                    if first["loc"][2:]
                    else message
                )
            if first["type"] == "extra_forbidden":
                message = f"unknown recipe field; {_near(first['loc'])}"
            raise InputError(f"{where}: {field}: {one_line(message)}") from error

    @staticmethod
    def read(path: Path) -> Recipe:
        """Read a recipe from a YAML file; missing fields have their defaults.

        Raises:
            InputError: there is no such file, it is not YAML, a field is unknown or out of range.
        """
        check_regular(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
        values = read_yaml(text, str(path))
        return Recipe.parse({} if values is None else values, str(path))

    def to_yaml(self) -> str:
        """Return every field as YAML that `read` reads, in the order of this class."""
        import yaml

        return yaml.safe_dump(
            self.model_dump(mode="json", context=EVERY_FIELD), sort_keys=False, allow_unicode=True
        )

    def documented_yaml(self) -> str:
        """Return `to_yaml` with the meaning of each field beside it."""
        return _documented(self, "")


def log_spaced_steps(steps: int, count: int) -> list[int]:
    """Return step 0 and up to `count` steps from 1 to `steps`, evenly spaced on a logarithmic scale.

    Args:
        steps: the last one, 1 or more.
        count: 2 or more; steps that round to the same number count once.
    """
    ratio = math.log(steps) / (count - 1)
    return sorted({0, *(round(math.exp(ratio * index)) for index in range(count)), steps})


def _inside(part: Any, name: str, path: str) -> Any:
    """Return the value of a field of a part of a recipe.

    Raises:
        InputError: the part has no such field, or is not set.
    """
    if part is None:
        before = path.rpartition(f".{name}")[0]
        raise InputError(f"{path}: {before} is not set; set the whole part, as {before}={{{name}: VALUE}}")
    if not isinstance(part, dict) or name not in part:
        known = near_matches(name, part if isinstance(part, dict) else ())
        raise InputError(f"{path}: unknown recipe field; {known}")
    return part[name]


def _problem(error: Mapping[str, Any]) -> str:
    """Return what pydantic says of a value, with the value if it is short."""
    message, value = error["msg"], error["input"]
    if error["type"] == "value_error":
        return message.removeprefix("Value error, ")
    return (
        f"got {value!r}; {message[:1].lower()}{message[1:]}"
        if isinstance(value, str | float | int)
        else message
    )


def _near(place: Sequence[int | str]) -> str:
    """Suggest known fields for an unknown one."""
    part: type[Part] | None = Recipe
    for name in place[:-1]:
        field = part.model_fields.get(str(name)) if part is not None else None
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        part = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part)), None)
    return near_matches(str(place[-1]), part.model_fields if part is not None else ())


def _documented(part: Part, indent: str) -> str:
    import yaml

    lines = []
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if isinstance(value, Part):
            lines += [
                f"{indent}{name}:  # {field.description}",
                _documented(value, indent + "  ").rstrip("\n"),
            ]
            continue
        plain = part.model_dump(mode="json", context=EVERY_FIELD)[name]
        text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
        lines.append(f"{indent}{name}: {text}  # {field.description}")
    return "\n".join(lines) + "\n"
