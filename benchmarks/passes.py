"""What each pass of sums without a covariance costs, relative to one `X.sum()` over the same features.

    python benchmarks/passes.py                     # both shapes, seven rounds (under a minute)
    python benchmarks/passes.py --threads 1

Every line is one operation of `ClassMoments.add` on batches of 512 rows, in the memory that the package uses for it. All
alternate with `X.sum()` in one process; the median of the ratios is printed. Their sum is the least that these operations
can take together; the last line is what the package takes.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: the names of its files would hide the standard library's
sys.path.append(__file__.rpartition("benchmarks")[0])

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks.features import accumulate, make, seconds
from benchmarks.record import shape
from benchmarks.statistics import BATCH, SHAPES
from collapselab.statistics.class_sums import ClassSums
from collapselab.statistics.rows import squared_norms


def passes(
    features: Tensor, labels: Tensor, num_classes: int
) -> dict[str, Callable[[Tensor, Tensor], object]]:
    """Return what is done with the rows and labels of a batch, by name."""
    dim = features.shape[1]
    centres = torch.randn(num_classes, dim)
    about, deviations = (torch.randn(BATCH, dim) for _ in range(2))
    sums = ClassSums(num_classes, dim, torch.device("cpu"))
    weights = torch.rand(BATCH, dtype=torch.float64)

    def sum_by_class(_rows: Tensor, classes: Tensor) -> None:
        here = torch.bincount(classes, minlength=num_classes)
        sums.add(deviations[: len(classes)], classes, here, weights[: len(classes)])

    return {
        "read the centre of each row": lambda rows, classes: torch.index_select(
            centres, 0, classes, out=about[: len(rows)]
        ),
        "subtract it": lambda rows, _: torch.sub(rows, about[: len(rows)], out=deviations[: len(rows)]),
        "norms of the deviations": lambda rows, _: squared_norms(deviations[: len(rows)]),
        "their products with the centre": lambda rows, _: (
            about[: len(rows)].mul_(deviations[: len(rows)]).sum(1)
        ),
        "sums by class, plain and of unit vectors": sum_by_class,
    }


def _over(batches: list[tuple[Tensor, Tensor]], run: Callable[[Tensor, Tensor], object]) -> None:
    for rows, classes in batches:
        run(rows, classes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shape", type=shape, action="append", metavar="N,P,C")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for n, p, c in options.shape or SHAPES:
        features, labels, _ = make(n, p, c)
        batches = list(zip(features.split(BATCH), labels.split(BATCH), strict=True))

        timed: dict[str, Callable[[], object]] = {
            name: partial(_over, batches, run) for name, run in passes(features, labels, c).items()
        }
        timed["all of it"] = partial(accumulate, features, labels, c, "trace", BATCH)
        ratios: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(options.repeat):
            for name, run in timed.items():
                ratios[name].append(seconds(run) / min(seconds(features.sum) for _ in range(2)))
        for name, values in ratios.items():
            print(f"n={n} p={p} C={c}  {name:<42} {median(values):5.1f}x of one sum", flush=True)


if __name__ == "__main__":
    main()
