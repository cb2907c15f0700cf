"""Made-up rows that show a claim, or do not, and the judgement on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from collapselab.experiments.claims import judge_claims
from collapselab.experiments.experiment import Experiment
from collapselab.papers.hui2022.arms import LITERAL
from collapselab.records.judgement import Judgement

STEPS = (0, *(int(step) for step in np.unique(np.geomspace(1, 10_000, 17).round())))
NAN = float("nan")
# Seeds differ by these factors: enough for an interval, too little to change an outcome.
FACTORS = (0.95, 1.0, 1.05)


def judgement(experiment: Experiment, id: str, rows: pd.DataFrame) -> Judgement:
    """Judge a claim; one that exists in each arm is judged in the arm of rows that name none."""
    if experiment.before and "arm" not in rows:
        rows, id = rows.assign(**experiment.before), f"{id}-{LITERAL}"
    (claim,) = (claim for claim in experiment.claims if claim.id == id)
    (judged,) = judge_claims([claim], rows, experiment.paper, experiment.where)
    json.dumps(judged.model_dump(mode="json"), allow_nan=False)  # as it is stored
    return judged


def verdict(experiment: Experiment, id: str, rows: pd.DataFrame) -> str:
    return judgement(experiment, id, rows).verdict


def curve(
    job: str = "cifar10-resnet18",
    *,
    seed: int = 0,
    train: float = 1e-4,
    strong: float = 0.5,
    weak: float = 0.3,
    accuracy: float = 1.0,
    depth: int = 2,
    is_last: bool = True,
    fall: float = 2.0,
    rests: bool = True,
    **labels: Any,
) -> list[dict[str, Any]]:
    """Rows of one layer; variances fall from 1, late (large `fall`) or early, and rest in the second half of log steps.

    Variances with references of the last step rise at the end, as where features grow: no claim may look at their trend.

    Args:
        rests: else they fall to the end.
    """
    shares = (np.arange(len(STEPS)) / (len(STEPS) - 1)).clip(max=0.45 if rests else 1)
    shares = (shares / shares[-1]) ** fall
    ends = {"train_variance": train, "strong_test_variance": strong, "weak_test_variance": weak}
    ends = {name: value * FACTORS[seed % 3] for name, value in ends.items()}
    rows = []
    for step, share in zip(STEPS, shares, strict=True):
        plain = {name: float(value**share) for name, value in ends.items()}
        with_final = {
            f"{name}_final": value * (1 if step == STEPS[-1] else 0.5) for name, value in plain.items()
        }
        rows.append(
            {"job": job, "dataset": "cifar10", "model": "resnet18"}
            | labels
            | {"seed": seed, "step": step, "epoch": step / 10, "layer": f"layers.{depth}", "depth": depth,
               "is_last": is_last, "normalized_within": plain["train_variance"] / (1 + plain["train_variance"]),
               "train_accuracy": accuracy if is_last else NAN}
            | plain
            | with_final
        )  # fmt: skip
    return rows


def table(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])


def seeds(make: Callable[[int], list[dict[str, Any]]], count: int = 3) -> pd.DataFrame:
    """The rows of several seeds."""
    return table(*(make(seed) for seed in range(count)))
