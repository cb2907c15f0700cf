"""The bytes that statistics are said to take, against those that they hold."""

from __future__ import annotations

from weakref import WeakValueDictionary

import pytest
import torch

from collapselab.choices import Scatter
from collapselab.statistics import ClassStats, shared
from collapselab.statistics.memory import moments_bytes, scatter_bytes, shared_bytes
from collapselab.statistics.shared import shared_directions, shared_scratch
from memory_tracking import reachable_bytes

# What is not counted: labels of waiting rows are, single numbers are not.
_TOLERANCE = 0.001


@pytest.fixture(autouse=True)
def _own_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scratch of statistics that other tests still hold."""
    monkeypatch.setattr(shared, "_scratch", WeakValueDictionary())


def _filled(dim: int, num_classes: int, scatter: Scatter, dtype: torch.dtype) -> ClassStats:
    """Return statistics of enough rows that everything is allocated: totals, a whole block of scratch."""
    stats = ClassStats(num_classes, dim, scatter)
    rows = max(2048, 80 * num_classes, 2**20 // dim + 1)
    features, labels = torch.randn(rows, dim, dtype=dtype), torch.arange(rows) % num_classes
    for _ in range(5):  # more rows than wait for a product
        stats.update(features, labels)
    # Partial sums are for blocks of few rows per class.
    stats.update(features[:num_classes], labels[:num_classes])
    return stats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scatter", ["trace", "full", "per_class", "sketch"])
@pytest.mark.parametrize(("dim", "num_classes"), [(16, 3), (96, 20), (700, 5), (6000, 4)])
def test_bytes_are_those_that_are_held(
    dim: int, num_classes: int, scatter: Scatter, dtype: torch.dtype
) -> None:
    if dim > 1000 and scatter in ("full", "per_class"):
        return  # a matrix of 300 MB
    stats = _filled(dim, num_classes, scatter, dtype)
    said = moments_bytes(stats, dtype) + scatter_bytes(stats, dtype) + shared_bytes([stats], dtype)
    assert reachable_bytes(stats) == pytest.approx(said, rel=_TOLERANCE)


def test_statistics_of_equal_width_share_scratch_and_gaussian() -> None:
    one, other = (_filled(500, 3, "sketch", torch.float32) for _ in range(2))
    alone = moments_bytes(one) + scatter_bytes(one)
    assert reachable_bytes([one, other]) == pytest.approx(
        2 * alone + shared_bytes([one, other]), rel=_TOLERANCE
    )
    assert shared_bytes([one, other]) == shared_bytes([one])


def test_a_sketch_of_few_rows_holds_them_too() -> None:
    stats = ClassStats(3, 500, "sketch")
    few = scatter_bytes(stats, num_samples=64) - scatter_bytes(stats, num_samples=65)
    features, labels = torch.randn(60, 500), torch.arange(60) % 3
    stats.update(features, labels)
    assert stats._within is not None
    assert reachable_bytes(stats._within._pending) == few + 64 * 8  # labels
    stats.update(features[:5], labels[:5])
    assert reachable_bytes(stats._within._pending) == 0


def test_scratch_is_that_of_the_dtypes_of_all_rows() -> None:
    wide, double = (_filled(500, 3, "trace", dtype) for dtype in (torch.float32, torch.float64))
    dtypes = [torch.float32, torch.float64]
    held = moments_bytes(wide) + moments_bytes(double, torch.float64) + shared_bytes([wide, double], dtypes)
    assert reachable_bytes([wide, double]) == pytest.approx(held, rel=_TOLERANCE)


def test_what_is_shared_is_freed_with_the_last_that_holds_it() -> None:
    stats = _filled(500, 3, "sketch", torch.float32)
    assert shared_scratch() is shared_scratch()
    size = reachable_bytes(shared_scratch())
    assert size > 0
    del stats
    assert reachable_bytes(shared_scratch()) == 0


def test_directions_of_other_seeds_are_others() -> None:
    cpu = torch.device("cpu")
    one, same, other = (shared_directions(50, 4, seed, torch.float32, cpu) for seed in (0, 0, 1))
    assert one is same
    assert not torch.equal(one.exact, other.exact)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(one.exact, torch.randn(50, 4, dtype=torch.float64, generator=generator))
    assert torch.equal(one.of_products, one.exact.float())
