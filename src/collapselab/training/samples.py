"""The samples of recipes, read when they are first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from collapselab.data import DataSplits
from collapselab.data.memory import check_samples
from collapselab.errors import InputError
from collapselab.models.opening import required_channels, required_image_size
from collapselab.records.recipe import Recipe
from collapselab.training.building import load_data


class Samples:
    """The samples of recipes; those of the last one are kept, as mostly the next run has the same.

    Args:
        copies: paths of named data sets on this machine.
    """

    def __init__(self, copies: Mapping[str, Path] | None = None) -> None:
        self._copies = copies
        self._last: tuple[str, DataSplits] | None = None
        self._problems: dict[str, InputError | None] = {}

    def of(self, recipe: Recipe) -> DataSplits:
        """Return the samples of a recipe; see `load_data`."""
        name = recipe.model.name
        key = f"{_key(recipe)} {required_channels(name)} {required_image_size(name)}"
        if self._last is None or self._last[0] != key:
            self._last = None  # two large data sets need not fit at once
            self._last = (key, load_data(recipe, self._copies))
        return self._last[1]

    def count(self, recipe: Recipe) -> int:
        """Return the number of samples of both splits; they are only read where the recipe does not say."""
        train, test = recipe.data.train.count, recipe.data.test.count
        if train is not None and test is not None:
            return train + test
        data = self.of(recipe)
        return len(data.train) + len(data.test)

    def problem(self, recipe: Recipe) -> InputError | None:
        """Return why the samples of a recipe do not exist, or None; only labels are read."""
        key = _key(recipe)
        if key not in self._problems:
            try:
                check_samples(recipe.data, recipe.seed, self._copies)
                self._problems[key] = None
            except InputError as error:
                self._problems[key] = error
        return self._problems[key]


def _key(recipe: Recipe) -> str:
    """Return a text that is equal where the samples are: the seed counts only where some are drawn."""
    drawn = any(sample.method not in ("all", "first") for sample in (recipe.data.train, recipe.data.test))
    return f"{recipe.data.model_dump_json()} {recipe.seed if drawn else ''}"
