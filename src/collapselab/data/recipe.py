"""The part of a recipe that describes its data."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from collapselab.choices import Standardize


def _plain(text: str) -> str:
    if any(ord(char) < 32 or "\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("has control characters, or bytes that are not text")
    return text


# Names and paths.
Text = Annotated[str, Field(max_length=4096), AfterValidator(_plain)]
_Samples = Annotated[int, Field(le=10**12)]
# Context of a dump with all fields, whether set or not.
EVERY_FIELD = {"every field": True}
_Pixels = Annotated[int, Field(ge=1, le=16_384)]


def _has_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_truth, value)))


def _kinds(annotation: Any) -> set[Any]:
    """Return a type and all types that it is made of."""
    return {annotation}.union(*map(_kinds, get_args(annotation)))


class Part(BaseModel):
    """Immutable model; unknown fields are rejected, and numbers are finite.

    Attributes:
        later_fields: fields that earlier versions lack. A dump leaves them out at their default, so that digests of
            earlier recipes stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    later_fields: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: Any) -> Any:
        """Refuse true and false where pydantic would read them as 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if _has_truth(value) and bool not in _kinds(annotation):
            raise ValueError("true and false have no meaning here; give a number, text or a list of them")
        return value

    @model_serializer(mode="wrap")
    def _earlier_fields(self, dump: Any, info: Any) -> dict[str, Any]:
        values = dump(self)
        for name in () if info.context == EVERY_FIELD else self.later_fields:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                values.pop(name, None)
        return values


class Sample(Part):
    """The samples of a split that are used."""

    method: Literal["all", "first", "random", "balanced", "stratified"] = Field(
        default="all",
        description="all: every sample. first: the first ones as stored. random: drawn with the run's seed. balanced: "
        "drawn with the run's seed, equally many of each class. stratified: drawn with the run's seed, of each class its "
        "share, and at least one.",
    )
    count: _Samples | None = Field(default=None, ge=1, description="Total number of samples.")
    per_class: _Samples | None = Field(
        default=None,
        ge=1,
        description="Number of samples of each class; with method balanced, instead of count.",
    )
    skip: _Samples = Field(
        default=0,
        ge=0,
        description="Number of samples to skip first. Two recipes with the same seed share no sample if the second skips as many as the first takes.",
    )

    @model_validator(mode="after")
    def _one_size(self) -> Sample:
        given = [name for name in ("count", "per_class") if getattr(self, name) is not None]
        if self.method == "all" and (given or self.skip):
            raise ValueError(f"method all uses every sample; leave out {', '.join(given) or 'skip'}")
        if self.method == "stratified" and self.skip:
            raise ValueError("method stratified skips no samples; leave out skip")
        if self.method in ("first", "random", "stratified") and given != ["count"]:
            raise ValueError(f"method {self.method} needs count, not per_class")
        if self.method == "balanced" and len(given) != 1:
            raise ValueError("method balanced needs either count (in total) or per_class")
        return self


class DataSpec(Part):
    """Data set, and samples to train and to test on."""

    later_fields = ("stream",)

    name: Text = Field(
        default="digits", description="Short name, path or hub id of the data set; see docs/data.md."
    )
    train: Sample = Field(default_factory=Sample, description="Samples of the train split.")
    test: Sample = Field(default_factory=Sample, description="Samples of the test split.")
    groups: tuple[tuple[_Samples | Text, ...], ...] | None = Field(
        default=None,
        description="Classes of the task, each a group of classes of the data set, by label or name; samples of other "
        "classes are left out. Default: the classes of the data set.",
    )
    standardize: Standardize = Field(
        default="pixel",
        description="Subtract the mean of the training samples and divide by their standard deviation: per pixel (and "
        "channel), per channel, or none.",
    )
    image_size: tuple[_Pixels, _Pixels] | None = Field(
        default=None,
        description="Height and width in pixels to resize images to; default: as stored.",
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="1 for grey, 3 for colour; default: what the network needs, else as stored."
    )
    stream: bool | None = Field(
        default=None,
        description="Decode images while training, in processes of their own, instead of keeping all in memory; default: "
        "where a split takes more than 16 GiB.",
    )
