"""Checks that wait: an update reads no value, and an error still names batch and row."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from collapselab.statistics import ClassStats, Scatter, gathering
from collapselab.statistics.checking import RefusedBatch
from collapselab.statistics.scatter import SCATTERS
from collapselab.statistics.sorted_sums import RowsByClass
from dispatch_counts import DispatchCounts
from helpers import EPS32, assert_close, summary
from memory_tracking import TrackedMemory

DIM, CLASSES = 70, 5
# A slice and a copy for rows and for labels.
MOST_OPERATIONS = 25
# Ranges, outgrown centres, and the state of the centres; while classes are new and centres are judged, more.
MOST_READ_BACKS = 3
# Run-time type checks, on in these tests only, may speak before the code does.
REFUSED = (ValueError, jaxtyping.TypeCheckError)

all_scatters = pytest.mark.parametrize("scatter", SCATTERS)


def draw(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    means = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9))
    return (torch.randn(n, DIM, generator=generator) + means[labels] + 3).to(dtype), labels


def deferred(scatter: Scatter = "full", **kwargs: Any) -> ClassStats:
    return ClassStats(CLASSES, DIM, scatter, sketch_size=4, checks="deferred", **kwargs)


def eager(scatter: Scatter = "full", **kwargs: Any) -> ClassStats:
    return ClassStats(CLASSES, DIM, scatter, sketch_size=4, checks="eager", **kwargs)


@all_scatters
def test_an_update_that_gathers_reads_nothing_back(scatter: Scatter) -> None:
    stats = deferred(scatter, class_counts=[9, 1, 2, 3, 4])
    stats.update(*draw(32))
    rows, labels = draw(32, 1)
    with DispatchCounts() as counts:
        stats.update(rows, labels)
    assert not counts.read_backs
    assert 0 < counts.operations.total() <= MOST_OPERATIONS


def test_the_first_update_reads_nothing_back_either() -> None:
    stats = deferred(growing=True)
    rows, labels = draw(32)
    with DispatchCounts() as counts:
        stats.update(rows, labels)
    assert not counts.read_backs


def test_eager_checks_read_values_at_once() -> None:
    """The counter would see them."""
    stats = eager()
    with DispatchCounts() as counts:
        stats.update(*draw(32))
    assert counts.read_backs


@pytest.mark.parametrize("scatter", ["full", "trace", "sketch"])
def test_a_chunk_of_known_classes_costs_few_read_backs(
    scatter: Scatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_MAX_CHUNK_ROWS", 100)
    stats = deferred(scatter)
    rows, labels = draw(2000)[0], torch.arange(2000) % CLASSES
    stats.update(rows, labels)  # centres are judged with 20, 80, 320 and 1280 rows of their class
    stats.update(rows[:60], labels[:60])
    with DispatchCounts() as counts:
        stats.update(rows[:60], labels[:60])
    assert 1 <= counts.read_backs.total() <= MOST_READ_BACKS


@all_scatters
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 32, 100, 1000], ids="batch{}".format)
def test_both_modes_agree(
    scatter: Scatter, dtype: torch.dtype, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_MAX_CHUNK_ROWS", 100)
    rows, labels = draw(450, dtype=dtype)
    counts = torch.bincount(labels)
    found = []
    for stats in (deferred(scatter, class_counts=counts), eager(scatter, class_counts=counts)):
        for start in range(0, 450, batch):
            stats.update(rows[start : start + batch], labels[start : start + batch])
        found.append(summary(stats))
    for name, expected in found[1].items():
        assert_close(found[0][name], expected, rel=32 * EPS32, why="float32 products of rows in other blocks")


def test_labels_and_dtypes_of_every_kind_in_one_stream() -> None:
    rows, labels = draw(40, dtype=torch.float64)
    stats = deferred()
    stats.update(rows[:10], labels[:10].int())
    stats.update(rows[10:20].float(), labels[10:20].short())
    stats.update(rows[20:20], labels[20:20])
    stats.update(rows[20:], labels[20:])
    assert stats.counts.tolist() == torch.bincount(labels).tolist()
    expected = torch.stack([rows[labels == c].mean(0) for c in range(CLASSES)])
    assert_close(stats.class_means, expected, rel=EPS32, why="ten rows were rounded to float32")


@pytest.mark.parametrize("checks", ["eager", "deferred"])
def test_batches_of_inference_mode_and_with_gradients(checks: Any) -> None:
    """Sums that are created in inference mode are changed outside of it, at the latest when they are read."""
    rows, labels = draw(40)
    stats = ClassStats(CLASSES, DIM, checks=checks)
    with torch.inference_mode():
        stats.update(rows[:20] * 1, labels[:20])
    stats.update(rows[20:].clone().requires_grad_(), labels[20:])
    assert stats.num_samples == 40
    assert not stats.class_means.requires_grad


@all_scatters
def test_a_centre_that_proves_poor_is_moved_before_statistics_are_read(scatter: Scatter) -> None:
    """The first row of a class is far from the others: 15 come, never four times as many as there were."""
    rows = torch.cat((torch.full((1, DIM), 1000.0), torch.randn(15, DIM, generator=torch.manual_seed(0))))
    labels = torch.zeros(16, dtype=torch.int64)
    stats = deferred(scatter)
    with torch.inference_mode():
        for part in (slice(0, 1), slice(1, 4), slice(4, 16)):
            stats.update(rows[part], labels[part])
            assert stats.num_samples == part.stop  # adds what waits
    moments = stats._moments
    assert moments is not None
    assert float(moments.centres[0].max()) < 100  # the mean of all, not the first row
    more = rows[1:] + 1
    stats.update(more, labels[1:])
    everything = torch.cat((rows, more)).double()
    expected = everything.var(0, correction=0).sum()
    assert_close(stats.class_variances[:1], expected[None], rel=64 * EPS32, why="16 rows about the first one")


def test_large_blocks_take_little_memory() -> None:
    """With 1000 classes of 2048 features: totals, one chunk, its deviations, and a temporary; not a block twice."""
    n, dim, num_classes = 8192, 2048, 1000
    rows, labels = torch.randn(n, dim, generator=torch.manual_seed(0)), torch.arange(n) % num_classes
    counts = torch.arange(num_classes) % 9 + 1
    with TrackedMemory() as memory:
        stats = ClassStats(num_classes, dim, class_counts=counts, checks="deferred")
        for start in range(0, n, 512):
            stats.update(rows[start : start + 512], labels[start : start + 512])
        assert stats.num_samples == n
    assert memory.peak < 160 * 2**20


# ---------------------------------------------------------------- batches that are refused


def test_a_refused_batch_is_named_and_the_others_are_added() -> None:
    stats, clean = deferred(), eager()
    for number in range(6):
        rows, labels = draw(20, number)
        if number == 3:
            rows[7, 2] = torch.nan
        else:
            clean.update(rows, labels)
        stats.update(rows, labels)
    with pytest.raises(
        RefusedBatch,
        match=r"^batch 3, features contain NaN or infinity, the first in row 7 of this batch \(counting from 0\)$",
    ) as caught:
        _ = stats.class_means
    assert caught.value.batch == 3
    assert (
        caught.value.problem
        == "features contain NaN or infinity, the first in row 7 of this batch (counting from 0)"
    )
    assert stats.counts.tolist() == clean.counts.tolist()
    assert_close(stats.class_means, clean.class_means, rel=EPS32, why="float32 sums of 100 rows")


def test_of_several_refused_batches_the_first_is_named_and_the_others_are_counted() -> None:
    stats = deferred()
    for number in range(6):
        rows, labels = draw(20, number)
        if number in (1, 4):
            rows[0, 0] = torch.inf
        if number == 3:
            labels[5] = CLASSES
        stats.update(rows, labels)
    with pytest.raises(RefusedBatch, match=r"^batch 1, .*; 2 more batches after it were refused$"):
        _ = stats.num_samples
    assert stats.num_samples == 60


def test_empty_batches_are_numbered_too() -> None:
    stats = deferred()
    rows, labels = draw(4)
    labels[1] = -2
    for _ in range(3):
        stats.update(rows[:0], labels[:0])
    stats.update(rows, labels)
    with pytest.raises(
        RefusedBatch, match=r"^batch 3, labels go from -2 to .; this ClassStats takes 0 to 4$"
    ):
        _ = stats.has_samples
    assert not stats.has_samples


def test_the_batch_whose_update_reports_an_error_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_MAX_CHUNK_ROWS", 30)
    for size in (20, 40):  # gathered, and added without copying
        stats = deferred()
        rows, labels = draw(20)
        rows[3] = torch.nan
        stats.update(rows, labels)
        with pytest.raises(RefusedBatch, match=r"^batch 0, "):
            stats.update(*draw(size, 1))
        assert stats.num_samples == size


def test_a_refused_batch_that_fills_a_chunk_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_MAX_CHUNK_ROWS", 30)
    stats = deferred()
    rows, labels = draw(200)
    rows[199, 0] = torch.nan
    with pytest.raises(RefusedBatch, match=r"^batch 0, .* row 199 "):
        stats.update(rows, labels)
    assert not stats.has_samples


@pytest.mark.parametrize(
    "read",
    [
        lambda stats: stats.state_dict(),
        lambda stats: ClassStats.merge([stats, eager()]),
        lambda stats: stats.without_scatter(),
        lambda stats: stats.renumbered(torch.arange(CLASSES)),
        lambda stats: stats.drop_empty_classes(),
        lambda stats: stats.scatter_total(),
        lambda stats: stats.max_abs,
        lambda stats: stats.within_covariance("sample"),
        repr,
    ],
    ids=["state", "merge", "without", "renumbered", "dropped", "total", "max_abs", "covariance", "repr"],
)
def test_every_reading_sees_the_rows_that_wait(read: Any) -> None:
    stats = deferred()
    rows, labels = draw(20)
    rows[3] = torch.nan
    stats.update(rows, labels)
    stats.update(*draw(20, 1))
    with pytest.raises(RefusedBatch):
        read(stats)
    read(stats)


def test_a_copy_does_not_share_the_rows_that_wait() -> None:
    stats = deferred("trace")
    stats.update(*draw(20))
    part = stats.renumbered(torch.arange(CLASSES))
    part.update(*draw(20, 1))
    assert (stats.num_samples, part.num_samples) == (20, 40)


def test_checks_of_another_name_are_refused() -> None:
    with pytest.raises(REFUSED, match="checks"):
        ClassStats(2, 3, checks="never")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- gathering and sums


def test_memory_of_a_chunk_is_bounded() -> None:
    assert gathering.chunk_rows(2048, 4) * 2048 * 4 == 2**25
    assert gathering.chunk_rows(3, 4) == 2**14
    assert gathering.chunk_rows(10**8, 4) == 0
    assert gathering.chunk_rows(2048, 4, 100) == 100


def test_the_buffer_is_released_when_statistics_are_read() -> None:
    chunks = []
    gatherer = gathering.RowGatherer(torch.device("cpu"))
    gatherer.update(*draw(8), chunks.append)
    assert gatherer.nbytes == gathering.chunk_bytes(DIM, 4)
    gatherer.flush(chunks.append)
    assert gatherer.nbytes == 0
    assert [chunk.batches for chunk in chunks] == [((0, 8),)]


def test_statistics_are_freed_as_soon_as_nobody_holds_them() -> None:
    stats = deferred()
    stats.update(*draw(8))
    assert stats._within is not None
    matrix = weakref.ref(stats._within.total)
    gc.disable()
    try:
        del stats
        assert matrix() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("n", "num_classes"), [(1, 1), (1, 5), (64, 2), (200, 2), (1000, 997), (50, 2000)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_by_class(n: int, num_classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, num_classes, (n,), generator=generator)
    rows = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype)
    weights = torch.rand(n, generator=generator, dtype=torch.float64).to(dtype)
    by_class, ones = RowsByClass(labels, num_classes), torch.ones(n, dtype=dtype)
    for given, factor in ((None, ones), (weights, weights)):
        total = torch.ones(num_classes, 3, dtype=torch.float64)
        by_class.add_to(total, rows, given)
        expected = torch.ones_like(total)
        expected.index_add_(0, labels, rows.double() * factor.double()[:, None])
        eps = torch.finfo(dtype).eps
        assert_close(total, expected, rel=64 * eps, why="sums of 64 terms, then of pieces in float64")


def test_sums_by_class_depend_on_no_order_of_threads() -> None:
    """Whatever else is among the rows, a class has the same pieces and the same sum, up to where pieces begin."""
    rows, labels = draw(1000)
    first, second = (RowsByClass(labels, CLASSES).sums(rows) for _ in range(2))
    assert torch.equal(first, second)
