"""Dips of curves around final references: what the finding measures, against closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from collapselab.experiments.claims import judge_claims
from collapselab.findings.final_references import CLAIMS, EXPERIMENT, _mean_size, dips

R, K = 0.4, 2.5


def scaled(scale: np.ndarray, plain: np.ndarray | float = R, seed: int = 0) -> pd.DataFrame:
    """A run whose features only grow: class means are `scale` times the last ones."""
    values = {
        "step": np.arange(len(scale)), "train_variance": plain * np.ones(len(scale)),
        "train_variance_final": plain * scale**2 + K * (1 - scale) ** 2,
    }  # fmt: skip
    labels = {"job": "j", "setting": "cross-entropy", "dropout": 0.0, "seed": seed, "ended": "steps"}
    place = {"layer": "l", "depth": 3, "is_last": True, "train_accuracy": 1.0, "mean_size": K}
    return pd.DataFrame(values | labels | place)


def test_features_that_only_grow_have_the_predicted_dip() -> None:
    scale = np.array([0.01, 0.1, 0.5, K / (R + K), 0.95, 1.0])
    (dip,) = dips(scaled(scale)).to_dict("records")
    assert dip["minimum"] == pytest.approx(R * K / (R + K), rel=1e-12)
    assert dip["predicted_minimum"] == pytest.approx(R * K / (R + K), rel=1e-12)
    assert dip["final_rise"] == pytest.approx(1 + R / K, rel=1e-12)
    assert dip["plain_rise"] == 1.0


def test_a_plain_curve_that_rises_behind_the_minimum_is_found() -> None:
    plain = np.array([9.0, 3.0, 0.6, 0.3, 0.36, 0.33])
    scale = np.array([0.01, 0.1, 0.5, 0.97, 0.99, 1.0])
    (dip,) = dips(scaled(scale, plain)).to_dict("records")
    assert dip["plain_rise"] == pytest.approx(1.2)


def test_the_size_of_class_means_is_in_units_of_their_spread() -> None:
    # Means 3 and 5 along one axis: spread 1; mean square weighted by counts (1 x 9 + 3 x 25) / 4 = 21.
    held = {
        "train/l/class_means": torch.tensor([[3.0, 0.0], [5.0, 0.0]]),
        "train/l/counts": torch.tensor([1, 3]),
    }
    assert _mean_size(held, "train/l") == pytest.approx(21.0, rel=1e-12)


FALLING = np.array([9.0, 3.0, 0.6, 0.3, 0.36, 0.33])  # and it rises by a fifth


@pytest.mark.parametrize(
    ("plain", "size", "monotone", "predicted"),
    [
        (np.full(6, R), K, "holds", "holds"),
        (FALLING, K, "fails", "holds"),
        (np.full(6, R), 3 * K, "holds", "fails"),  # the size of the means is not the true one
    ],
)
def test_claims_are_judged_over_runs_with_a_dip(
    plain: np.ndarray, size: float, monotone: str, predicted: str
) -> None:
    scales = [np.array([0.01, 0.1, 0.5, K / (R + K) + 0.001 * seed, 0.99, 1.0]) for seed in range(4)]
    rows = pd.concat([scaled(scale, plain, seed) for seed, scale in enumerate(scales)])
    rising, minimum, *_ = judge_claims(CLAIMS, rows.assign(mean_size=size), "ours")
    assert (rising.verdict, minimum.verdict) == (monotone, predicted)


def test_a_curve_without_a_dip_is_not_asked() -> None:
    shrinking = np.array([3.0, 2.0, 1.5, 1.2, 1.1, 1.0])
    rows = pd.concat([scaled(shrinking, seed=seed) for seed in range(3)])
    rising, *_ = judge_claims(CLAIMS, rows, "ours")
    assert rising.verdict == "inconclusive"
    assert not rising.is_asked


def test_settings_are_six_networks() -> None:
    jobs = EXPERIMENT.presets["cpu"].jobs(5)
    assert len({job.name for job in jobs}) == 6
    assert {(job.recipe.loss, job.recipe.optimizer.weight_decay) for job in jobs if not job.labels["dropout"]} == {
        ("cross_entropy", 0.0), ("cross_entropy", 5e-4), ("mse", 0.0), ("mse", 5e-4),
    }  # fmt: skip
