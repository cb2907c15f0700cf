"""Whether dropout accelerates collapse: the steps that a network takes to a level that it reaches with and without."""

from __future__ import annotations

import pandas as pd

from collapselab.curves import end_value, step_reaching
from collapselab.experiments.claims import Claim
from collapselab.experiments.claims.claim import NotAsked, Number
from collapselab.frames import curve, rows_where
from collapselab.text import words


def sooner_with_dropout(metric: str, says: str) -> Claim:
    """A number that falls reaches a level in fewer steps with dropout.

    The level is a multiple of the higher of the two values at the end.
    """

    def measure(runs: pd.DataFrame, multiple: float) -> list[Number]:
        shares = sorted({*runs["dropout"]})
        if len(shares) == 1:
            raise NotAsked("only one value of dropout")
        curves = [curve(rows_where(runs, dropout=share), metric) for share in (shares[0], shares[-1])]
        level = multiple * max(end_value(values) for _, values in curves)
        what = f"step at which {words(metric)} is {multiple:g} times the higher of both ends, with dropout"
        without, sooner = (step_reaching(*one, level) for one in curves)
        ratio = Number(f"{what} {shares[0]:g} over {shares[-1]:g}", without / sooner, above=1.0)
        return [Number(f"{what} {shares[0]:g}", without), Number(f"{what} {shares[-1]:g}", sooner), ratio]

    return Claim(
        id=f"{metric.replace('_', '-')}-sooner-with-dropout",
        statement=says,
        numbers=measure,
        thresholds=(2.0, 1.25, 4.0),
        per=("dataset", "model"),
    )
