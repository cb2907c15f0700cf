"""Statistics that grow with the labels that come, and class numbers that change afterwards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from collapselab.statistics import ClassStats, Scatter
from collapselab.statistics.scatter import SCATTERS
from helpers import assert_close, feed, summary, tensors, uneven_labels

pytestmark = pytest.mark.usefixtures("checks")

COUNTS, DIM = [3, 17, 40, 1, 6, 9, 1, 25], 70
WHY = "float64 sums of 102 terms; shifts by 100 spreads add 1e4"

all_scatters = pytest.mark.parametrize("scatter", SCATTERS)
all_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def draw(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = uneven_labels(rng, COUNTS)
    means = 10 * rng.standard_normal((len(COUNTS), DIM))
    return tensors(rng.standard_normal((len(labels), DIM)) + means[labels], labels, dtype)


def filled(
    scatter: Scatter, start: int, dtype: torch.dtype = torch.float64, *, growing: bool, size: int = 10
) -> ClassStats:
    stats = ClassStats(start, DIM, scatter, growing=growing, sketch_size=3)
    features, labels = draw(dtype)
    for rows, numbers in zip(features.split(size), labels.split(size), strict=True):
        stats.update(rows, numbers)
    return stats


def assert_bitwise(first: ClassStats, second: ClassStats) -> None:
    a, b = summary(first), summary(second)
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name], equal_nan=True), name


@all_scatters
@all_dtypes
def test_growing_changes_no_bit(scatter: Scatter, dtype: torch.dtype) -> None:
    """So few rows are summed in one partial sum, however many classes there is room for."""
    fixed = filled(scatter, len(COUNTS), dtype, growing=False)
    for start in (1, 2, 5):
        grown = filled(scatter, start, dtype, growing=True).renumbered(torch.arange(len(COUNTS)))
        assert grown.num_classes == len(COUNTS)
        assert_bitwise(grown, fixed)


@all_scatters
def test_renumbered_classes_have_the_same_sums(scatter: Scatter) -> None:
    order = torch.tensor([5, 0, 7, 2, 4, 1, 3, 6])
    features, labels = draw()
    stats = filled(scatter, 2, growing=True).renumbered(order)
    where = torch.empty_like(order)
    where[order] = torch.arange(len(order))
    expected = ClassStats(len(order), DIM, scatter, sketch_size=3)
    expected.update(features, where[labels])
    a, b = summary(stats), summary(expected)
    for name in a:
        assert_close(a[name], b[name], rel=1e-9, why=WHY)


@all_scatters
def test_empty_classes_can_be_inserted_and_updates_go_on(scatter: Scatter) -> None:
    features, labels = draw()
    numbers = torch.tensor([-1, 0, 1, 2, 3, -1, 4, 5, 6, 7])  # two new classes, first and in the middle
    place = torch.tensor([1, 2, 3, 4, 6, 7, 8, 9])
    stats = filled(scatter, 1, growing=True).renumbered(numbers)
    assert stats.counts[[0, 5]].tolist() == [0, 0]
    assert bool(torch.isnan(stats.class_means[[0, 5]]).all())
    more = features[:20] + 1
    stats.update(more, torch.tensor([0, 5]).repeat(10))
    expected = ClassStats(10, DIM, scatter, sketch_size=3)
    expected.update(torch.cat((features, more)), torch.cat((place[labels], torch.tensor([0, 5]).repeat(10))))
    a, b = summary(stats), summary(expected)
    for name in a:
        assert_close(a[name], b[name], rel=1e-9, why=WHY)


@all_scatters
def test_processes_that_saw_other_classes_merge_after_renumbering(scatter: Scatter) -> None:
    features, labels = draw()
    parts = []
    for half in (labels < 5, labels >= 3):
        numbers = labels[half].unique()
        part = ClassStats(1, DIM, scatter, growing=True, sketch_size=3)
        part.update(features[half], torch.searchsorted(numbers, labels[half]))
        old = torch.full((len(COUNTS),), -1)
        old[numbers] = torch.arange(len(numbers))
        parts.append(part.renumbered(old))
    merged = ClassStats.merge(parts)
    both = torch.cat((features[labels < 5], features[labels >= 3]))
    expected = ClassStats(len(COUNTS), DIM, scatter, sketch_size=3)
    expected.update(both, torch.cat((labels[labels < 5], labels[labels >= 3])))
    a, b = summary(merged), summary(expected)
    for name in a:
        assert_close(a[name], b[name], rel=1e-9, why=WHY)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_covariances_of_too_many_classes_are_pooled(size: int) -> None:
    features, labels = draw()
    stats = ClassStats(2, DIM, "per_class", growing=True, max_per_class=6)
    for rows, numbers in zip(features.split(size), labels.split(size), strict=True):
        stats.update(rows, numbers)
    stats = stats.renumbered(torch.arange(len(COUNTS)))
    assert stats.scatter == "full"
    expected = filled("full", len(COUNTS), growing=False).within_covariance("sample").cpu().numpy()
    assert_close(stats.within_covariance("sample"), expected, rel=1e-9, why=WHY)


def test_up_to_the_limit_every_class_keeps_its_covariance() -> None:
    stats = filled("per_class", len(COUNTS), growing=True)
    same = ClassStats(2, DIM, "per_class", growing=True, max_per_class=len(COUNTS))
    features, labels = draw()
    same.update(features, labels)
    assert same.renumbered(torch.arange(len(COUNTS))).scatter == "per_class"
    assert stats.renumbered(torch.arange(len(COUNTS))).class_covariances().shape == (len(COUNTS), DIM, DIM)


@pytest.mark.parametrize("shuffled", [False, True])
def test_room_for_labels_that_never_come_pools_no_covariance(shuffled: bool) -> None:
    """One label at a time: room for 8 would double to 16 at the ninth, though the limit of 10 is never passed."""
    labels = torch.arange(10).repeat_interleave(6)
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1)) if shuffled else torch.arange(60)
    stats = ClassStats(1, 4, "per_class", growing=True, max_per_class=10)
    for at in order.tolist():
        stats.update(features[at : at + 1], labels[at : at + 1])
    stats = stats.renumbered(torch.arange(10))
    assert stats.scatter == "per_class"
    wanted = np.stack([np.cov(features[labels == c].numpy().T, bias=True) for c in range(10)])
    assert_close(stats.class_covariances(), wanted, rel=1e-9, why="sums of six terms in float64")
    stats = ClassStats(1, 4, "per_class", growing=True, max_per_class=9)
    for label in range(10):
        stats.update(features[:1], torch.tensor([label]))
    assert stats.scatter == "full"


def test_statistics_that_grew_merge_with_those_that_did_not() -> None:
    features, labels = torch.eye(10).repeat(2, 1), torch.arange(10).repeat(2)
    parts = [ClassStats(room, 10, "per_class", growing=True, max_per_class=10) for room in (8, 10)]
    for part, half in zip(parts, (labels < 9, labels > 3), strict=True):
        for at in half.nonzero()[:, 0].tolist():
            part.update(features[at : at + 1], labels[at : at + 1])
    merged = ClassStats.merge([part.renumbered(torch.arange(10)) for part in parts])
    assert merged.scatter == "per_class"
    assert merged.counts.tolist() == [2] * 4 + [4] * 5 + [2]


def test_statistics_without_samples_are_renumbered_too() -> None:
    parts = [ClassStats(1, DIM, growing=True).renumbered(torch.full((3,), -1)) for _ in range(2)]
    parts[0].update(torch.ones(2, DIM), torch.tensor([0, 2]))
    assert ClassStats.merge(parts).counts.tolist() == [1, 0, 1]


def test_room_doubles() -> None:
    stats = ClassStats(3, 2, growing=True)
    seen = []
    for label in (0, 2, 3, 7, 6, 40):
        stats.update(torch.ones(1, 2), torch.tensor([label]))
        seen.append(stats.num_classes)
    assert seen == [3, 3, 6, 12, 12, 41]


def test_growing_takes_no_counts_and_no_negative_labels() -> None:
    with pytest.raises(ValueError, match="no class_counts"):
        ClassStats(2, 3, growing=True, class_counts=[1, 1])
    with pytest.raises(ValueError, match="labels go from -1 to 4; this ClassStats takes any from 0"):
        feed(ClassStats(2, 3, growing=True), torch.ones(2, 3), torch.tensor([4, -1]))


def test_classes_come_in_any_order() -> None:
    features, labels = torch.eye(3).repeat(2, 1), torch.tensor([2, 0, 1]).repeat(2)
    for order in itertools.permutations(range(3)):
        stats = ClassStats(1, 3, growing=True)
        for label in order:
            stats.update(features[labels == label], labels[labels == label])
        assert stats.renumbered(torch.arange(3)).class_means.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
