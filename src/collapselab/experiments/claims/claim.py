"""Sentences about neural collapse that measured rows can hold or fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from collapselab.probes.results import first_collapsed

Outcome = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """What a claim's rows say.

    Attributes:
        outcome: whether the claim holds.
        evidence: the numbers the judgement used, by name.
    """

    outcome: Outcome
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A sentence and the function of measured rows that judges it.

    Attributes:
        id: short and stable.
        paper: where the sentence comes from.
        where: section or figure.
        statement: the sentence.
        judge: rows (a table with columns seed, step, split, layer, depth and one per metric) to a verdict. It
            looks at nothing else.
    """

    id: str
    paper: str
    where: str
    statement: str
    judge: Callable[[pd.DataFrame], Verdict]


def judge_all(claims: Iterable[Claim], rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Each claim's verdict over all seeds in `rows`, as written to verdicts.json."""
    out = []
    for claim in claims:
        verdict = claim.judge(rows)
        out.append(
            {
                "id": claim.id,
                "paper": claim.paper,
                "where": claim.where,
                "statement": claim.statement,
                "verdict": verdict.outcome,
                "seeds": sorted(int(seed) for seed in rows["seed"].unique()),
                "evidence": verdict.evidence,
            }
        )
    return out


def rows_where(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows whose columns have these values, in order of depth."""
    for name, value in values.items():
        rows = pd.DataFrame(rows[rows[name] == value])
    return rows.sort_values("depth")


def first_collapsed_layer(layers: pd.DataFrame, epsilon: float) -> str | None:
    """The first layer from which `normalized_within` stays below epsilon to the last, else None.

    Args:
        layers: one row per layer of one split at one step, with columns layer, depth, normalized_within.
        epsilon: below this a layer is collapsed (Rangamani et al. 2023, sec. 4).
    """
    ordered = layers.sort_values("depth")
    return first_collapsed(ordered["layer"].tolist(), ordered["normalized_within"].tolist(), epsilon)
