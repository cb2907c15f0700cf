"""What scores of transferability cost, against a floor, and against the linear probe that they stand in for.

    python benchmarks/scores.py                              # three shapes (about two minutes)
    python benchmarks/scores.py --shape 2000,512,10 --repeat 3

Every score is computed alone, as `collapselab rank` does, from float32 features with the spectrum 1/k of networks, on one
thread. The floor of a score that needs covariances is the float64 covariance of all features and its eigenvalues; of all
other scores, one float32 matrix product of features and class means. The probe has the 13 penalties of `rank --probe`; on
the large shape it is fitted once. Times are minima of CPU seconds. Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import append_record, shape
from collapselab.numerics import cpu_threads
from collapselab.transfer import linear_probe
from collapselab.transfer.scores import SCORES, Score, ScoreInputs, evaluate

SHAPES = ((2000, 512, 10), (10_000, 512, 10), (10_000, 2048, 100))
# Scores of the table of `rank`, and those that cost most.
NAMES = (
    "logme", "h_score", "shrunk_h_score", "transrate", "leep", "ncti_seli", "ncc_accuracy", "normalized_within", "cdnv",
    "fuzziness", "vci", "vci_adjusted",
)  # fmt: skip
SUMS = ("leep", "ncc_accuracy", "normalized_within", "cdnv")
_PENALTIES = 13
_LARGE = 10_000 * 2048


def best(run: Callable[[], object], repeat: int) -> float:
    """Return the least CPU seconds of several calls."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def make(n: int, p: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (n, p), balanced labels (n,) and probabilities (n, c) of a source classifier."""
    torch.manual_seed(0)
    labels = torch.arange(n) % c
    scale = torch.arange(1, p + 1).rsqrt()
    features = (torch.randn(n, p) + 0.3 * torch.randn(c, p)[labels]) * scale
    return features.relu(), labels, torch.randn(n, c).softmax(dim=1)


def covariance(features: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance of all features, in float64."""
    rows = features.double()
    rows = rows - rows.mean(dim=0)
    return torch.linalg.eigvalsh(rows.T @ rows)


def measure(size: tuple[int, int, int], repeat: int) -> list[dict[str, Any]]:
    """Print and return a row per score: seconds, and ratios to its floor and to the probe."""
    n, p, c = size
    features, labels, probabilities = make(n, p, c)
    inputs = {"features": features, "labels": labels, "source_probabilities": probabilities}
    means = torch.randn(p, c)
    floors = {
        "covariance": best(lambda: covariance(features), repeat),
        "sums": best(lambda: features @ means, repeat),
    }
    train, test = slice(0, 4 * n // 5), slice(4 * n // 5, n)
    given = [(features[part], labels[part]) for part in (train, test)]
    probe = best(lambda: linear_probe(*given, num_penalties=_PENALTIES), 1 if n * p >= _LARGE else repeat)
    rows = []
    for score in (score for score in SCORES if score.name in NAMES):
        # New inputs for every call: NCTI keeps its parts with them.
        seconds = best(lambda score=score: _value(score, inputs), repeat)
        kind = "sums" if score.name in SUMS else "covariance"
        ratios = {"over_floor": seconds / floors[kind], "probe_over": probe / seconds}
        rows.append({"shape": size, "score": score.name, "seconds": seconds, "floor": kind, **ratios})
    print(
        f"\nn = {n:,}, p = {p:,}, C = {c}: covariance with eigenvalues {floors['covariance']:.3f} s, product "
        f"{floors['sums'] * 1e3:.1f} ms, probe {probe:.1f} s"
    )
    for row in rows:
        print(
            f"  {row['score']:<18} {row['seconds']:8.3f} s   {row['over_floor']:6.2f}x of {row['floor']:<10}   "
            f"{row['probe_over']:8,.0f}x cheaper than the probe",
            flush=True,
        )
    return rows


def _value(score: Score, inputs: dict[str, Any]) -> float | None:
    return evaluate(ScoreInputs(**inputs), [score.name])[score.name].value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=shape, action="append", metavar="N,P,C")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--append", type=Path, default=Path("benchmarks/scores.json"), metavar="FILE")
    options = parser.parse_args()
    with cpu_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row for size in options.shape or SHAPES for row in measure(size, options.repeat)]
    append_record(options.append, rows)


if __name__ == "__main__":
    main()
