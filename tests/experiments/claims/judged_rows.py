"""Made-up rows of runs whose numbers are given, and the judgement of a claim on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from collapselab.experiments.claims import Claim, judge_claims
from collapselab.records.judgement import Judgement

STEPS = (0, 1, 3, 10, 32, 100, 316, 1000)


def judge(claim: Claim, rows: pd.DataFrame) -> Judgement:
    (judged,) = judge_claims([claim], rows, "A paper", "Fig. 1")
    stored = json.dumps(judged.model_dump(mode="json"), allow_nan=False)
    assert Judgement.model_validate_json(stored) == judged
    return judged


def run(job: str = "net", seed: int = 0, *, accuracy: float = 1.0, **columns: Any) -> list[dict[str, Any]]:
    """Rows of one run's last layer: a column is the value at the end, or (value at the end, percent of late change)."""
    rows = []
    for step in STEPS:
        row: dict[str, Any] = {
            "job": job,
            "seed": seed,
            "step": step,
            "layer": "fc",
            "depth": 1,
            "is_last": True,
        }
        for name, value in columns.items():
            row[name] = _value(value, step) if isinstance(value, (tuple, float)) else value
        rows.append(row | {"train_accuracy": accuracy})
    return rows


def _value(value: float | tuple[float, float], step: int) -> float:
    end, late = value if isinstance(value, tuple) else (value, 0.0)
    return end * (1 + late / 100) ** float(np.log2(max(step, 0.5) / STEPS[-1]))


def runs(by_seed: Mapping[int, Any] | Sequence[Any], name: str = "x", job: str = "net") -> pd.DataFrame:
    """A table of one job, its seeds with these values of one column."""
    items = by_seed.items() if isinstance(by_seed, Mapping) else enumerate(by_seed)
    return pd.DataFrame([row for seed, value in items for row in run(job, seed, **{name: value})])
