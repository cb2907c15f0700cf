"""Positions of values and ticks along an axis, including 0 on a logarithmic axis, shared by paper and screen.

A position is the value itself, or its log10 on a logarithmic axis. Both drawers draw positions on plain linear axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from collapselab.frames import finite
from collapselab.report.chart import Axis, Heat, Number
from collapselab.text import percent, power

# Of a logarithmic axis, between 0 and the smallest positive value: room for two tick labels.
_SHARE_OF_ZERO = 0.1
_AIR = 0.04
_NOISE = 1e-9  # rounding of 0; blown up to the height of a panel it would look like a finding
_TENTHS = tuple(number / 10 for number in range(10, 100))
_IN_DECADE = (_TENTHS, tuple(range(1, 10)), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
# Names along a horizontal axis, and characters of one; beyond, numbers stand in for names. Below each other more fit.
_MAX_NAMES, _MAX_NAME, _SHORT_NAME, _MAX_ROWS = 10, 14, 6, 25
_FLAT_NAMES = 24  # characters that stand side by side on a phone

Ticks = tuple[tuple[Number, str], ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """A computed axis.

    Attributes:
        low, high: its ends, as positions; the larger first where the axis is reversed.
        ticks: position and text of each.
        log: whether positions are logarithms.
        zero: position of 0 on a logarithmic axis; NaN where no value is 0.
        slanted: the texts are too long to stand side by side.
    """

    low: Number
    high: Number
    ticks: Ticks
    log: bool = False
    zero: float = math.nan
    slanted: bool = False

    def place(self, values: Iterable[Number]) -> Floats:
        """Return positions; NaN where a value is undefined or has no place on the axis."""
        array = np.asarray(list(values), dtype=np.float64)
        if not self.log:
            return array
        logs = np.log10(array, where=array > 0, out=np.full(len(array), math.nan))
        return np.where(array == 0, self.zero, logs)


def is_log(axis: Axis, values: Iterable[Number]) -> bool:
    """Whether an axis of these values is logarithmic; by itself none is that has negative values, for which it has no place."""
    shown = sorted(finite(values))
    if axis.names or axis.percent or axis.scale == "linear" or not shown or shown[-1] <= 0:
        return False
    positive = next(value for value in shown if value > 0)
    return axis.scale == "log" or bool(shown[0] >= 0 and shown[-1] >= 10 * positive)


def make_scale(axis: Axis, values: Iterable[Number], most_ticks: int) -> Scale:
    """Compute the axis that shows all of these values."""
    drawn = finite(values)
    if axis.names:
        scale = _categories(axis)
    elif is_log(axis, drawn):
        scale = _logarithmic(drawn, most_ticks)
    else:
        scale = _linear(axis, drawn, most_ticks)
    return replace(scale, low=scale.high, high=scale.low) if axis.reverse else scale


def colour_scale(heat: Heat) -> Scale:
    """Compute the scale of a heat map's colours."""
    low, high = heat.low, heat.high
    if heat.log:
        return Scale(math.log10(low), math.log10(high), log_ticks([low, high], 5), log=True)
    return Scale(low, high, linear_ticks(low, high, 5))


def names_fit(names: Sequence[str]) -> bool:
    """Whether names can stand along a horizontal axis: all of them, or every second or third of short ones."""
    longest = max(map(len, names))
    return len(names) == 1 or longest <= _SHORT_NAME or (len(names) <= _MAX_NAMES and longest <= _MAX_NAME)


def _categories(axis: Axis) -> Scale:
    names = axis.names
    stride = math.ceil(len(names) / (_MAX_ROWS if axis.reverse else _MAX_NAMES))
    texts = names if axis.reverse or names_fit(names) else [str(place) for place in range(len(names))]
    ticks = tuple((float(place), texts[place]) for place in range(0, len(names), stride))
    slanted = sum(len(text) + 1 for _, text in ticks) > _FLAT_NAMES
    return Scale(-0.5, len(names) - 0.5, ticks, slanted=slanted)


def _logarithmic(values: Floats, most: int) -> Scale:
    zero, places = place_of_zero(values), np.log10(values[values > 0])
    low, high = float(places.min()) if math.isnan(zero) else zero, float(places.max())
    air = max(_AIR * (high - low), 0.01)
    return Scale(low - air, high + air, log_ticks(values, most), log=True, zero=zero)


def place_of_zero(values: Floats) -> float:
    """Return where 0 stands on a logarithmic axis: below the logarithm of every positive value; NaN if none is 0."""
    places = np.log10(values[values > 0])
    if len(places) == len(values):
        return math.nan
    decades = float(places.max() - places.min())
    return float(places.min()) - max(0.3, decades * _SHARE_OF_ZERO / (1 - _SHARE_OF_ZERO))


def _linear(axis: Axis, values: Floats, most: int) -> Scale:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if axis.scale != "tight":
        low, high = min(low, 0.0), max(high, 1.0) if axis.percent else high
    if max(abs(low), abs(high)) < _NOISE:
        low, high = 0.0, 1.0
    air = _AIR * (high - low) or 0.1 * abs(high)
    starts_at_zero = low == 0 and axis.scale != "tight" and not axis.percent
    ticks = linear_ticks(low, high + air / 2, most, axis.percent)
    return Scale(low if starts_at_zero else low - air, high + air, ticks)


# ---------------------------------------------------------------- ticks


def linear_ticks(low: Number, high: Number, most: int, as_percent: bool = False) -> Ticks:
    """Return at most `most` round numbers between two ends, and their texts."""
    decade = 10.0 ** math.floor(math.log10(max((high - low) / most, 1e-300)))
    step = next(factor * decade for factor in (1, 2, 5, 10, 20) if factor * decade * most >= high - low)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return tuple((step * n, percent(step * n) if as_percent else f"{step * n:.6g}") for n in numbers)


def log_ticks(values: Iterable[Number], most: int) -> Ticks:
    """Return positions and texts of two to `most` ticks, and of one at 0 where a value is 0."""
    drawn = finite(values)
    positive = drawn[drawn > 0]
    low, high = float(positive.min()), float(positive.max())
    places = _round_numbers(low / 1.05, high * 1.05, most) if high > low else [low]
    ticks = [(math.log10(place), power(place)) for place in places]
    zero = place_of_zero(drawn)
    return tuple(ticks if math.isnan(zero) else [(zero, "0"), *ticks])


def _round_numbers(low: Number, high: Number, most: int) -> Sequence[Number]:
    """Return the densest readable choice that is not too dense."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[step * 10.0**decade for decade in decades for step in steps] for steps in _IN_DECADE]
    choices += [[10.0**decade for decade in decades if decade % stride == 0] for stride in (2, 3, 4, 5, 10)]
    for ticks in choices:
        inside = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(inside) <= most:
            return inside
    return [float(f"{math.sqrt(low * high):.3g}")]
