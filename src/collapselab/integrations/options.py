"""What a monitor and the callbacks let their user choose, in one place."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor

from collapselab.checks import check_names
from collapselab.errors import InputError, one_line
from collapselab.probes import profile
from collapselab.probes.batches import SplitBatch
from collapselab.probes.plan import AutoScatter
from collapselab.probes.reduce import Reduction
from collapselab.probes.select import Layers
from collapselab.statistics import Weighting


class ProfileOptions(TypedDict, total=False):
    """Options of `collapselab.profile` that hold for every measurement."""

    layers: Layers
    reduce: str | Reduction
    scatter: AutoScatter
    weighting: Weighting
    epsilon: float
    class_counts: Tensor | Sequence[int] | None
    metrics: Iterable[str] | None
    spectra: bool
    sketch_size: int
    seed: int
    split_batch: SplitBatch | None
    progress: Callable[[str, int, int], None] | None


class CallbackOptions(ProfileOptions, total=False):
    """Options that a callback hands on to its `Monitor`."""

    log_metrics: Iterable[str] | None
    log_layers: str | Sequence[str]
    settings: Mapping[str, Any] | None


def check_options(options: Mapping[str, Any], known: type) -> None:
    """Refuse keywords that are none of a typed dictionary's, when they are given and not when they are used.

    Raises:
        InputError: naming the first unknown one, and what is near.
    """
    check_names(list(options), known.__annotations__, "option")


def chosen(options: ProfileOptions) -> dict[str, Any]:
    """Every option of `profile` that decides the numbers, defaults among them, as values that JSON can hold."""
    defaults = inspect.signature(profile).parameters
    return {
        name: _plain(options.get(name, defaults[name].default))
        for name in ProfileOptions.__annotations__
        if name != "progress"
    }


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as JSON gives them back.

    Raises:
        InputError: JSON cannot hold them.
    """
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: {one_line(error)}; give numbers, strings, lists and mappings") from error


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if callable(value):  # a predicate of layers, a way to split batches: known by its name
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)
