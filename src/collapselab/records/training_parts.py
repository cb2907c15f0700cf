"""Parts of a recipe that say how a network is trained: optimiser, schedule of the learning rate, augmentation."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from collapselab.data.recipe import Part

# Far beyond what can be run.
MOST_STEPS, MOST_LISTED = 10**9, 10_000
LARGEST = 1e9

Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Steps = Annotated[tuple[Step, ...], Field(max_length=MOST_LISTED)]
_Share = Annotated[float, Field(gt=0, lt=1)]


class Optimizer(Part):
    """The optimiser."""

    later_fields = ("decayed",)

    name: Literal["sgd", "adamw"] = Field(
        default="sgd", description="sgd, or adamw (which ignores momentum and nesterov)."
    )
    learning_rate: float = Field(
        default=0.1, gt=0, le=1e30, description="Learning rate of the first step, or at the end of a warm-up."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(default=False, description="Use Nesterov momentum.")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=LARGEST,
        description="Weight decay: L2 in sgd, decoupled from the gradient in adamw.",
    )
    decayed: Literal["all", "weights"] = Field(
        default="all",
        description="Parameters with weight decay: all, or weights (no norms, no biases, none that the network excludes).",
    )


class Schedule(Part):
    """The schedule of the learning rate."""

    later_fields = ("shares", "every", "warm_up", "warm_up_from")

    name: Literal["cosine", "constant", "steps"] = Field(
        default="cosine",
        description="cosine (to 0 at the last step), constant, or steps (multiplied at each milestone).",
    )
    milestones: Steps = Field(default=(), description="Steps after which the learning rate is multiplied.")
    factor: float = Field(default=0.1, gt=0, le=1, description="Factor at each milestone.")
    shares: Annotated[tuple[_Share, ...], Field(max_length=MOST_LISTED)] = Field(
        default=(), description="Further milestones, as shares of all steps."
    )
    every: Step | None = Field(
        default=None, ge=1, description="Further milestones: every so many steps after the warm-up."
    )
    warm_up: Step = Field(
        default=0,
        description="Steps in which the learning rate rises linearly; the schedule starts after them.",
    )
    warm_up_from: float = Field(
        default=0.0, ge=0, le=1e30, description="Learning rate of the first step of a warm-up."
    )

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Schedule:
        if self.name != "steps" and (self.shares or self.every):
            raise ValueError("shares and every need name steps")
        if self.warm_up_from and not self.warm_up:
            raise ValueError("warm_up_from needs warm_up, the number of its steps")
        return self

    def learning_rate(self, initial: float, step: int, steps: int) -> float:
        """Return the learning rate of the step that follows `step` finished ones, of `steps` in all."""
        if step < self.warm_up:
            return self.warm_up_from + (initial - self.warm_up_from) * step / self.warm_up
        if self.name == "cosine":
            return initial * 0.5 * (1 + math.cos(math.pi * (step - self.warm_up) / (steps - self.warm_up)))
        if self.name == "steps":
            return initial * self.factor ** self._milestones_before(step, steps)
        return initial

    def _milestones_before(self, step: int, steps: int) -> int:
        passed = sum(step >= milestone for milestone in self.milestones)
        passed += sum(step >= round(share * steps) for share in self.shares)
        return passed + (0 if self.every is None else (step - self.warm_up) // self.every)


_Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Part):
    """Random changes of training images, in the order of these fields."""

    resized_crop: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Crop a part of at least this share of the area, and resize it to the image's size.",
    )
    crop: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Pad with this many black pixels, and crop to the image's size.",
    )
    flip: _Probability = Field(default=0.0, description="Probability of a horizontal flip.")
    auto_augment: Literal["imagenet", "cifar10", "svhn"] | None = Field(
        default=None, description="AutoAugment policy: imagenet, cifar10 or svhn."
    )
    erasing: _Probability = Field(default=0.0, description="Probability that a rectangle is erased.")
    mixup: float = Field(
        default=0.0, ge=0, le=LARGEST, description="Mixup: parameter of its Beta distribution; 0 for none."
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        le=LARGEST,
        description="CutMix: parameter of its Beta distribution; with mixup too, each batch gets one of them.",
    )
