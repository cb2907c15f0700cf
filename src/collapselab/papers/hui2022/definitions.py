"""Definitions 1 to 3 of Hui, Belkin and Nakkiran (2022), judged by the degree of collapse that a run reached.

The definitions are limits t -> infinity, over all sample sizes: no run shows them. What a run shows is the degree of
collapse at its measured steps (sec. 3.1 of the paper): a variance over the spread of the points collapsed to. How far
that goes:

- A run has one train set. A test variance that stays speaks against definition 2 or 3; one that vanishes is what they
  ask of that sample size only.
- The definitions ask for every sample, the variance is a mean: at value v, at most v / d^2 of the samples lie farther
  than d times the spread's root from their point.
- Definition 3 asks for the Bayes-optimal class, the metric uses the label. Where labels are not certain, a strongly
  collapsed network has a variance above zero.
- References are those of the last step T. The value at T is measured about the means of the same samples, to which
  no other points are closer: it is biased low, by a factor of about 1 - k/n for class means of n test samples, more
  for k-means centres. Earlier values also hold how far the means had yet to move, so that part of a fall towards T is
  the means' arrival. The slopes here leave T itself out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch

from collapselab.checks import check_names
from collapselab.errors import InputError
from collapselab.metrics.generalization import Reference
from collapselab.papers.hui2022.curve import Curve as Curve

Outcome = Literal["collapsed", "not collapsed", "undefined"]

# Of the spread: samples are then on average (root mean square) within a tenth of the distance at which the points
# themselves lie around their mean. A sample on the point of a wrong class adds about 2 / n, so that strong test
# collapse at this threshold needs fewer than one such sample in 200. The same ruler says whether points are distinct.
VANISHED = 0.01
# log value over log step: at -0.1, ten times the steps take a fifth off the value.
FALLING = -0.1


@dataclass(frozen=True)
class Degree:
    """How far one run has collapsed, in the sense of one definition.

    Attributes:
        definition: its name.
        metric: what it is measured by.
        step: T, the last measured step.
        final_value: of the metric at T, None where undefined.
        threshold: of the spread; below it a variance has vanished.
        vanished: whether the final value is below; None where undefined.
        slope: of log value over log step in the second half of the log-spaced steps; None with too few of them.
        late_slope: the same in the last quarter.
        still_falling: whether both slopes are below `FALLING` and the curve was nowhere lower in its last quarter than it
            is at T: one that fell and then levelled off or turned is not. None with too few steps.
        separation: smallest squared distance between two points over their spread; None where points were not given.
        outcome: `undefined` where there are no k distinct points.
        sentence: all of this to be read.
    """

    definition: str
    metric: str
    step: int
    final_value: float | None
    threshold: float
    vanished: bool | None
    slope: float | None
    late_slope: float | None
    still_falling: bool | None
    separation: float | None
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Definition:
    """One of the paper's definitions of collapse.

    Attributes:
        number: in the paper.
        name: short.
        statement: what it asks for.
        metric: its degree (sec. 3.1).
        points: what the metric takes for the k points.
    """

    number: int
    name: str
    statement: str
    metric: str
    points: str

    def judge(
        self, curve: Curve, reference: Reference | None = None, *, threshold: float = VANISHED
    ) -> Degree:
        """The degree of collapse that a run reached, and whether it amounts to collapse.

        Args:
            curve: `metric` over the measured steps.
            reference: the k points at the last step. Without it, coinciding points are noticed only when all do:
                the metric is then undefined.
            threshold: of the spread, for the variance to have vanished and for points to be distinct.

        Raises:
            InputError: a threshold outside 0 … 1; points that are not finite.
        """
        if not 0 < threshold < 1:
            raise InputError(f"threshold is {threshold:g}; give a share of the spread between 0 and 1")
        separation = None if reference is None else _separation(reference)
        final = float(curve.values[-1])
        is_defined = not np.isnan(final) and (separation is None or separation > threshold)
        slope, late = curve.slope(0.5), curve.slope(0.25)
        falling = (
            None
            if slope is None or late is None
            else slope < FALLING and late < FALLING and not curve.has_turned(0.25)
        )
        vanished = final < threshold if is_defined else None
        return Degree(
            definition=self.name,
            metric=self.metric,
            step=int(curve.steps[-1]),
            final_value=None if np.isnan(final) else final,
            threshold=threshold,
            vanished=vanished,
            slope=slope,
            late_slope=late,
            still_falling=falling,
            separation=separation,
            outcome="undefined" if vanished is None else "collapsed" if vanished else "not collapsed",
            sentence=f"{self.name} (definition {self.number}): "
            + (
                self._why_undefined(separation, threshold)
                if vanished is None
                else f"{'collapsed' if vanished else 'not collapsed'} by step {curve.steps[-1]}, where {self.metric} is "
                f"{final:.3g}, {'below' if vanished else 'not below'} {threshold:g}{_trend(final, falling, slope)}"
            ),
        )

    def _why_undefined(self, separation: float | None, threshold: float) -> str:
        if separation is not None and not separation > threshold:
            return (
                f"undefined, two of the {self.points} lie {separation:.3g} of the spread apart (squared), not above "
                f"{threshold:g}: these are no distinct points"
            )
        return f"undefined, {self.metric} has no value at the last step: not measured, or the {self.points} coincide"


TRAIN_COLLAPSE = Definition(
    1,
    "train collapse",
    "As training goes on, every sample of the train set moves to the point of its label, one of k distinct points.",
    "train_variance",
    "train class means",
)
WEAK_TEST_COLLAPSE = Definition(
    2,
    "weak test collapse",
    "Whatever the size of the train set, almost every new sample moves to one of k distinct points, whichever.",
    "weak_test_variance",
    "k-means centres of the test features",
)
STRONG_TEST_COLLAPSE = Definition(
    3,
    "strong test collapse",
    "Whatever the size of the train set, almost every new sample moves to the point of its Bayes-optimal class, one of "
    "k distinct points.",
    "strong_test_variance",
    "test class means",
)
DEFINITIONS = (TRAIN_COLLAPSE, WEAK_TEST_COLLAPSE, STRONG_TEST_COLLAPSE)


def judge_run(
    rows: pd.DataFrame,
    references: Mapping[str, Reference] | None = None,
    *,
    threshold: float = VANISHED,
) -> dict[str, Degree]:
    """All three definitions on the last-layer features of one run, by name.

    Args:
        rows: of one job and seed, with columns step, is_last and the metrics; a metric that is missing was not
            measured.
        references: the points at the last step, by metric, where they are known.
        threshold: as `Definition.judge`.

    Raises:
        InputError: rows of several runs, without step or is_last, or without a row of the last layer.
    """
    check_names(list(references or ()), (definition.metric for definition in DEFINITIONS), "metric")
    for column in ("step", "is_last"):
        if column not in rows.columns:
            raise InputError(
                f"rows: there is no column {column!r}; give the rows of one run as an experiment stores them"
            )
    last = pd.DataFrame(rows[rows["is_last"].astype(bool)]).sort_values("step")
    if last.empty:
        raise InputError("rows: none is of the last layer (is_last); give the rows of one run")
    for column in ("job", "seed"):
        if column in last.columns and last[column].nunique(dropna=False) > 1:
            values = last[column].unique().tolist()
            raise InputError(
                f"rows: {len(values)} values of {column} ({values[0]}, {values[1]}, …); give the rows of one run"
            )
    steps = last["step"].to_numpy(dtype=np.int64)
    metrics = last.reindex(columns=[definition.metric for definition in DEFINITIONS])
    out = {}
    for definition in DEFINITIONS:
        values = metrics[definition.metric].to_numpy(dtype=np.float64)
        reference = (references or {}).get(definition.metric)
        out[definition.name] = definition.judge(Curve(steps, values), reference, threshold=threshold)
    return out


def _separation(reference: Reference) -> float:
    """Smallest squared distance between two points, over their spread; 0 where all coincide."""
    if not bool(torch.isfinite(reference.centres).all()):
        raise InputError("reference: points are NaN or infinite; leave out classes that have no samples")
    if reference.spread == 0:
        return 0.0
    # By differences: points far from the origin keep their digits.
    return float(torch.pdist(reference.centres).min()) ** 2 / reference.spread


def _trend(final: float, falling: bool | None, slope: float | None) -> str:
    if final == 0:
        return ""
    if falling is None:
        return "; too few steps to say whether it still falls"
    return f" and {'still falling' if falling else 'no longer falling'} (slope {slope:+.2g} in the second half of log steps)"
