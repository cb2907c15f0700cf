"""Which samples a recipe takes: as many as it says, of each class as it says, never the same twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapselab import InputError
from collapselab.data.recipe import DataSpec, Sample
from collapselab.data.sampling import group_labels, sample_rows

LABELS = np.repeat(np.arange(4), [30, 20, 25, 25])[np.random.default_rng(0).permutation(100)]


def test_all_and_first() -> None:
    assert sample_rows(LABELS, Sample(), 0, "data").tolist() == list(range(100))
    assert sample_rows(LABELS, Sample(method="first", count=3, skip=5), 0, "data").tolist() == [5, 6, 7]


@given(st.integers(1, 20), st.integers(0, 100))
def test_balanced_has_as_many_of_each_class(per_class: int, seed: int) -> None:
    rows = sample_rows(LABELS, Sample(method="balanced", per_class=per_class), seed, "data")
    assert np.bincount(LABELS[rows]).tolist() == [per_class] * 4
    assert np.array_equal(rows, np.unique(rows))
    same = sample_rows(LABELS, Sample(method="balanced", count=4 * per_class), seed, "data")
    assert np.array_equal(rows, same)


@pytest.mark.parametrize("method", ["first", "random", "balanced"])
@given(seed=st.integers(0, 100))
def test_what_is_skipped_is_what_was_taken_before(method: str, seed: int) -> None:
    one = Sample.model_validate({"method": method, "count": 40})
    other = Sample.model_validate({"method": method, "count": 20, "skip": 40})
    both = Sample.model_validate({"method": method, "count": 60})
    a, b, c = (sample_rows(LABELS, sample, seed, "data") for sample in (one, other, both))
    assert not set(a) & set(b)
    assert sorted({*a, *b}) == c.tolist()


def test_the_seed_decides_what_is_drawn() -> None:
    sample = Sample(method="random", count=10)
    first, again, other = (sample_rows(LABELS, sample, seed, "data").tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_more_training_samples_are_those_of_fewer_and_others() -> None:
    small, large = (
        sample_rows(LABELS, Sample(method="balanced", count=count), 3, "data") for count in (20, 60)
    )
    assert set(small) < set(large)


def test_samples_outside_the_task_are_never_taken() -> None:
    labels = np.where(LABELS == 2, -1, LABELS)
    for sample in (Sample(), Sample(method="balanced", per_class=20), Sample(method="random", count=75)):
        assert -1 not in labels[sample_rows(labels, sample, 0, "data")]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(method="first", count=101), "101 samples requested, but there are 100"),
        (Sample(method="first", count=50, skip=51), "50 samples requested after 51 skipped ones"),
        (Sample(method="balanced", per_class=21), "class 1: 21 samples requested, but there are 20"),
        (Sample(method="balanced", count=42), "multiple of 4"),
        (Sample(method="balanced", count=4, skip=3), "give a multiple"),
    ],
)
def test_more_than_there_is_is_refused(sample: Sample, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample_rows(LABELS, sample, 0, "data")


def test_groups_of_classes_by_number_and_name() -> None:
    names = ("cat", "dog", "owl", "eel")
    assert group_labels(LABELS, (("cat", 2), ("eel",)), 4, names, "data").tolist() == [
        {0: 0, 2: 0, 3: 1}.get(label, -1) for label in LABELS.tolist()
    ]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (((0,), (0, 1)), "class 0 is in two groups"),
        (((0,), (4,)), "no class 4; there are 0 to 3"),
        (((0,), ("dogs",)), "no class 'dogs'; did you mean 'dog'"),
        (((0, 1),), "two or more"),
        (((0,), ()), "none of them empty"),
    ],
)
def test_wrong_groups_are_refused(groups: tuple[tuple[int | str, ...], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        group_labels(LABELS, groups, 4, ("cat", "dog", "owl", "eel"), "data")


def test_a_specification_survives_json() -> None:
    spec = DataSpec(name="digits", train=Sample(method="first", count=3), groups=((0, "1"), (2,)))
    assert DataSpec.model_validate_json(spec.model_dump_json()) == spec
