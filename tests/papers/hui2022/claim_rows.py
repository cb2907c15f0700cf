"""Made-up rows that show a claim, or do not, and the verdict on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from collapselab.experiments.claims.claim import Claim, judge_all

STEPS = (0, *(int(step) for step in np.unique(np.geomspace(1, 10_000, 17).round())))
NAN = float("nan")


def verdict(of: Sequence[Claim], id: str, rows: pd.DataFrame) -> str:
    judged = judge_all(of, rows)
    json.dumps(judged, allow_nan=False)  # as it is stored
    return {one["id"]: one["verdict"] for one in judged}[id]


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

    Args:
        rests: else they fall to the end.
    """
    shares = (np.arange(len(STEPS)) / (len(STEPS) - 1)).clip(max=0.45 if rests else 1)
    shares = (shares / shares[-1]) ** fall
    return [
        {"job": job, "dataset": "cifar10", "model": "resnet18"}
        | labels
        | {
            "seed": seed,
            "step": step,
            "epoch": step / 10,
            "layer": f"layers.{depth}",
            "depth": depth,
            "is_last": is_last,
            "train_variance": float(train**share),
            "strong_test_variance": float(strong**share),
            "weak_test_variance": float(weak**share),
            "train_accuracy": accuracy if is_last else NAN,
        }
        for step, share in zip(STEPS, shares, strict=True)
    ]


def table(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])
