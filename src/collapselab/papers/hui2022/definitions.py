"""Definitions 1 to 3 of Hui, Belkin and Nakkiran (2022), judged by the degree of collapse of a run.

The definitions are limits t -> infinity, for all sample sizes, which no run can show. A run shows the degree of collapse at
its measured steps (sec. 3.1 of the paper): a variance, divided by the spread of the points of collapse. Limitations:

- A run has one train set. If test variance does not vanish, this is evidence against definition 2 or 3; if it vanishes, the
  definition is met for this sample size only.
- The definitions are about every sample, but the variance is a mean: at value v, at most v / d^2 of the samples are farther
  than d times the square root of the spread from their point.
- Definition 3 uses the Bayes-optimal class, but the metric uses the label. If labels are uncertain, a strongly collapsed
  network has a variance above zero.
- The variance is computed around the means of the same samples: it is biased low, by a factor of about 1 - k/n for class
  means of n test samples, and more for k-means centres.

Thresholds are those of claims: a variance below 0.1 of the spread that does not rise over the second half of the steps.
Variances are relative to class means of the same step; see `collapselab.experiments.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch

from collapselab.curves import end_value, late_change
from collapselab.errors import InputError
from collapselab.experiments.claims.judges import STEADY
from collapselab.frames import curve, last_layer
from collapselab.metrics.generalization import Reference
from collapselab.names import check_names
from collapselab.text import number, words

Outcome = Literal["collapsed", "not collapsed", "undefined"]
NEGLIGIBLE = 0.1


@dataclass(frozen=True)
class Definition:
    """One of the paper's definitions of collapse.

    Attributes:
        number: its number in the paper.
        name: short name.
        statement: the definition in one sentence.
        metric: metric for the degree of collapse (sec. 3.1).
        points: what the metric uses as the k points.
    """

    number: int
    name: str
    statement: str
    metric: str
    points: str


_NEW = "For any size of the train set, almost every new sample converges to"
DEFINITIONS = (
    Definition(
        1, "train collapse",
        "During training, every sample of the train set converges to the point of its label, one of k distinct points.",
        "train_variance", "train class means",
    ),
    Definition(
        2, "weak test collapse", f"{_NEW} one of k distinct points.",
        "weak_test_variance", "k-means centres of the test features",
    ),
    Definition(
        3, "strong test collapse", f"{_NEW} the point of its Bayes-optimal class, one of k distinct points.",
        "strong_test_variance", "test class means",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Degree:
    """How far one run has collapsed, in the sense of one definition.

    Attributes:
        definition: the definition.
        step: last measured step.
        value: variance at this step; None if undefined.
        change: change over the second half of the steps, in percent; None with too few steps.
        separation: smallest squared distance between two points, divided by their spread; None if points were not given.
        outcome: `collapsed` if below the threshold and not rising by more than 10 %; `undefined` without k distinct points.
        sentence: the result in words.
    """

    definition: Definition
    step: int
    value: float | None
    change: float | None
    separation: float | None
    outcome: Outcome
    sentence: str


def judge_run(
    rows: pd.DataFrame, references: Mapping[str, Reference] | None = None, *, threshold: float = NEGLIGIBLE
) -> dict[str, Degree]:
    """Degree of collapse of the last-layer features of one run, by name of definition.

    Args:
        rows: rows of one job and seed, with columns step, is_last and the metrics; missing metrics count as not measured.
        references: the points at the last step, by metric, if known. Without them, coinciding points are detected only if
            all points coincide, because the metric is then undefined.
        threshold: fraction of the spread below which the variance is negligible; points must be farther apart than this.

    Raises:
        InputError: rows of several runs, without step or is_last, or without a row of the last layer; points that are not
            finite; a threshold outside 0 … 1.
    """
    check_names(list(references or ()), [definition.metric for definition in DEFINITIONS], "metric")
    if not 0 < threshold < 1:
        raise InputError(f"threshold is {threshold:g}; give a share of the spread between 0 and 1")
    last, points = _one_run(rows), references or {}
    return {one.name: _degree(one, last, points.get(one.metric), threshold) for one in DEFINITIONS}


def _one_run(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last layer; refuse all that are not those of one run."""
    lacking = [f"no column {name!r}" for name in ("step", "is_last") if name not in rows]
    last = rows if lacking else last_layer(rows)
    found = lacking + [
        f"{last[name].nunique()} values of {name}"
        for name in ("job", "seed")
        if name in last and last[name].nunique() > 1
    ]
    if not found and last.empty:
        found.append("no row of the last layer (is_last)")
    if not found and last["step"].duplicated().any():
        found.append("a step has several rows of the last layer")
    if found:
        raise InputError(f"rows: {found[0]}; give the rows of one run from rows.csv")
    return last


def _degree(
    definition: Definition, run: pd.DataFrame, reference: Reference | None, threshold: float
) -> Degree:
    steps, values = curve(run, definition.metric)
    value, change = end_value(values), late_change(steps, values)
    separation = None if reference is None else _separation(reference)
    outcome: Outcome = "collapsed" if value < threshold and not change > STEADY else "not collapsed"
    trend = f"{change:+.0f} % over the second half of the steps"
    if math.isnan(change):
        trend = "with too few measurements to determine a trend"
    why = f"{words(definition.metric)} is {number(value)} (threshold {threshold:g}), {trend}"
    if separation is not None and not separation > threshold:
        outcome = "undefined"
        why = (
            f"the squared distance of two of the {definition.points} is {number(separation)} of the spread, not above "
            f"{threshold:g}: the points are not distinct"
        )
    elif math.isnan(value):
        outcome = "undefined"
        why = f"{words(definition.metric)} is undefined: it was not measured, or the {definition.points} coincide"
    step = int(steps[-1])
    return Degree(
        definition=definition,
        step=step,
        value=None if math.isnan(value) else value,
        change=None if math.isnan(change) else change,
        separation=separation,
        outcome=outcome,
        sentence=f"{definition.name} (definition {definition.number}): {outcome} at step {step}, where {why}",
    )


def _separation(reference: Reference) -> float:
    """Return the smallest squared distance between two points, divided by their spread; 0 if all points coincide."""
    if not bool(torch.isfinite(reference.centres).all()):
        raise InputError("reference: points are NaN or infinite; leave out classes that have no samples")
    if reference.spread == 0:
        return 0.0
    # By differences: points far from the origin keep their digits.
    return float(torch.pdist(reference.centres).min()) ** 2 / reference.spread
