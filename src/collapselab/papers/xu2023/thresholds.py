"""Fuzziness and VCI over the threshold of the pseudo-inverse, and the spectra behind them: sec. 4.3 of Xu and Liu (2023).

The threshold is relative to the largest eigenvalue of the matrix that is inverted: Sigma_B for fuzziness, Sigma_T for VCI.
Both metrics are computed in two ways:

- `plain`: `torch.linalg.pinv` of float32 matrices, as the paper describes it;
- `careful`: as this package computes them: at most C - 1 eigenvalues of Sigma_B, from singular values of the class means;
  Sigma_T of features of unit variance; all in float64.

Letters: n samples, p features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapselab.experiments.claims import Claim, Number
from collapselab.experiments.grid import Grid
from collapselab.frames import numbers
from collapselab.metrics import variability
from collapselab.metrics.inputs import MetricInputs
from collapselab.papers.xu2023.common import class_means, class_stats, last_layer_of, sample_weights
from collapselab.records.experiment import ExtraRow

# Ten decades, two per decade.
THRESHOLDS = tuple(10 ** (-power / 2) for power in range(24, 3, -1))
STEADY = 1.05  # VCI moves by less than 5 %
WAYS = ("plain", "careful")


def measure_thresholds(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return a row per network and threshold, and one per network and eigenvalue."""
    rows: list[ExtraRow] = []
    for run in runs.of(seed).values():
        last = last_layer_of(run, runs)
        labels: ExtraRow = {"network": str(run.job.labels["network"])}
        own = (*_over_thresholds(last.features, last.labels), *_spectra(last.features, last.labels))
        rows += [labels | row for row in own]
    return rows


def threshold_rows(runs: Grid) -> pd.DataFrame:
    """Return the rows of all seeds.

    Returns:
        Columns seed, network; of rows with a threshold fuzziness and vci in both ways; of rows with an index, from 1, the
        absolute eigenvalues of Sigma_B and Sigma_T in float32, over the largest of each, in falling order, and the rank that
        Sigma_B can have.
    """
    rows = [row | {"seed": seed} for seed in runs.seeds for row in runs.extra("thresholds", seed)]
    values = [f"{metric}_{way}" for way in WAYS for metric in ("fuzziness", "vci")]
    return pd.DataFrame(
        rows, columns=["seed", "network", "threshold", *values, "index", "rank", "between", "total"]
    )


def covariances(
    features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "p p"], Float[Tensor, "p p"], Float[Tensor, "p p"]]:
    """Return Sigma_W, Sigma_B and Sigma_T in the dtype of the features, each from a sum of its own."""
    means = class_means(features, labels)
    centre, roots = means.mean(dim=0), sample_weights(labels).sqrt().to(features.dtype)[:, None]
    within, total = ((features - around) * roots for around in (means[labels], centre))
    between = (means - centre) / len(means) ** 0.5
    return within.T @ within, between.T @ between, total.T @ total


def _over_thresholds(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> Iterator[ExtraRow]:
    stats, (within, between, total) = class_stats(features, labels), covariances(features, labels)
    rank = min(features.shape[1], stats.num_classes - 1)
    for threshold in THRESHOLDS:
        inverse_between, inverse_total = (
            torch.linalg.pinv(matrix, rtol=threshold, hermitian=True) for matrix in (between, total)
        )
        # Singular values of the class means are roots of eigenvalues of Sigma_B.
        of_means = MetricInputs(stats, rcond=threshold**0.5)
        yield {
            "threshold": threshold,
            "fuzziness_plain": float((within @ inverse_between).trace()),
            "vci_plain": 1 - float((inverse_total @ between).trace()) / rank,
            "fuzziness_careful": variability.fuzziness(of_means),
            "vci_careful": variability.vci(MetricInputs(stats, rcond=threshold)),
        }


def _spectra(features: Float[Tensor, "n p"], labels: Int[Tensor, " n"]) -> Iterator[ExtraRow]:
    _, *matrices = covariances(features, labels)
    rank = min(features.shape[1], int(labels.max()))
    sizes = (torch.linalg.eigvalsh(matrix).abs().sort(descending=True).values for matrix in matrices)
    between, total = ((values / values[0]).tolist() for values in sizes)
    for index, values in enumerate(zip(between, total, strict=True), start=1):
        yield {"index": index, "rank": rank, "between": values[0], "total": values[1]}


# ---------------------------------------------------------------- the claim


def largest_movement(moving: Sequence[float], steady: Sequence[float]) -> float:
    """Return the largest factor by which one curve moves over neighbouring places where the other moves by less than 5 %.

    Args:
        moving: its factor is the largest absolute value over the smallest one.
        steady: places where it is not positive do not count: it is not a value of the metric.

    Returns:
        1 or more; NaN if no place counts.
    """
    best = math.nan
    for start in range(len(steady)):
        for end in range(start + 1, len(steady) + 1):
            others, sizes = steady[start:end], [abs(value) for value in moving[start:end]]
            if not min(others) > 0 or not max(others) < STEADY * min(others):
                break
            factor = max(sizes) / min(sizes) if min(sizes) > 0 else math.inf
            best = factor if math.isnan(best) else max(best, factor)
    return best


def moves_more(way: str, says: str, **more: Any) -> Claim:
    """Fuzziness moves by a decade or more over thresholds where VCI moves by less than 5 %; the reverse is shown beside it."""

    def measure(rows: pd.DataFrame, decades: float) -> list[Number]:
        table = rows.dropna(subset=["threshold"]).sort_values("threshold")
        fuzziness, vci = (numbers(table, f"{name}_{way}") for name in ("fuzziness", "vci"))
        what = "factor by which {} moves over thresholds where {} moves by less than 5 %"
        return [
            Number(what.format("fuzziness", "VCI"), largest_movement(fuzziness, vci), above=10**decades),
            Number(what.format("VCI", "fuzziness"), largest_movement(vci, fuzziness)),
        ]

    own: dict[str, Any] = {"per": ("network",), "runs": "network", "fitted": None, "where": "Sec. 4.3"}
    return Claim(
        id=f"moves-more-{way}", statement=says, numbers=measure, thresholds=(1.0, 0.5, 2.0), **(own | more)
    )
