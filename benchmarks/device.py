"""What statistics and profiles cost on an accelerator, against floors timed in the same process.

    python benchmarks/device.py                     # on a CUDA device: every row (at most five minutes)
    python benchmarks/device.py --row sums          # rows whose names contain a text
    python benchmarks/device.py --device cpu --small

The floor of sums is one float32 `X.T @ X` on the device, TF32 off; that of a profile is one pass of the network over the
same data, without hooks. Floor and candidate alternate, and the device has finished before a clock is read; the ratio of
the minima is printed. Numbers are checked against float64 on the CPU: sums against two-pass sums of all rows, profiles
against those of the features that the last layer reads. Inputs are random: no cost depends on them. A row whose numbers
are wrong ends the script with an error after all rows have run. Results are appended to a JSON file.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.features import SCALARS, accumulate, make, seconds
from benchmarks.record import append_record
from collapselab import ClassStats, profile
from collapselab.errors import InputError
from collapselab.metrics import MetricInputs, evaluate
from collapselab.numerics import full_precision_products

# Traces are exact to 1e-6, float32 products to a few hundred eps32 of the largest entry.
TRACE_TOLERANCE, PRODUCT_TOLERANCE = 1e-6, 5e-5
# Features of a network differ between two passes by the order in which its kernels add.
PROFILE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sums:
    """Features, and the bars for sums in batches of each size and for sums and all scalars."""

    n: int
    p: int
    c: int
    bars: dict[int, float | None]
    scalars_bar: float | None = None


@dataclass(frozen=True)
class Network:
    """A network of torchvision and its data; bars by name of the layers and of the reduction, None for no bar."""

    model: str
    size: int
    samples: int
    batch: int
    last: str
    rows: dict[tuple[str, str], float | None]


SUMS = (
    Sums(200_000, 2048, 1000, {512: 1.5, 8192: 1.3}, scalars_bar=5.0),
    Sums(50_000, 2048, 1000, {512: 2.5, 8192: 2.0}),
    Sums(50_000, 512, 10, {512: 20.0, 8192: 6.0}),
)
NETWORKS = (
    Network(
        "resnet18",
        32,
        20_480,
        512,
        "fc",
        {("last", "flatten"): 2.3, ("all", "gap"): 3.0, ("all", "flatten"): 6.0},
    ),
    Network("resnet50", 224, 1024, 128, "fc", {("last", "flatten"): 2.2, ("all", "gap"): 3.0}),
    Network("vit_b_16", 224, 1024, 128, "heads.head", {("last", "flatten"): 2.2, ("all", "mean"): 3.0}),
)
SMALL_SUMS = (
    Sums(3000, 96, 20, {64: None, 1024: None}, scalars_bar=None),
    Sums(1000, 32, 4, {64: None, 1024: None}),
)
SMALL_NETWORKS = (
    Network(
        "resnet18",
        32,
        96,
        32,
        "fc",
        {("last", "flatten"): None, ("all", "gap"): None, ("all", "flatten"): None},
    ),
    Network("resnet50", 32, 32, 16, "fc", {("last", "flatten"): None, ("all", "gap"): None}),
    Network("vit_b_16", 32, 16, 8, "heads.head", {("last", "flatten"): None, ("all", "mean"): None}),
)
MEMORY_BAR = 160 * 2**20
CLASSES = 10


# ---------------------------------------------------------------- floors and records


@dataclass(frozen=True)
class Bench:
    """Where things run, how often, and texts in the names of the rows to run."""

    device: str
    repeat: int
    rows: tuple[str, ...]

    def wants(self, *names: str) -> bool:
        """Return whether any of these rows is to be run."""
        return any(text in name for text in self.rows for name in names)

    def compare(
        self, name: str, floor: Callable[[], object], run: Callable[[], object], bar: float | None
    ) -> dict[str, Any]:
        """Time a candidate and its floor in turns, after one round to warm up."""
        seconds(floor, self.device)
        seconds(run, self.device)
        pairs = [(seconds(floor, self.device), seconds(run, self.device)) for _ in range(self.repeat)]
        least, fastest = min(a for a, _ in pairs), min(b for _, b in pairs)
        said = "no bar" if bar is None else f"bar {bar:g}x"
        print(
            f"{name:<48} {fastest / least:7.2f}x ({said}; {fastest * 1e3:.2f} ms against {least * 1e3:.2f} ms)",
            flush=True,
        )
        return {
            "row": name,
            "floor_seconds": least,
            "seconds": fastest,
            "ratio_of_minima": fastest / least,
            "bar": bar,
        }


def checked(row: dict[str, Any], errors: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Add the largest relative errors of a row, and whether each is within its tolerance."""
    wrong = [name for name, (error, tolerance) in errors.items() if not error <= tolerance]
    for name in wrong:
        print(f"    wrong: {name} is off by {errors[name][0]:.2g}, allowed {errors[name][1]:g}", flush=True)
    return row | {"errors": {name: error for name, (error, _) in errors.items()}, "correct": not wrong}


# ---------------------------------------------------------------- sums and scalars


class Reference:
    """Two-pass float64 sums on the CPU, written without the package."""

    def __init__(self, features: Tensor, labels: Tensor, c: int) -> None:
        self.counts = torch.bincount(labels, minlength=c)
        p = features.shape[1]
        self.means = torch.zeros(c, p, dtype=torch.float64)
        self.within = torch.zeros(p, p, dtype=torch.float64)
        for rows, classes in zip(features.split(8192), labels.split(8192), strict=True):
            self.means.index_add_(0, classes, rows.double())
        self.means /= self.counts[:, None]
        scale = (self.counts * c).double().rsqrt()
        for rows, classes in zip(features.split(8192), labels.split(8192), strict=True):
            deviations = (rows.double() - self.means[classes]) * scale[classes][:, None]
            self.within += deviations.T @ deviations

    @cached_property
    def scalars(self) -> dict[str, float]:
        """Some metrics of balanced weighting, from their formulas."""
        centred = self.means - self.means.mean(0)
        within, between = float(self.within.trace()), float(centred.square().sum(1).mean())
        norms = torch.linalg.vector_norm(centred, dim=1)
        return {
            "normalized_within": within / (within + between),
            "squared_distance": within / between,
            "equinorm": float(norms.std(correction=0) / norms.mean()),
            "stable_rank": within / float(torch.linalg.eigvalsh(self.within)[-1]),
        }

    def errors_of(self, stats: ClassStats) -> dict[str, tuple[float, float]]:
        within = stats.within_covariance("balanced").cpu()
        return {
            "counts": (float((stats.counts.cpu() - self.counts).abs().max()), 0.0),
            "means": (_error(stats.class_means.cpu(), self.means), TRACE_TOLERANCE),
            "trace": (
                abs(stats.within_trace() / float(self.within.trace()) - 1),
                TRACE_TOLERANCE,
            ),
            "covariance": (_error(within, self.within), PRODUCT_TOLERANCE),
        }


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def sums_rows(case: Sums, bench: Bench) -> Iterator[dict[str, Any]]:
    shape = f"n={case.n} p={case.p} C={case.c}"
    names = {batch: f"sums {shape} batch={batch}" for batch in case.bars}
    scalars_name, memory_name = f"sums and scalars {shape}", f"peak memory above the features {shape}"
    if not bench.wants(*names.values(), scalars_name, memory_name):
        return
    on_cpu, labels, weight = make(case.n, case.p, case.c)
    reference = Reference(on_cpu, labels, case.c)
    features, weight = on_cpu.to(bench.device), weight.to(bench.device)
    del on_cpu

    def floor() -> Tensor:
        with full_precision_products(features.device):
            return features.T @ features

    def summed(batch: int) -> ClassStats:
        stats = accumulate(features, labels, case.c, "full", batch)
        stats.within_covariance("balanced")  # includes the rows still waiting
        return stats

    def scalars() -> dict[str, Any]:
        stats = accumulate(features, labels, case.c, "full", max(case.bars))
        return evaluate(SCALARS, MetricInputs(stats, weight=weight))

    for batch, name in names.items():
        if bench.wants(name):
            row = bench.compare(name, floor, partial(summed, batch), case.bars[batch])
            yield checked(row, reference.errors_of(summed(batch)))
    if case is SUMS[0] or case is SMALL_SUMS[0]:
        if bench.wants(scalars_name):
            row = bench.compare(scalars_name, floor, scalars, case.scalars_bar)
            found = scalars()
            errors = {
                name: (abs(found[name] / value - 1), PRODUCT_TOLERANCE)
                for name, value in reference.scalars.items()
            }
            yield checked(row, errors)
        if bench.wants(memory_name) and bench.device == "cuda":
            yield memory_row(memory_name, partial(accumulate, features, labels, case.c, "full", 512))


def memory_row(name: str, run: Callable[[], object]) -> dict[str, Any]:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    above = torch.cuda.max_memory_allocated() - before
    print(f"{name:<48} {above / 2**20:7.0f} MiB (bar {MEMORY_BAR / 2**20:.0f} MiB)", flush=True)
    return {"row": name, "bytes": above, "bar": MEMORY_BAR}


# ---------------------------------------------------------------- profiles


class Loader:
    """Random inputs on the device and labels on the CPU, as loaders yield them; the same at each reading."""

    def __init__(self, case: Network, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(case.samples) % CLASSES
        shape = (min(case.samples, 4096), 3, case.size, case.size)
        self._inputs = torch.randn(shape, generator=generator).to(device)
        self._batch = case.batch

    def __len__(self) -> int:
        return -(-len(self.labels) // self._batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), self._batch):
            labels = self.labels[start : start + self._batch]
            at = start % len(self._inputs)
            yield self._inputs[at : at + len(labels)], labels


def build(case: Network, device: str) -> nn.Module:
    from torchvision import models

    torch.manual_seed(0)
    arguments = {"image_size": case.size} if case.model.startswith("vit") else {}
    return getattr(models, case.model)(num_classes=CLASSES, **arguments).eval().to(device)


def plain(model: nn.Module, loader: Loader) -> None:
    with torch.no_grad():
        for inputs, _ in loader:
            model(inputs)


def normalized_within(model: nn.Module, last: str, loader: Loader) -> float:
    """Tr Sigma_W / Tr Sigma_T of what the last layer reads, in float64 on the CPU."""
    rows: list[Tensor] = []
    hook = model.get_submodule(last).register_forward_pre_hook(
        lambda _module, inputs: rows.append(inputs[0].flatten(1).double().cpu())
    )
    plain(model, loader)
    hook.remove()
    features = torch.cat(rows)
    means = torch.stack([features[loader.labels == c].mean(0) for c in range(CLASSES)])
    within = [(features[loader.labels == c] - means[c]).square().sum(1).mean() for c in range(CLASSES)]
    trace = float(torch.stack(within).mean())
    return trace / (trace + float((means - means.mean(0)).square().sum(1).mean()))


def profile_rows(case: Network, bench: Bench) -> Iterator[dict[str, Any]]:
    title = f"profile {case.model} {case.size}x{case.size}"
    names = {
        (which, how): f"{title}, {which} layer{'s' * (which == 'all')}, {how}" for which, how in case.rows
    }
    flat_name = f"{title}, all layers, flatten, sketches"
    if not bench.wants(*names.values(), flat_name):
        return
    model, loader = build(case, bench.device), Loader(case, bench.device)
    expected = normalized_within(model, case.last, loader)
    for (layers, reduction), name in names.items():
        if not bench.wants(name):
            continue

        def measured(which: str = layers, reduce: str = reduction) -> Any:
            # Both passes: all metrics, the nearest class means among them.
            return profile(model, loader, layers=case.last if which == "last" else None, reduce=reduce)

        row = bench.compare(name, partial(plain, model, loader), measured, case.rows[layers, reduction])
        found = measured().layers[-1].train["normalized_within"]
        yield checked(row, {"normalized_within": (abs(found / expected - 1), PROFILE_TOLERANCE)})
    if bench.wants(flat_name) and case.model == "resnet50":
        yield flattened_row(flat_name, model, loader)


def flattened_row(name: str, model: nn.Module, loader: Loader) -> dict[str, Any]:
    """Too much memory must be said before the first pass; what fits is measured."""
    start = time.perf_counter()
    try:
        profile(model, loader, reduce="flatten", scatter="sketch", metrics=["stable_rank"])
        outcome = "measured"
    except InputError as error:
        outcome = str(error)
    took = time.perf_counter() - start
    print(f"{name:<48} {took:7.2f} s: {outcome}", flush=True)
    return {"row": name, "seconds": took, "outcome": outcome}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a test")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--row", action="append", metavar="TEXT", help="only rows whose name contains this; can be repeated"
    )
    parser.add_argument("--append", type=Path, default=Path("benchmarks/device.json"), metavar="FILE")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; use --device cpu --small")
    bench = Bench(options.device, options.repeat, tuple(options.row or [""]))
    rows: list[dict[str, Any]] = []
    for case in SMALL_SUMS if options.small else SUMS:
        rows += sums_rows(case, bench)
    for case in SMALL_NETWORKS if options.small else NETWORKS:
        rows += profile_rows(case, bench)
    append_record(options.append, rows)
    if not all(row.get("correct", True) for row in rows):
        sys.exit("some numbers differ from those in float64: see above")


if __name__ == "__main__":
    main()
