"""Metrics along training as a table, and claims about where they go: fig. 1, 3 to 6 and 8 of Xu and Liu (2023)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from collapselab.curves import ROUNDING, end_value
from collapselab.experiments.claims import Claim, Number
from collapselab.experiments.claims.claim import NotAsked, Void
from collapselab.experiments.grid import Grid, GridRun
from collapselab.frames import curve, groups, rows_where
from collapselab.papers.xu2023.recipes import MEASURED
from collapselab.text import number, words

SPLITS = ("train", "test")
_NETWORK = ("loss", "accuracy")
# Parts of the variance within and between classes: what the classifier reads, and what it does not.
_PARTS = tuple(f"{kind}_{where}_weight_space" for kind in ("within", "between") for where in ("in", "off"))
_RELATIVE = "{}_over_between".format
COLUMNS = tuple(
    f"{split}_{name}" for split in SPLITS for name in (*_NETWORK, *MEASURED, *map(_RELATIVE, _PARTS))
)
# The paper records metrics every 20 of 300 epochs: trends are judged from the first of these on, not from random weights.
SINCE = (1 / 15, 0.0, 0.2, 0.5)
# Train accuracies that differ by less are equal.
_EQUAL_ACCURACY = 0.01
_PER_RUN = ("network", "setting")
_NAMES = {
    "vci": "VCI",
    "vci_adjusted": "adjusted VCI",
    **{
        f"{kind}_{where}_weight_space": f"{kind}-class variance {where} the row space"
        for kind in ("within", "between")
        for where in ("in", "off")
    },
}


def metric_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per run and measured step.

    Returns:
        Columns job, the job's labels, seed, ended, step, epoch, and every measured metric of the last layer with the split in
        front (`train_vci`); parts of the variance also over Tr Sigma_B (`train_within_off_weight_space_over_between`). NaN
        where undefined.
    """
    return pd.concat([run_rows(run) for run in runs.all()], ignore_index=True)


def run_rows(run: GridRun) -> pd.DataFrame:
    """Return the rows of one run; see `metric_rows`."""
    labels = {"job": run.job.name, **run.job.labels, "seed": run.seed, "ended": run.record.ended}
    by_step: dict[int, dict[str, Any]] = {}
    for row in run.folder.read_rows():
        held = by_step.setdefault(row.step, {**labels, "step": row.step, "epoch": row.epoch})
        held.update({f"{row.split}_{name}": value for name, value in row.metrics.items()})
    table = pd.DataFrame(list(by_step.values())).reindex(columns=[*labels, "step", "epoch", *COLUMNS])
    table = table.astype(dict.fromkeys(COLUMNS, "float64")).sort_values("step")
    for split in SPLITS:
        spread = table[f"{split}_between_trace"].where(lambda one: one > 0)
        for part in _PARTS:
            table[f"{split}_{_RELATIVE(part)}"] = table[f"{split}_{part}"] / spread
    return table


def column_name(column: str) -> str:
    """Return a column as a reader calls it: `adjusted VCI on train data`."""
    split, _, name = column.partition("_")
    base = name.removesuffix(_RELATIVE(""))
    relative = " over Tr Σ_B" if base != name else ""
    return f"{_NAMES.get(base, words(base))}{relative} on {split} data"


# ---------------------------------------------------------------- claims


def trend(id: str, column: str, says: str, *, rising: bool = False, **more: Any) -> Claim:
    """A number falls (or rises) from the first of the paper's measurements, at a fifteenth of the steps, to the end.

    Thresholds are the share of the steps from which it is judged.
    """

    def measure(run: pd.DataFrame, since: float) -> list[Number]:
        start, end, step = _start_and_end(run, column, since)
        what = f"{column_name(column)}, end over step {number(step)}"
        bound: dict[str, Any] = {"above": 1.0} if rising else {"below": 1.0}
        return [
            Number(f"{column_name(column)} at step {number(step)}", start),
            Number(f"{column_name(column)} at the end", end),
            Number(what, _over(end, start), **bound),
        ]

    own: dict[str, Any] = {"per": _PER_RUN, "fitted": None}
    return Claim(id=id, statement=says, numbers=measure, thresholds=SINCE, **(own | more))


rises = partial(trend, rising=True)


def no_common_sign(id: str, column: str, says: str, **more: Any) -> Claim:
    """A number rises in one setting of a seed and falls in another, from a fifteenth of the steps to the end."""

    def measure(rows: pd.DataFrame, since: float) -> list[Number]:
        name, found = "", []
        for setting, run in groups(rows, "setting"):
            start, end, step = _start_and_end(run, column, since)
            name = f"{column_name(column)}, end over step {number(step)}"
            found.append(Number(f"{name}, {setting}", _over(end, start)))
        if len(found) < 2:
            raise Void("fewer than two settings")
        ratios = [one.value for one in found]
        return [
            *found,
            Number(f"{name}, largest of these", float(np.max(ratios)), above=1.0),
            Number(f"{name}, smallest of these", float(np.min(ratios)), below=1.0),
        ]

    own: dict[str, Any] = {"per": (), "fitted": None}
    return Claim(id=id, statement=says, numbers=measure, thresholds=SINCE, **(own | more))


def squared_loss_lower(
    id: str, column: str, says: str, below: Sequence[float] = (1.0, 0.8, 0.5), **more: Any
) -> Claim:
    """A number is lower at the end with squared loss than with cross-entropy, where train accuracies are equal.

    A seed is void if they differ by a hundredth or more; without runs with both losses, nothing is asked.
    """

    def measure(rows: pd.DataFrame, below: float) -> list[Number]:
        runs = [rows_where(rows, loss=loss) for loss in ("squared loss", "cross-entropy")]
        if any(run.empty for run in runs):
            raise NotAsked("networks were trained with one of the two losses only")
        a, b = (end_value(curve(run, "train_accuracy")[1]) for run in runs)
        if not abs(a - b) < _EQUAL_ACCURACY:
            raise Void(f"train accuracies are not equal: {number(a, 4)} and {number(b, 4)}")
        squared, other = (end_value(curve(run, column)[1]) for run in runs)
        name = column_name(column)
        return [
            Number("train accuracy at the end, squared loss", a),
            Number("train accuracy at the end, cross-entropy", b),
            Number(f"{name} at the end, squared loss", squared),
            Number(f"{name} at the end, cross-entropy", other),
            Number(f"{name} at the end, squared loss over cross-entropy", _over(squared, other), below=below),
        ]

    own: dict[str, Any] = {"per": ("network", "decay"), "runs": "loss", "fitted": None}
    return Claim(id=id, statement=says, numbers=measure, thresholds=below, **(own | more))


def higher_on_test(
    id: str, name: str, says: str, by: Sequence[float] = (1.0, 2.0, 3.0), **more: Any
) -> Claim:
    """A metric at the end is higher on test data than on train data, by more than a factor."""

    def measure(run: pd.DataFrame, factor: float) -> list[Number]:
        train, test = (end_value(curve(run, f"{split}_{name}")[1]) for split in SPLITS)
        return [
            Number(f"{column_name(f'train_{name}')} at the end", train),
            Number(f"{column_name(f'test_{name}')} at the end", test),
            Number(f"{_NAMES[name]} at the end, test over train", _over(test, train), above=factor),
        ]

    own: dict[str, Any] = {"per": _PER_RUN, "fitted": None}
    return Claim(id=id, statement=says, numbers=measure, thresholds=by, **(own | more))


def is_zero(id: str, column: str, says: str, within: float, **more: Any) -> Claim:
    """A number at the end is zero within a tolerance; an identity."""

    def measure(run: pd.DataFrame, _: float) -> list[Number]:
        value = end_value(curve(run, column)[1])
        return [Number(f"{column_name(column)} at the end", value, near=(0.0, within))]

    own: dict[str, Any] = {"kind": "identity", "fitted": None}
    return Claim(id=id, statement=says, numbers=measure, thresholds=(0.0,), **(own | more))


def _start_and_end(run: pd.DataFrame, column: str, since: float) -> tuple[float, float, float]:
    """Return the value at the first measured step from a share of all steps on, the last value, and that step."""
    steps, values = curve(run, column)
    at = int(np.flatnonzero(steps >= np.floor(since * steps[-1]))[0])
    return float(values[at]), end_value(values), float(steps[at])


def _over(above: float, below: float) -> float:
    return max(above, ROUNDING) / max(below, ROUNDING) if above >= 0 and below >= 0 else float("nan")
