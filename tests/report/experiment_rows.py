"""Rows of experiments as their runs give them, made up by closed forms."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

# Seeds differ by these factors: their geometric mean is 1.
FACTORS = (0.5, 1.0, 2.0)


def curve_rows(model: str = "resnet18", *, depths: int = 1, seeds: int = 3, **labels: Any) -> pd.DataFrame:
    """One row per seed, step and layer; train variance is 1/(step + 1) times ten per layer below the last, and three times
    that over references of the same step.
    """
    rows = []
    for seed in range(seeds):
        for step in (0, 1, 10, 100, 1000):
            for depth in range(depths):
                is_last = depth == depths - 1
                lower = 10.0 ** (depths - 1 - depth)
                rows.append(
                    {"job": f"{model}-{labels}", "dataset": "cifar10", "model": model} | labels |
                    {"seed": seed, "step": step, "epoch": step / 8, "layer": f"layers.{depth}", "depth": depth,
                     "is_last": is_last, "train_variance": 3 * FACTORS[seed] * lower / (step + 1),
                     "strong_test_variance": 3 * FACTORS[seed] * 0.5,
                     "weak_test_variance": math.nan,
                     "train_variance_final": FACTORS[seed] * lower / (step + 1),
                     "strong_test_variance_final": FACTORS[seed] * 0.5,
                     "weak_test_variance_final": FACTORS[seed] * 0.25 if is_last and not labels else math.nan,
                     "train_accuracy": min(1.0, 0.1 + step / 100) if is_last else math.nan,
                     "test_accuracy": min(0.8, 0.1 + step / 125) if is_last else math.nan}
                )  # fmt: skip
    return pd.DataFrame(rows)


def size_rows() -> pd.DataFrame:
    parts = []
    for size in (100, 1000, 10_000):
        part = curve_rows(num_train=size)
        part["train_variance_final"] *= size / 1000
        part["strong_test_variance_final"] *= 100 / size
        part["train_variance"], part["strong_test_variance"] = math.nan, math.nan
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def transfer_rows() -> pd.DataFrame:
    rows = []
    for seed in range(3):
        for place, step in enumerate((100, 1000)):
            head = {"dataset": "mnist", "model": "mlp", "seed": seed, "pretrain_step": step,
                    "train_variance_final": FACTORS[seed] * 10.0**-place, "num_test": 100}  # fmt: skip
            rows.append(head | {"kind": "pretraining", "learning_rate": math.nan, "accuracy": 0.99})
            for rate, accuracy in ((0.001, 0.5), (0.01, 0.8 - 0.1 * place + 0.01 * seed), (0.1, math.nan)):
                rows.append(head | {"kind": "fine_tuning", "learning_rate": rate, "accuracy": accuracy})
            rows.append(head | {"kind": "linear_probe", "learning_rate": math.nan, "accuracy": 0.3})
    return pd.DataFrame(rows)


def construction_rows() -> pd.DataFrame:
    table = {
        "network": (1e-4, 0.2, 0.1, 1.0, 0.95, math.nan, math.nan),
        "one_hot_decisions": (0.0, 0.1, 0.0, 1.0, 0.95, math.nan, math.nan),
        "memoriser": (0.0, math.nan, 1.0, 1.0, 0.1, math.nan, math.nan),
        "super_class": (1e-3, 0.1, 0.05, 1.0, 0.97, 0.2, 0.19),
    }
    columns = ("train_variance", "strong_test_variance", "weak_test_variance", "train_accuracy", "test_accuracy",
               "bound", "probe_accuracy")  # fmt: skip
    return pd.DataFrame(
        [
            {"construction": name, "seed": seed} | dict(zip(columns, values, strict=True))
            for seed in range(2)
            for name, values in table.items()
        ]
    )
