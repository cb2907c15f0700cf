"""What one measuring pass over a network costs, against one plain forward pass over the same data.

    python benchmarks/profile.py                       # all cases, three repetitions (about five minutes)
    python benchmarks/profile.py --case resnet18 --repeat 5

A measuring pass reads the data once, in batches of 128, reduces what every weight layer reads to class statistics, and
evaluates what needs no eigenvalues. `two passes` adds nearest class means and sharper spectra of sketches, which need a
second pass over the features; `read twice` is the same, but no features are kept, so that the network runs twice. `whole`
is everything that `profile` reports: all metrics, the second pass, spectra. The plain pass is the same loop without any
hook. Both alternate in one process; the ratio of the minima is printed, and the median of the ratios of each round. Peak memory is measured in processes of their own, each above the
peak of the plain pass. Inputs are random: neither cost depends on them. Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import json
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.features import seconds
from benchmarks.record import append_record
from collapselab import profile
from collapselab.models import open_model
from collapselab.probes import kept

BATCH, CLASSES = 128, 10
# What one pass over the data gives without eigenvalues of its covariances; fuzziness reads the covariance whole.
ONE_PASS = (
    "normalized_within",
    "cdnv",
    "equiangularity",
    "cosine_similarity",
    "fuzziness",
    "stable_rank_low",
)
# These need the features of the train split twice.
TWO_PASSES = (*ONE_PASS, "ncc_accuracy", "ncc_agreement")


@dataclass(frozen=True)
class Case:
    """One measurement: a network, how it is measured, and the bar for its ratio."""

    model: str
    shape: tuple[int, ...]
    samples: int
    layers: str | None
    scatter: str
    bar: float | None
    what: Literal["one pass", "two passes", "read twice", "whole"] = "one pass"


CASES = {
    "mlp, full": Case("mlp", (1, 28, 28), 50_000, None, "full", 2.5),
    "mlp, sketch": Case("mlp", (1, 28, 28), 50_000, None, "sketch", 1.5),
    "mlp, last layer": Case("mlp", (1, 28, 28), 50_000, "layers.10", "auto", 1.2),
    "resnet18": Case("torchvision/resnet18", (3, 32, 32), 10_000, None, "auto", 1.5),
    "resnet18, two passes": Case(
        "torchvision/resnet18", (3, 32, 32), 10_000, None, "auto", 1.5, what="two passes"
    ),
    "resnet18, read twice": Case(
        "torchvision/resnet18", (3, 32, 32), 10_000, None, "auto", None, what="read twice"
    ),
    "resnet18, last layer": Case("torchvision/resnet18", (3, 32, 32), 10_000, "fc", "auto", 1.05),
    "mlp, whole": Case("mlp", (1, 28, 28), 50_000, None, "auto", None, what="whole"),
    "resnet18, whole": Case("torchvision/resnet18", (3, 32, 32), 10_000, None, "auto", None, what="whole"),
}
MEMORY_BAR = 1.5 * 2**30


class Loader:
    """Random batches of all classes; the same at each reading."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(case.samples) % CLASSES
        self._inputs = torch.randn(min(case.samples, 4096), *case.shape, generator=generator)

    def __len__(self) -> int:
        return -(-len(self.labels) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), BATCH):
            labels = self.labels[start : start + BATCH]
            at = start % len(self._inputs)
            yield self._inputs[at : at + len(labels)], labels


def build(case: Case) -> tuple[nn.Module, Loader]:
    model = open_model(case.model, num_classes=CLASSES, input_shape=case.shape).eval()
    return model, Loader(case)


def plain(model: nn.Module, loader: Loader) -> None:
    with torch.no_grad():
        for inputs, _ in loader:
            model(inputs)


def measuring(case: Case, model: nn.Module, loader: Loader) -> None:
    metrics = {"one pass": ONE_PASS, "whole": None}.get(case.what, TWO_PASSES)
    counts = torch.bincount(loader.labels)
    with patch.object(kept, "SHARE", 0.0 if case.what == "read twice" else kept.SHARE):
        found = profile(
            model,
            iter(loader) if case.what == "one pass" else loader,  # an iterator can be read once
            layers=case.layers,
            scatter=case.scatter,  # pyright: ignore[reportArgumentType] one of the literals
            class_counts=counts,
            metrics=metrics,
        )
    assert all(layer.train["normalized_within"] is not None for layer in found.layers)


def time_case(name: str, case: Case, repeat: int) -> dict[str, object]:
    model, loader = build(case)
    small = Case(case.model, case.shape, 512, case.layers, case.scatter, case.bar, case.what)
    plain(model, Loader(small))  # warm up
    measuring(small, model, Loader(small))
    pairs = [
        (seconds(lambda: plain(model, loader)), seconds(lambda: measuring(case, model, loader)))
        for _ in range(repeat)
    ]
    row: dict[str, object] = {
        "case": name,
        "samples": case.samples,
        "plain_seconds": min(a for a, _ in pairs),
        "seconds": min(b for _, b in pairs),
        "ratio_of_minima": min(b for _, b in pairs) / min(a for a, _ in pairs),
        "median_ratio": median(b / a for a, b in pairs),
        "bar": case.bar,
    }
    bar = "no bar" if case.bar is None else f"bar {case.bar:g}x"
    print(
        f"{name:<22} {row['ratio_of_minima']:5.2f}x of one forward pass (median {row['median_ratio']:.2f}x, {bar}; "
        f"{row['seconds']:.2f} s against {row['plain_seconds']:.2f} s)",
        flush=True,
    )
    return row


def print_peak(name: str, what: str) -> None:
    """In a process of its own: the peak resident memory of one of the two passes."""
    case = CASES[name]
    model, loader = build(case)
    plain(model, Loader(Case(case.model, case.shape, 512, None, "auto", None)))
    if what == "plain":
        plain(model, loader)
    else:
        measuring(case, model, loader)
    # On Linux ru_maxrss would begin with the size of the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    peak = own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak * 1024}))


def memory_row(name: str) -> dict[str, object]:
    peaks = {}
    for what in ("plain", "measuring"):
        command = [sys.executable, __file__, "--peak", name, what]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[what] = json.loads(printed.splitlines()[-1])["peak"]
    above = peaks["measuring"] - peaks["plain"]
    print(
        f"{name:<22} {above / 2**20:5.0f} MiB above the plain pass (bar {MEMORY_BAR / 2**20:.0f} MiB)",
        flush=True,
    )
    return {"case": name, "bytes_above_plain": above, "bar": MEMORY_BAR}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--append", type=Path, default=Path("benchmarks/profile.json"), metavar="FILE")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(*options.peak)
        return
    names = options.case or list(CASES)
    rows = [time_case(name, CASES[name], options.repeat) for name in names]
    rows += [memory_row(name) for name in names if name == "resnet18, whole"]
    append_record(options.append, rows)


if __name__ == "__main__":
    main()
