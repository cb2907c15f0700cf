"""What a training run is, completely: the same recipe gives the same run. YAML in and out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from collapselab.checks import near_matches
from collapselab.data.recipe import DataSpec, Part
from collapselab.errors import InputError, one_line

Option = bool | int | float | str


class ModelSpec(Part):
    """Which network is trained."""

    name: str = Field(
        default="mlp", description="mlp, convnet, torchvision/NAME, timm/NAME or FILE.py:FUNCTION."
    )
    options: dict[str, Option] = Field(
        default_factory=dict,
        description="Of the network, by the names its builder has: width and depth (units, layers), dropout (a share).",
    )


class StartFrom(Part):
    """Weights to begin with instead of random ones: fine-tuning."""

    checkpoint: str = Field(
        description="A .safetensors or .pt file of weights; relative to the folder of the run."
    )
    new_classifier: bool = Field(
        default=True, description="The last weight layer starts from random weights, whatever the file holds."
    )


class Optimizer(Part):
    """What a step does with the gradient."""

    name: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd, or adamw (which ignores momentum)."
    )
    learning_rate: float = Field(
        default=0.1, gt=0, description="At the first step, per unit of the gradient."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Share of the last update that is kept.")
    nesterov: bool = Field(default=False, description="Look ahead by the momentum.")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="On every parameter, per step and unit: L2 in sgd, decoupled from the gradient in adamw.",
    )


class Schedule(Part):
    """How the learning rate falls."""

    name: Literal["cosine", "constant", "steps"] = Field(
        default="cosine",
        description="cosine falls to 0 at the last step; steps multiplies at each milestone.",
    )
    milestones: tuple[int, ...] = Field(default=(), description="Steps after which the rate is multiplied.")
    factor: float = Field(default=0.1, gt=0, le=1, description="What it is multiplied by at each milestone.")

    def learning_rate(self, initial: float, step: int, steps: int) -> float:
        """Of the step that follows `step` finished ones, of `steps` in all."""
        if self.name == "cosine":
            return initial * 0.5 * (1 + math.cos(math.pi * step / steps))
        if self.name == "steps":
            return initial * self.factor ** sum(step >= milestone for milestone in self.milestones)
        return initial


class Measuring(Part):
    """When the network is measured, and what."""

    count: int = Field(
        default=16, ge=2, description="Log-spaced steps to measure at, besides step 0; doubles are dropped."
    )
    at: tuple[int, ...] = Field(default=(), description="More steps to measure at.")
    layers: Literal["all", "last"] | tuple[str, ...] = Field(
        default="all", description="Every weight layer, the classifier alone, or names and globs."
    )
    metrics: tuple[str, ...] | None = Field(default=None, description="By name; default all of them.")
    weak_test_variance: bool = Field(
        default=True, description="k-means on the last layer's test features, when the run ends."
    )
    spectra: bool = Field(default=True, description="Keep spectra at the first and the last step.")
    batch_size: int = Field(default=1024, ge=1, description="Samples per forward pass.")
    epsilon: float = Field(
        default=0.2, gt=0, lt=1, description="A layer is collapsed while normalized_within is below this."
    )


class Checkpoints(Part):
    """Which weights are kept, and how often the state is from which a stopped run goes on."""

    at: tuple[int, ...] | Literal["measured", "last"] = Field(
        default="last",
        description="Steps whose weights are kept: these, every measured one, or the last one.",
    )
    save_every: float = Field(
        default=60.0, ge=0, description="Seconds of training between states from which a killed run goes on."
    )


class Recipe(Part):
    """A network, its data and how it is trained and measured.

    Every value has a meaning of its own; none is derived from another when the run starts.
    """

    model: ModelSpec = Field(default_factory=ModelSpec, description="The network.")
    data: DataSpec = Field(default_factory=DataSpec, description="The samples it sees.")
    start: StartFrom | None = Field(default=None, description="Weights to start from; default random ones.")
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy",
        description="mse is the mean square over classes of outputs less one-hot labels.",
    )
    temperature: float = Field(default=1.0, gt=0, description="Outputs are divided by it in the loss.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="What a step does.")
    schedule: Schedule = Field(default_factory=Schedule, description="How the learning rate falls.")
    steps: int = Field(default=4000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(
        default=128, ge=2, description="Samples per step, over all processes; an epoch's last may be smaller."
    )
    stop_below_loss: float | None = Field(
        default=None, gt=0, description="End when the mean training loss of an epoch's batches is below this."
    )
    seed: int = Field(
        default=0, ge=0, description="Of the initial weights, the sample and the order of samples."
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(
        default="32-true", description="Of training; measuring is float32 always."
    )
    num_threads: int | None = Field(
        default=None, ge=1, description="CPU threads; default as many as torch takes. Rounding depends on it."
    )
    measuring: Measuring = Field(default_factory=Measuring, description="When and what.")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="What is kept.")

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
        """Step 0, log-spaced steps up to the last, those asked for and those whose weights are kept."""
        ratio = math.log(self.steps) / max(self.measuring.count - 1, 1)
        spaced = {round(math.exp(ratio * index)) for index in range(self.measuring.count)}
        kept = () if isinstance(self.checkpoints.at, str) else self.checkpoints.at
        return sorted({0, *spaced, *self.measuring.at, *kept, self.steps})

    def keeps_weights(self, step: int, *, is_last: bool) -> bool:
        """Whether the weights of a measured step are kept."""
        if isinstance(self.checkpoints.at, str):
            return is_last or self.checkpoints.at == "measured"
        return step in self.checkpoints.at

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the step that follows `step` finished ones."""
        return self.schedule.learning_rate(self.optimizer.learning_rate, step, self.steps)

    def with_changes(self, changes: dict[str, Any]) -> Recipe:
        """A copy with other values, each named by its path: `{"optimizer.learning_rate": 0.01}`.

        Raises:
            InputError: a name that no recipe has, or a value out of range.
        """
        values = self.model_dump(mode="json")
        for path, value in changes.items():
            *parents, last = path.split(".")
            part = values
            for name in parents:
                part = _inside(part, name, path)
            if parents != ["model", "options"]:
                _inside(part, last, path)
            part[last] = value
        return Recipe.parse(values, "the changed recipe")

    @staticmethod
    def parse(values: object, where: str) -> Recipe:
        """A recipe from plain values.

        Raises:
            InputError: in one line, what is wrong with which field.
        """
        try:
            return Recipe.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "recipe"
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                message = f"no recipe has it; {_near(first['loc'])}"
            raise InputError(f"{where}: {field}: {one_line(message)}") from error

    @staticmethod
    def read(path: Path) -> Recipe:
        """The recipe in a YAML file; what is left out has its default.

        Raises:
            InputError: no such file, no YAML, unknown fields or values out of range.
        """
        import yaml

        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not YAML ({one_line(error)[:200]}); mend it") from error
        return Recipe.parse({} if values is None else values, str(path))

    def to_yaml(self) -> str:
        """As `read` reads it: every field, in the order in which they are documented."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def documented_yaml(self) -> str:
        """Like `to_yaml`, with what each field means beside it."""
        return _documented(self, "")


def _inside(part: Any, name: str, path: str) -> Any:
    """The value of a field that a part of a recipe has.

    Raises:
        InputError: it has none of that name, or is not set.
    """
    if part is None:
        before = path.rpartition(f".{name}")[0]
        raise InputError(f"{path}: {before} is not set; give all of it, as {before}={{{name}: VALUE}}")
    if not isinstance(part, dict) or name not in part:
        known = near_matches(name, part if isinstance(part, dict) else ())
        raise InputError(f"{path}: no recipe has it; {known}")
    return part[name]


def _near(place: Sequence[int | str]) -> str:
    """What an unknown field of a recipe may have meant."""
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
        plain = part.model_dump(mode="json")[name]
        text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
        lines.append(f"{indent}{name}: {text}  # {field.description}")
    return "\n".join(lines) + "\n"
