"""Which samples a run sees, as plain values: the part of a recipe that is about data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from collapselab.data.pixels import Standardize


class Part(BaseModel):
    """Values that do not change and names that are all known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sample(Part):
    """Which samples of a split are used."""

    method: Literal["all", "first", "random", "balanced"] = Field(
        default="all",
        description="all; the first ones as stored; drawn at random from the seed; or drawn with equally many of "
        "each class of the data set.",
    )
    count: int | None = Field(default=None, ge=1, description="Samples in all.")
    per_class: int | None = Field(
        default=None, ge=1, description="Samples of each class, with method balanced, instead of count."
    )
    skip: int = Field(
        default=0,
        ge=0,
        description="Samples passed over first, in the same order: others than those of a recipe without it.",
    )

    @model_validator(mode="after")
    def _one_size(self) -> Sample:
        given = [name for name in ("count", "per_class") if getattr(self, name) is not None]
        if self.method == "all" and (given or self.skip):
            raise ValueError(f"method all takes every sample; leave out {', '.join(given) or 'skip'}")
        if self.method in ("first", "random") and given != ["count"]:
            raise ValueError(f"method {self.method} needs count, and nothing per class")
        if self.method == "balanced" and len(given) != 1:
            raise ValueError("method balanced needs count (in all) or per_class, one of them")
        return self


class DataSpec(Part):
    """Samples to train on and to test on."""

    name: str = Field(
        default="digits", description="By short name, path, or hub id; see the page on data sets in the docs."
    )
    train: Sample = Field(default_factory=Sample, description="Of the train split.")
    test: Sample = Field(default_factory=Sample, description="Of the test split.")
    groups: tuple[tuple[int | str, ...], ...] | None = Field(
        default=None,
        description="Classes of the task, each a group of classes of the data set by label or name; others are left "
        "out. Default: the classes of the data set.",
    )
    standardize: Standardize = Field(
        default="pixel",
        description="Images less the mean, over the standard deviation, of the samples trained on: per pixel (and "
        "channel), per channel, or neither.",
    )
    image_size: tuple[int, int] | None = Field(
        default=None,
        description="Height and width in pixels that images are brought to; default as they are.",
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="Grey or colour; default as the network needs it, else as the images are."
    )
