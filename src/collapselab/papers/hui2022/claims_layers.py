"""Claims of sec. 5: how far each hidden layer collapses, and when."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from collapselab.experiments.claims.claim import Verdict
from collapselab.experiments.claims.evidence import over_seeds
from collapselab.papers.hui2022.definitions import VANISHED
from collapselab.papers.hui2022.endings import (
    ROUNDING,
    claim,
    decades,
    final,
    only_if_fitted,
    seeds_of,
    unless_falling,
)
from collapselab.papers.hui2022.grouping import last_layer, numbers, where

# A layer has begun to collapse when its variance is a tenth of that of the untrained network.
_FALLEN = 0.1
# Where the logarithm of step 0 is taken to be: as far before step 1 as step 2 is behind it.
_STEP_0 = 0.5


def _hidden(rows: pd.DataFrame) -> dict[int, dict[int, pd.DataFrame]]:
    """By seed and depth, the curve of what each hidden layer puts out: depth 0 is what the network reads."""
    hidden = pd.DataFrame(rows[rows["depth"] >= 1]).sort_values(["step", "depth"])
    depths = sorted({int(depth) for depth in numbers(hidden, "depth")})
    return {
        seed: {depth: where(where(hidden, "seed", seed), "depth", depth) for depth in depths}
        for seed in seeds_of(rows)
    }


def _degree_by_depth(rows: pd.DataFrame) -> Verdict:
    effects: dict[int, float | None] = {}
    finals = {}
    for seed, layers in _hidden(rows).items():
        values = [final(layer, "train_variance") for layer in layers.values()]
        finals[f"seed {seed}"] = values
        steps = [decades(a, b) for a, b in itertools.pairwise(values)]
        known = [step for step in steps if step is not None]
        effects[seed] = min(known) if known and len(known) == len(steps) else None
    meaning = "decades from a layer's train variance down to the next one's, where this is least"
    return over_seeds(effects, 0.0, meaning, **{"train variance, first to last layer": finals})


def _when_fallen(curve: pd.DataFrame) -> float:
    """Log10 of the step at which variance first is a tenth of that at step 0, between measurements.

    Returns:
        Infinity if it never is; NaN where a value is missing that could have been the first.
    """
    steps, values = (np.asarray(numbers(curve, name)) for name in ("step", "train_variance"))
    if not len(values) or not values[0] > 0:
        return math.nan
    target = _FALLEN * values[0]
    below = np.flatnonzero(values <= target)
    at = int(below[0]) if len(below) else len(values) - 1
    if not np.isfinite(values[: at + 1]).all():
        return math.nan
    if not len(below):
        return math.inf
    before, after = (math.log10(max(step, _STEP_0)) for step in (steps[at - 1], steps[at]))
    high, goal, low = (math.log10(max(value, ROUNDING)) for value in (values[at - 1], target, values[at]))
    return before + (after - before) * ((high - goal) / (high - low) if high > low else 1.0)


def _order_in_time(rows: pd.DataFrame) -> Verdict:
    effects: dict[int, float | None] = {}
    when = {}
    for seed, layers in _hidden(rows).items():
        times = [_when_fallen(layer) for layer in layers.values()]
        when[f"seed {seed}"] = [
            "not measured" if math.isnan(time) else None if math.isinf(time) else round(10**time)
            for time in times
        ]
        effects[seed] = None
        if len(times) < 2 or any(math.isnan(time) for time in times) or all(map(math.isinf, times)):
            continue
        # A layer that is not there in the end gets there one step later at the earliest.
        later = math.log10(max(max(numbers(layer, "step")) for layer in layers.values()) + 1)
        *others, last = (min(time, later) for time in times)
        effects[seed] = min(others) - last
    return over_seeds(
        effects,
        0.0,
        f"decades of steps by which the last layer falls to {_FALLEN:g} of its first value before any other does",
        **{"step, first to last layer": when},
    )


def _first_does_not_vanish(rows: pd.DataFrame) -> Verdict:
    first = {seed: layers[min(layers)] for seed, layers in _hidden(rows).items() if layers}
    finals = {seed: final(run, "train_variance") for seed, run in first.items()}
    verdict = over_seeds(
        {seed: decades(value, VANISHED) for seed, value in finals.items()},
        0.0,
        f"decades by which the first layer's train variance is above {VANISHED:g}",
        **{"train variance": {f"seed {seed}": value for seed, value in finals.items()}},
    )
    return unless_falling(verdict, first, "train_variance", "holds")


def _fitted(judge: Callable[[pd.DataFrame], Verdict]) -> Callable[[pd.DataFrame], Verdict]:
    """Of networks that fit their train set, which a diverged one does not: the paper trains all to zero error."""

    def judged(rows: pd.DataFrame) -> Verdict:
        ends = {seed: where(last_layer(rows), "seed", seed) for seed in seeds_of(rows)}
        return only_if_fitted(ends, judge(rows))

    return judged


FIG6 = (
    claim(
        "last-layer-most",
        "Fig. 6, sec. 5.1",
        "The last layer has the greatest degree of collapse, each layer below it a lesser one, the first the least [train "
        "variance at the end falls from each hidden layer to the next].",
        _fitted(_degree_by_depth),
    ),
    claim(
        "last-layer-first",
        "Fig. 6, sec. 5.1",
        f"The last layer collapses first [its train variance falls to {_FALLEN:g} of that of the untrained network before "
        "that of any other hidden layer].",
        _fitted(_order_in_time),
    ),
    claim(
        "first-layer-not",
        "Fig. 6, sec. 5.1",
        f"Earlier layers saturate at a finite variance in the time observed [the first hidden layer's is above {VANISHED:g} "
        "at the end, and no longer falling].",
        _fitted(_first_does_not_vanish),
    ),
)
