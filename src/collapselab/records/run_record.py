"""run.json: recipe, samples, hardware and progress of a run."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from collapselab.digests import digest
from collapselab.records.recipe import Recipe
from collapselab.records.stored import Stored, Versioned
from collapselab.storage import Hardware
from collapselab.text import flat, words

Status = Literal["running", "stopped", "finished"]
Ended = Literal["steps", "loss", "diverged"]
_DEFAULT_EPSILON = 0.2


class Provenance(Stored):
    """Where and when something was computed.

    Attributes:
        started: UTC, ISO 8601.
        versions: of Python and the libraries that decide the numbers.
        commit: of the checkout; None outside one.
        hardware: the machine, and how much of it torch used.
    """

    started: str
    versions: dict[str, str]
    commit: str | None
    hardware: Hardware


class Slot(Provenance):
    """One start of a run: a run that was stopped or killed has several.

    Attributes:
        from_step: optimiser steps done before.
    """

    from_step: int


class SampleFacts(Stored):
    """The samples of a run, in numbers.

    Attributes:
        name: of the data set.
        shape: of one sample.
        fingerprint: 16 hexadecimal digits over all inputs and labels.
    """

    name: str
    num_classes: int
    num_train: int
    num_test: int
    shape: tuple[int, ...]
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, under the name that networks are built with."""
        return self.shape


class Seconds(Stored):
    """Time spent, over all starts."""

    training: float = 0.0
    measuring: float = 0.0


class MonitoredSettings(Stored):
    """What a monitored run measures; the training itself belongs to its user.

    Attributes:
        monitored: class of the network.
        every: steps between measurements; None where steps are given.
        at: steps to measure at.
        options: of `collapselab.profile`, by name, as plain values.
        settings: whatever the user wanted to record.
    """

    monitored: str
    every: int | None = None
    at: tuple[int, ...] = ()
    options: dict[str, JsonValue] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)


def _kind(values: Any) -> str:
    monitored = "monitored" in values if isinstance(values, dict) else isinstance(values, MonitoredSettings)
    return "monitored" if monitored else "recipe"


class RunRecord(Provenance, Versioned):
    """What run.json holds.

    Attributes:
        recipe: as it was resolved when the run began; of a monitored run, its settings.
        data: the samples; None in monitored runs.
        slots: every start; empty in monitored runs.
        planned: steps to measure at, as they were when the run began; None in monitored runs and those of earlier versions.
        status: `stopped` by the user, or `running` also where the process was killed.
        ended: why a finished run has no next step: all `steps` done, the `loss` low enough, or `diverged` (NaN or
            infinite). None until then and in monitored runs.
        steps: optimiser steps of a finished run; 0 until then and in monitored runs.
        seconds: zero until the run is finished.
    """

    recipe: Annotated[
        Annotated[Recipe, Tag("recipe")] | Annotated[MonitoredSettings, Tag("monitored")],
        Discriminator(_kind),
    ]
    data: SampleFacts | None = None
    slots: tuple[Slot, ...] = ()
    planned: tuple[int, ...] | None = None
    status: Status
    ended: Ended | None = None
    steps: int = 0
    seconds: Seconds = Field(default_factory=Seconds)

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def run_id(self) -> str:
        """Tell this run from others, by its recipe and its samples; all its files carry it.

        Values that are the defaults, or None, do not count: it stays when a later version adds a field.
        """
        values = flat(self.recipe.model_dump(mode="json", exclude_defaults=True))
        recipe = {path: value for path, value in values if value is not None}
        data = None if self.data is None else self.data.fingerprint
        return digest(json.dumps([recipe, data], sort_keys=True))

    @property
    def epsilon(self) -> float:
        """Share of variance within classes below which a layer is collapsed."""
        if isinstance(self.recipe, Recipe):
            return self.recipe.measuring.epsilon
        value = self.recipe.options.get("epsilon")
        return float(value) if isinstance(value, int | float) else _DEFAULT_EPSILON

    def how_made(self) -> list[tuple[str, str]]:
        """Return all that decided the numbers, as names and values in words."""
        facts = {
            **self.recipe.model_dump(mode="json"),
            **self.versions,
            **self.hardware,
            "commit": self.commit or "unknown",
            "started": self.started,
            "seconds": self.seconds.model_dump(),
        }
        return [
            (words(path.replace(".", " ")), in_words(value))
            for path, value in flat(facts)
            if value is not None and value != [] and value != {}
        ]

    @classmethod
    def _from_schema_1(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Options of monitored runs stood beside `monitored`, `every`, `at` and `settings`."""
        recipe = values.get("recipe")
        if isinstance(recipe, dict) and "monitored" in recipe and "options" not in recipe:
            own = MonitoredSettings.model_fields
            options = {name: value for name, value in recipe.items() if name not in own}
            values["recipe"] = {name: recipe[name] for name in own if name in recipe} | {"options": options}
        return values


def in_words(value: object) -> str:
    """A stored value as text: lists separated by commas, None as `none`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    return "none" if value is None else str(value)
