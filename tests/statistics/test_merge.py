"""The same result for any batch size, order, split into shards and merge tree."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collapselab.statistics import ClassStats, Scatter
from collapselab.statistics.scatter import SCATTERS
from helpers import assert_close, summary, tensors, uneven_labels

pytestmark = pytest.mark.usefixtures("checks")

COUNTS = [1, 17, 40, 6]
DIM = 7
WHY = (
    "float64 sums of under 1000 terms round by under 1000 eps64 of their size; shifts by 100 spreads add 1e4"
)
REL = 1e-9

all_scatters = pytest.mark.parametrize("scatter", SCATTERS)


def draw(seed: int = 0, counts: list[int] = COUNTS) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = uneven_labels(rng, counts)
    features = rng.standard_normal((len(labels), DIM)) + 10 * rng.standard_normal((len(counts), DIM))[labels]
    return tensors(features + 50, labels, torch.float64)


def empty(scatter: Scatter, counts: list[int] = COUNTS) -> ClassStats:
    return ClassStats(len(counts), DIM, scatter, class_counts=counts, sketch_size=3)


def assert_same(first: ClassStats, second: ClassStats) -> None:
    a, b = summary(first), summary(second)
    assert a.keys() == b.keys()
    for name in a:
        present = ~np.isnan(a[name])
        assert np.array_equal(present, ~np.isnan(b[name])), name
        assert_close(b[name][present], a[name][present], rel=REL, why=WHY)


def assert_bitwise(first: Any, second: Any) -> None:
    """Equal state dicts, tensor by tensor."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_bitwise(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    else:
        assert first == second


@all_scatters
@given(data=st.data())
def test_batch_sizes_and_order_do_not_matter(scatter: Scatter, data: st.DataObject) -> None:
    features, labels = draw()
    whole = empty(scatter)
    whole.update(features, labels)
    order = torch.tensor(data.draw(st.permutations(range(len(labels)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(labels)), max_size=8)))
    batched = empty(scatter)
    for start, stop in itertools.pairwise([0, *cuts, len(labels)]):
        batched.update(features[order[start:stop]], labels[order[start:stop]])
    assert_same(whole, batched)


@all_scatters
@given(data=st.data())
def test_any_merge_tree_gives_the_whole(scatter: Scatter, data: st.DataObject) -> None:
    features, labels = draw()
    whole = empty(scatter)
    whole.update(features, labels)
    parts = [empty(scatter) for _ in range(data.draw(st.integers(1, 5)))]
    owner = torch.tensor(data.draw(st.lists(st.integers(0, len(parts) - 1), min_size=64, max_size=64)))
    for index, part in enumerate(parts):
        part.update(features[owner == index], labels[owner == index])
    while len(parts) > 1:
        size = data.draw(st.integers(2, len(parts)))
        chosen = [parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(size)]
        parts.append(ClassStats.merge(chosen))
    assert_same(whole, parts[0])


@all_scatters
@pytest.mark.parametrize("filled", list(itertools.product([False, True], repeat=3)), ids=str)
def test_merge_of_empty_and_filled(scatter: Scatter, filled: tuple[bool, ...]) -> None:
    parts, together = [], empty(scatter)
    for index, fill in enumerate(filled):
        part = empty(scatter)
        if fill:
            part.update(*draw(index))
            together.update(*draw(index))
        parts.append(part)
    merged = ClassStats.merge(parts)
    if not any(filled):
        with pytest.raises(ValueError, match="no samples"):
            _ = merged.class_means
        return
    assert merged.counts.tolist() == together.counts.tolist()
    assert_close(merged.class_means, together.class_means, rel=REL, why=WHY)
    assert_close(merged.class_variances, together.class_variances, rel=REL, why=WHY)


@all_scatters
@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 5])
def test_merge_of_parts_that_lack_classes(scatter: Scatter, num_parts: int) -> None:
    features, labels = draw()
    whole = empty(scatter)
    whole.update(features, labels)
    parts = []
    for index in range(num_parts):
        part = empty(scatter)
        mask = labels % num_parts == index
        part.update(features[mask], labels[mask])
        parts.append(part)
    assert_same(whole, ClassStats.merge(parts))


def test_a_class_nobody_has_stays_absent() -> None:
    features, labels = draw()
    parts = [empty("trace"), empty("trace")]
    for part, mask in zip(parts, (labels == 1, labels == 3), strict=True):
        part.update(features[mask], labels[mask])
    merged = ClassStats.merge(parts)
    assert torch.isnan(merged.class_means[:, 0]).tolist() == [True, False, True, False]


@all_scatters
def test_merge_leaves_its_inputs_as_they_were(scatter: Scatter) -> None:
    parts = [empty(scatter), empty(scatter), empty(scatter)]
    for index in (0, 2):
        parts[index].update(*draw(index))
    before = [part.state_dict() for part in parts]
    ClassStats.merge(parts)
    for state, part in zip(before, parts, strict=True):
        assert_bitwise(state, part.state_dict())


@all_scatters
@pytest.mark.parametrize("num_parts", [1, 2])
def test_merge_owns_its_tensors(scatter: Scatter, num_parts: int) -> None:
    parts = [empty(scatter) for _ in range(num_parts)]
    for index, part in enumerate(parts):
        part.update(*draw(index))
    before = [part.state_dict() for part in parts]
    ClassStats.merge(parts).update(*draw(9))
    for state, part in zip(before, parts, strict=True):
        assert_bitwise(state, part.state_dict())


@all_scatters
def test_updating_a_part_does_not_reach_the_merged(scatter: Scatter) -> None:
    part = empty(scatter)
    part.update(*draw(0))
    merged = ClassStats.merge([part])
    before = merged.state_dict()
    part.update(*draw(1))
    assert_bitwise(before, merged.state_dict())


@all_scatters
def test_updating_goes_on_after_merge(scatter: Scatter) -> None:
    counts = [3 * count for count in COUNTS]
    merged = ClassStats.merge([_filled(scatter, 0, counts), _filled(scatter, 1, counts)])
    merged.update(*draw(2))
    whole = _filled(scatter, 0, counts)
    whole.update(*draw(1))
    whole.update(*draw(2))
    assert_same(whole, merged)


def _filled(scatter: Scatter, seed: int, counts: list[int]) -> ClassStats:
    stats = empty(scatter, counts)
    stats.update(*draw(seed))
    return stats


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_classes": 5}, "num_classes"),
        ({"dim": 8}, "dim"),
        ({"scatter": "trace"}, "scatter"),
        ({"seed": 1}, "seed"),
        ({"class_counts": [1, 1, 1, 1]}, "class_counts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_differ_do_not_merge(change: dict[str, Any], named: str) -> None:
    base: dict[str, Any] = {"num_classes": 4, "dim": 7, "scatter": "full", "seed": 0}
    with pytest.raises(ValueError, match=named):
        ClassStats.merge([ClassStats(**base), ClassStats(**(base | change))])


def test_merge_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ClassStats.merge([])


# ---------------------------------------------------------------- storage


def stored_and_loaded(stats: ClassStats) -> ClassStats:
    file = io.BytesIO()
    torch.save(stats.state_dict(), file)
    file.seek(0)
    return ClassStats.from_state_dict(torch.load(file, weights_only=True))


@all_scatters
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_state_survives_a_file_bit_by_bit(scatter: Scatter, dtype: torch.dtype) -> None:
    stats = empty(scatter)
    features, labels = draw()
    stats.update(features.to(dtype), labels)
    loaded = stored_and_loaded(stats)
    assert_bitwise(stats.state_dict(), loaded.state_dict())


@all_scatters
def test_an_empty_state_survives_a_file(scatter: Scatter) -> None:
    loaded = stored_and_loaded(empty(scatter))
    loaded.update(*draw())
    whole = empty(scatter)
    whole.update(*draw())
    assert_same(whole, loaded)


@all_scatters
def test_updating_goes_on_after_loading(scatter: Scatter) -> None:
    counts = [2 * count for count in COUNTS]
    loaded = stored_and_loaded(_filled(scatter, 0, counts))
    loaded.update(*draw(1))
    whole = _filled(scatter, 0, counts)
    whole.update(*draw(1))
    assert_same(whole, loaded)


def test_a_loaded_state_is_independent_of_the_dict() -> None:
    state = _filled("full", 0, COUNTS).state_dict()
    before = {name: value.clone() for name, value in state["moments"].items()}
    ClassStats.from_state_dict(state).update(*draw(1))
    assert_bitwise(before, state["moments"])


@all_scatters
def test_reading_changes_nothing(scatter: Scatter) -> None:
    stats = empty(scatter)
    stats.update(*draw())
    before = stats.state_dict()
    first, second = summary(stats), summary(stats)
    assert_bitwise(before, stats.state_dict())
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


def test_what_is_read_can_be_written_to_without_harm() -> None:
    stats = empty("full")
    stats.update(*draw())
    before = stats.state_dict()
    for value in (stats.counts, stats.class_means, stats.class_variances, stats.within_covariance()):
        value.zero_()
    assert_bitwise(before, stats.state_dict())
