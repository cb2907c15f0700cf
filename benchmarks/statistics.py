"""What exact statistics and metrics cost, against floors timed in the same process.

    python benchmarks/statistics.py                 # both shapes, five repetitions (about two minutes)
    python benchmarks/statistics.py --repeat 3 --shape 50000,512,10

The floor of full statistics is one float32 `X.T @ X` over the same features, the least a covariance can cost; that of
traces is one `X.sum()`, the least any pass can. Features are fed in batches of 512. Floor and candidate alternate, so
that a drift of the machine hits both; the ratio of the minima is printed, and the median of the ratios of each round.
Peak memory above the features is measured in processes of their own. Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import torch

from benchmarks.features import SCALARS, accumulate, make, seconds
from benchmarks.record import append_record, shape
from collapselab import ClassStats
from collapselab.metrics import MetricInputs, evaluate
from collapselab.metrics.decision import nearest_centre_rule

BATCH = 512
SHAPES = ((50_000, 2048, 1000), (50_000, 512, 10))


def candidates(
    features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor
) -> dict[str, tuple[str, Callable[[], object], float]]:
    """Name to (floor, what is timed, the bar for its ratio); None as bar where there is none."""
    n, p = features.shape
    c = len(weight)
    large = p >= 2048

    def full() -> ClassStats:
        stats = accumulate(features, labels, c, "full", BATCH)
        stats.within_covariance("balanced")  # includes the rows still waiting
        return stats

    def scalars() -> None:
        inputs = MetricInputs(accumulate(features, labels, c, "full", BATCH), weight=weight)
        values = evaluate(SCALARS, inputs)
        assert all(value is not None for value in values.values()), values

    means = accumulate(features, labels, c, "trace", BATCH).class_means

    def nearest() -> None:
        rule = nearest_centre_rule(means)
        for start in range(0, n, BATCH):
            rule(features[start : start + BATCH])

    def traces() -> None:
        inputs = MetricInputs(accumulate(features, labels, c, "trace", BATCH))
        evaluate(
            [m for m in SCALARS if m.name in ("normalized_within", "cosine_similarity", "class_separation")],
            inputs,
        )

    return {
        "accumulation": ("product", full, 1.3 if large else 1.4),
        "accumulation and scalars": ("product", scalars, 2.5 if large else 2.2),
        "nearest centres": ("product", nearest, 0.6),
        "traces and cosines": ("sum", traces, 10.0),
    }


def time_shape(n: int, p: int, c: int, repeat: int) -> list[dict[str, object]]:
    features, labels, weight = make(n, p, c)
    floors: dict[str, Callable[[], object]] = {
        "product": lambda: features.T @ features,
        "sum": lambda: features.sum(),
    }
    rows = []
    for name, (floor, run, bar) in candidates(features, labels, weight).items():
        floors[floor]()  # warm up
        run()
        pairs = [(seconds(floors[floor]), seconds(run)) for _ in range(repeat)]
        least = min(b for _, b in pairs) / min(a for a, _ in pairs)
        middle = median(b / a for a, b in pairs)
        rows.append(
            {
                "shape": [n, p, c],
                "what": name,
                "floor": floor,
                "floor_seconds": min(a for a, _ in pairs),
                "seconds": min(b for _, b in pairs),
                "ratio_of_minima": least,
                "median_ratio": middle,
                "bar": bar,
            }
        )
        print(
            f"n={n} p={p} C={c}  {name:<25} {least:6.2f}x of one {floor} (median {middle:.2f}x, bar {bar:g}x; "
            f"{rows[-1]['seconds']:.3f} s against {rows[-1]['floor_seconds']:.3f} s)",
            flush=True,
        )
    return rows


def peak_above_features(n: int, p: int, c: int) -> None:
    """In a process of its own: peak memory of accumulation and scalars above process and features."""
    features, labels, weight = make(n, p, c)
    (features[:4096].T @ features[:4096]).sum()  # the library's own buffers
    process = psutil.Process()
    base = process.memory_info().rss
    peak, done = base, False

    def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    evaluate(SCALARS, MetricInputs(accumulate(features, labels, c, "full", BATCH), weight=weight))
    done = True
    watcher.join()
    print(json.dumps({"above": peak - base}))


def memory_row(n: int, p: int, c: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--memory", f"{n},{p},{c}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    above = json.loads(printed)["above"]
    bar = 8 * (6 * p * p + 8 * c * p) + 128 * 2**20
    print(
        f"n={n} p={p} C={c}  peak above the features   {above / 2**20:6.0f} MiB (bar {bar / 2**20:.0f} MiB)",
        flush=True,
    )
    return {"shape": [n, p, c], "what": "peak memory", "bytes": above, "bar": bar}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--shape", type=shape, action="append", metavar="N,P,C")
    parser.add_argument("--append", type=Path, default=Path("benchmarks/statistics.json"), metavar="FILE")
    parser.add_argument("--memory", type=shape, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        peak_above_features(*options.memory)
        return
    rows = []
    for n, p, c in options.shape or SHAPES:
        rows += time_shape(n, p, c, options.repeat)
        rows.append(memory_row(n, p, c))
    append_record(options.append, rows)


if __name__ == "__main__":
    main()
