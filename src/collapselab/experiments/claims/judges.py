"""Judges for claims of any paper: each returns a `Claim` from columns of the rows and a sentence.

The first bound is the threshold of the verdict; the others are for the sensitivity list. `more` overrides fields of `Claim`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from collapselab.curves import ROUNDING, end_value, late_change, step_covering
from collapselab.experiments.claims.claim import Claim, NotAsked, Number, Scale, Void
from collapselab.frames import curve, hidden_layers, last_layer, last_rows, numbers, rows_where
from collapselab.inference import rank_correlation
from collapselab.text import number, percent, words

STEADY = 10.0  # a curve counts as steady if it changes by at most this percentage over the second half of the steps
# Without any true rank correlation, such a claim holds by chance in 12 % of cases with 3 points and 3 seeds, in 5 % with 4 points.
_MIN_POINTS = 4
_NAMES = {"num_train": "size of the train set", "normalized_within": "within-class share of the variance"}
_Bounds = Sequence[float]
_Measure = Callable[[pd.DataFrame, float], Sequence[Number]]


def vanishes(metric: str, says: str, below: _Bounds = (0.1, 0.03, 0.01), **more: Any) -> Claim:
    """A variance is negligible at the end, and does not rise by more than 10 % over the second half of the steps."""

    def measure(run: pd.DataFrame, bound: float) -> list[Number]:
        level, late = _end(run, metric, below=bound), _late(run, metric, below=STEADY)
        is_open = not level.is_met and late.value < -STEADY
        remark = f"{_name(metric)} is still falling: longer runs may end lower" if is_open else ""
        return [level, replace(late, remark=remark)]

    return _claim(f"{metric} vanishes", says, measure, below, more)


def stays(
    metric: str, says: str, above: _Bounds = (0.1, 0.03, 0.3), beside: str | Sequence[str] = (), **more: Any
) -> Claim:
    """A variance is not negligible at the end, and does not fall by more than 10 % over the second half of the steps.

    `beside` names columns that are shown as well.
    """

    def measure(run: pd.DataFrame, bound: float) -> list[Number]:
        level, late = _end(run, metric, above=bound), _late(run, metric, above=-STEADY)
        is_open = level.is_met and late.value < -STEADY
        remark = f"{_name(metric)} is not negligible, but still falling" if is_open else ""
        return [level, replace(late, remark=remark), *_beside(run, beside)]

    return _claim(f"{metric} stays", says, measure, above, more)


def gap(
    over: str,
    under: str,
    says: str,
    decades: _Bounds = (0.5, 0.3, 1.0),
    vanished: float | None = None,
    **more: Any,
) -> Claim:
    """One variance exceeds another at the end by a number of decades; by any factor with `decades=(0,)`.

    With `vanished`, this is asked only of runs in which the lower one is below that value.
    """

    def measure(run: pd.DataFrame, decades: float) -> list[Number]:
        least = _end(run, under).value
        if vanished is not None and not least < vanished:
            raise NotAsked(f"{_name(under)} {number(least)} did not vanish")
        what = f"{_name(over)} over {_name(under)} at the end"
        return _pair(_end(run, over), _end(run, under), 10**decades, what)

    return _claim(f"{over} above {under}", says, measure, decades, more)


def agrees(one: str, other: str, says: str, within: _Bounds = (3.0, 2.0, 10.0), **more: Any) -> Claim:
    """Two variances are within a factor of each other at the end."""

    def measure(run: pd.DataFrame, factor: float) -> list[Number]:
        a, b = _end(run, one), _end(run, other)
        apart = max(_over(a.value, b.value), _over(b.value, a.value))
        return [a, b, Number("factor between the two", apart, below=factor)]

    return _claim(f"{one} like {other}", says, measure, within, more)


def at_end(
    metric: str,
    says: str,
    above: _Bounds = (),
    below: _Bounds = (),
    scale: Scale = "ratio",
    beside: str | Sequence[str] = (),
    **more: Any,
) -> Claim:
    """A number at the end is above a bound, or below one. `beside` names columns that are shown as well."""
    side, bounds = ("above", above) if above else ("below", below)

    def measure(run: pd.DataFrame, bound: float) -> list[Number]:
        return [_end(run, metric, scale=scale, **{side: bound}), *_beside(run, beside)]

    return _claim(f"{metric} {side} bound", says, measure, bounds, more)


def falls(metric: str, says: str, by: _Bounds = (1.0, 2.0), *, rising: bool = False, **more: Any) -> Claim:
    """A positive number falls (or rises) from the first to the last step, by more than a factor."""

    def measure(run: pd.DataFrame, factor: float) -> list[Number]:
        end = _end(run, metric)
        start = Number(f"{_name(metric)} at the start", end_value(curve(run, metric)[1][:1]))
        pair = (end, start) if rising else (start, end)
        return _pair(*pair, factor, f"{_name(metric)}, {'end over start' if rising else 'start over end'}")

    return _claim(f"{metric} {'rises' if rising else 'falls'}", says, measure, by, more)


rises = partial(falls, rising=True)


def ordered(metric: str, says: str, by: _Bounds = (1.0, 1.1, 1.5), **more: Any) -> Claim:
    """A positive number at the end falls from each layer to the next, by more than a factor. Reads all layers by default."""

    def measure(run: pd.DataFrame, factor: float) -> list[Number]:
        last = rows_where(run, step=run["step"].max()).sort_values("depth")
        named = zip(last["layer"], numbers(last, metric), strict=True)
        shown = [Number(f"{_name(metric)} at the end, {layer}", value) for layer, value in named]
        if len(shown) < 2:
            raise Void("fewer than two layers")
        factors = [_over(a.value, b.value) for a, b in pairwise(shown)]
        least = math.nan if any(map(math.isnan, factors)) else min(factors)
        what = f"{_name(metric)}, each layer divided by the next layer, smallest ratio"
        return [*shown, Number(what, least, above=factor)]

    return _claim(f"{metric} ordered", says, measure, by, {"rows": lambda rows: rows, **more})


def first(
    says: str, metric: str = "normalized_within", share: _Bounds = (0.5, 0.25, 0.75, 0.9), **more: Any
) -> Claim:
    """The last layer completes a share of its change from start to end, in logarithms, before any other hidden layer."""

    def measure(layers: pd.DataFrame, share: float) -> list[Number]:
        depths = sorted(set(numbers(layers, "depth")))
        curves = (curve(rows_where(layers, depth=depth), metric) for depth in depths)
        *others, last = (step_covering(*one, share) for one in curves)
        if not others:
            raise Void("fewer than two layers")
        earliest = math.nan if any(map(math.isnan, others)) else min(others)
        done = f"has completed {percent(share)} of its change in log({_name(metric)})"
        first = Number(f"step at which the last hidden layer {done}", last)
        other = Number(f"earliest step at which another hidden layer {done}", earliest)
        what = f"step of the other layer divided by step of the last layer, at {percent(share)} of the change"
        *_, ratio = _pair(other, first, 1.0, what)
        return [first, other, replace(ratio, why=_stored(layers, metric))]

    return _claim(f"{metric} last layer first", says, measure, share, {"rows": hidden_layers, **more})


def correlates(
    x: str, y: str, says: str, sign: int = 1, beyond: _Bounds = (0.0, 0.3, 0.5), **more: Any
) -> Claim:
    """The rank correlation of two columns within a seed has a sign.

    Points are the ends of all runs of a seed by default (`per` splits them into settings). Correlations of k points are
    clipped at +-(1 - 1/k).
    """

    def measure(points: pd.DataFrame, beyond: float) -> list[Number]:
        if len(points) < _MIN_POINTS:
            raise Void(f"{len(points)} points; a rank correlation needs at least {_MIN_POINTS}")
        if points[y].nunique(dropna=False) == 1:
            raise Void(f"{_name(y)} is the same at all {len(points)} points")
        rho = rank_correlation(numbers(points, x), numbers(points, y))
        bound: dict[str, Any] = {"above": beyond} if sign > 0 else {"below": 0.0 - beyond}
        what = f"rank correlation of {_name(y)} with {_name(x)} ({len(points)} points)"
        return [Number(what, rho, scale="correlation", clip=1 - 1 / len(points), **bound)]

    return _claim(f"{y} with {x}", says, measure, beyond, {"rows": ends_of_runs, "per": (), **more})


def lower_with(by: str, metric: str, says: str, factor: _Bounds = (1.0, 1.5, 3.0), **more: Any) -> Claim:
    """A positive number is lower at the largest value of a column than at the smallest, after the same number of steps."""

    def measure(runs: pd.DataFrame, factor: float) -> list[Number]:
        values = [min(numbers(runs, by)), max(numbers(runs, by))]
        if values[0] == values[1]:
            raise NotAsked(f"only one value of {_name(by)}")
        pair = [rows_where(runs, **{by: value}) for value in values]
        step = max(set(pair[0]["step"]) & set(pair[1]["step"]), default=math.nan)
        ends = [end_value(curve(rows_where(run, step=step), metric)[1]) for run in pair]
        what = [f"{_name(metric)} with {_name(by)} {value:g} at step {step:,}" for value in values]
        least, most = map(Number, what, ends)
        return _pair(least, most, factor, f"{_name(metric)}, {values[0]:g} over {values[1]:g}")

    return _claim(f"{metric} lower with {by}", says, measure, factor, {"per": (), **more})


def decides(
    by: str, metric: str, says: str, level: _Bounds = (0.1, 0.03, 0.3), decades: float = 0.5, **more: Any
) -> Claim:
    """A variance is negligible at the end with the largest value of a column, and not with the smallest.

    The effect of a seed compares its two runs: the ratio of their variances must also exceed a number of decades.
    """

    def measure(runs: pd.DataFrame, level: float) -> list[Number]:
        values = [min(numbers(runs, by)), max(numbers(runs, by))]
        if values[0] == values[1]:
            raise NotAsked(f"only one value of {_name(by)}")
        what = [f"{_name(metric)} at the end with {_name(by)} {value:g}" for value in values]
        ends = [end_value(curve(rows_where(runs, **{by: value}), metric)[1]) for value in values]
        ratio = Number(f"{_name(metric)}, {values[0]:g} over {values[1]:g}", _over(*ends), above=10**decades)
        return [Number(what[0], ends[0], above=level), Number(what[1], ends[1], below=level), ratio]

    return _claim(f"{by} decides {metric}", says, measure, level, {"per": ("dataset", "model"), **more})


def identity(
    id: str,
    says: str,
    near: Mapping[str, tuple[float, float]],
    below: Mapping[str, float] | None = None,
    **more: Any,
) -> Claim:
    """Columns at the end have a value within a tolerance, or stay below a bound; this can only be false if code is wrong."""

    def measure(run: pd.DataFrame, _: float) -> list[Number]:
        bounds = (below or {}).items()
        exact = [_end(run, name, near=value) for name, value in near.items()]
        return exact + [_end(run, name, below=bound, scale="difference") for name, bound in bounds]

    return _claim(id, says, measure, (0.0,), {"kind": "identity", "fitted": None, "per": (), **more})


def ends_of_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of the last layer of every run; raise `Void` if runs ended for different reasons."""
    ends = last_rows(last_layer(rows), "job")
    endings = sorted(Counter(ends["ended"]).items()) if "ended" in ends else []
    if len(endings) > 1:
        raise Void(
            "runs ended for different reasons: " + ", ".join(f"{count} by {end}" for end, count in endings)
        )
    return ends


def _claim(name: str, says: str, measure: _Measure, bounds: _Bounds, more: Any) -> Claim:
    id = name.replace("_", "-").replace(" ", "-")
    return Claim(**{"id": id, "statement": says, "numbers": measure, "thresholds": bounds, **more})


def _end(run: pd.DataFrame, name: str, **bound: Any) -> Number:
    at = " at the end" if "step" in run else ""
    return Number(f"{_name(name)}{at}", end_value(curve(run, name)[1]), **bound)


def _beside(run: pd.DataFrame, names: str | Sequence[str]) -> list[Number]:
    return [_end(run, name) for name in ([names] if isinstance(names, str) else names)]


def _late(run: pd.DataFrame, name: str, **bound: Any) -> Number:
    what = f"change of {_name(name)} over the second half of the steps"
    return Number(what, late_change(*curve(run, name)), scale="change", why=_stored(run, name), **bound)


def _stored(run: pd.DataFrame, name: str) -> str:
    """Say at how many of the measured steps a column has a value in every row; nothing if at all of them."""
    steps, values = curve(run, name)
    every = len(set(steps))
    known = every - len(set(steps[~np.isfinite(values)]))
    return "" if known == every else f"the column {name} has values at {known} of {every} measured steps"


def _pair(over: Number, under: Number, factor: float, name: str) -> list[Number]:
    """Return two numbers without a criterion, and their ratio, which must exceed a factor."""
    return [over, under, Number(name, _over(over.value, under.value), above=factor)]


def _name(column: str) -> str:
    return _NAMES.get(column, words(column))


def _over(above: float, below: float) -> float:
    return max(above, ROUNDING) / max(below, ROUNDING) if above >= 0 and below >= 0 else math.nan
