"""`measure` of class statistics: the numbers of `measure` on the features, without reading a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from collapselab import ClassStats, InputError, measure
from collapselab.metrics import BY_NAME, names_of
from collapselab.statistics import Scatter
from helpers import uneven_labels
from oracles import Oracle

COUNTS, DIM = [20, 31, 25], 5
RNG = np.random.default_rng(0)
LABELS = uneven_labels(RNG, COUNTS)
FEATURES = RNG.standard_normal((3, DIM))[LABELS] + RNG.standard_normal((len(LABELS), DIM))
WEIGHT = RNG.standard_normal((3, DIM))
TEST = FEATURES[::2] + 0.1, LABELS[::2]
# What only rows answer.
ROWS = {name for name, metric in BY_NAME.items() if metric.needs & {"second pass", "k-means"}}


def accumulate(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int = 3,
    scatter: Scatter = "per_class",
    **options: Any,
) -> ClassStats:
    stats = ClassStats(num_classes, DIM, scatter, **options)
    for start in range(0, len(labels), 7):
        stats.update(features[start : start + 7], labels[start : start + 7])
    return stats


@pytest.mark.parametrize("weighting", ["balanced", "sample"])
def test_statistics_give_the_numbers_of_the_features(weighting: Any) -> None:
    whole = measure(FEATURES, LABELS, weight=WEIGHT, test=TEST, weighting=weighting)
    result = measure(accumulate(FEATURES, LABELS), weight=WEIGHT, test=accumulate(*TEST), weighting=weighting)
    assert (result.num_samples, result.num_classes, result.dim) == (76, 3, DIM)
    for split in ("train", "test"):
        assert tuple(result.splits[split]) == names_of(split)
        for name, value in result.splits[split].items():
            if name in ROWS:
                assert value is None
            else:
                # Float64 throughout; only the grouping of the sums differs.
                assert value == pytest.approx(whole.splits[split][name], rel=1e-9, abs=1e-12), name


def test_against_an_independent_computation() -> None:
    oracle = Oracle(FEATURES, LABELS, "balanced", WEIGHT)
    result = measure(accumulate(FEATURES, LABELS), metrics=["normalized_within", "nc1", "vci"])
    # Float64 on both sides.
    assert result.train["normalized_within"] == pytest.approx(oracle.normalized_within(), rel=1e-12)
    assert result.train["nc1"] == pytest.approx(oracle.nc1(), rel=1e-9)
    assert result.train["vci"] == pytest.approx(oracle.vci(), rel=1e-9)


def test_test_features_are_compared_with_the_means_of_statistics() -> None:
    result = measure(accumulate(FEATURES, LABELS), weight=WEIGHT, test=TEST)
    whole = measure(FEATURES, LABELS, weight=WEIGHT, test=TEST)
    assert result.test == pytest.approx(whole.test, rel=1e-9)
    assert result.test["ncc_accuracy"] is not None


def test_what_has_no_value_is_said_once_for_each_cause() -> None:
    result = measure(accumulate(FEATURES, LABELS, scatter="full", class_counts=COUNTS))
    assert result.train["stable_rank_per_class"] is None
    assert result.train["ncc_accuracy"] is None
    assert [text for text in result.warnings if "no value" in text] == [
        "train: no value for ncc_agreement, ncc_mismatch, ncc_accuracy: class statistics do not contain single samples; "
        "measure the features",
        "train: no value for stable_rank_per_class, stable_rank_published: the covariances of all classes are pooled; "
        'accumulate with scatter="per_class"',
    ]


def test_pooled_scatter_has_one_weighting() -> None:
    by_sample = accumulate(FEATURES, LABELS, scatter="full")
    result = measure(by_sample, metrics=["nc1"])
    assert result.weighting == "sample"
    assert result.train == pytest.approx(
        measure(FEATURES, LABELS, metrics=["nc1"], weighting="sample").train, rel=1e-9
    )
    assert "train: sample weighting is used" in result.warnings[0]
    balanced = accumulate(FEATURES, LABELS, scatter="full", class_counts=COUNTS)
    assert measure(balanced, metrics=["nc1"]).warnings == ()
    assert "balanced weighting is used" in measure(balanced, metrics=["nc1"], weighting="sample").warnings[0]
    with pytest.raises(InputError, match="accumulate both alike"):
        measure(balanced, test=by_sample)
    with pytest.raises(InputError, match="accumulate both alike"):
        measure(by_sample, test=balanced)


def test_classes_without_samples_are_left_out() -> None:
    weight = np.vstack([WEIGHT[:1], np.zeros((1, DIM)), WEIGHT[1:]])
    labels = np.array([0, 2, 3])[LABELS]
    stats = accumulate(FEATURES, labels, num_classes=4)
    names = ["nc1", "self_duality", "alignment"]
    plain = measure(accumulate(FEATURES, LABELS), weight=WEIGHT, metrics=names)
    for given in (weight, WEIGHT):
        assert measure(stats, weight=given, metrics=names).train == pytest.approx(plain.train, rel=1e-12)
    unknown = accumulate(FEATURES[:20], np.arange(20) % 4, num_classes=4)
    with pytest.raises(InputError, match="5 samples have labels that no training sample has"):
        measure(stats, test=unknown)


def test_measuring_leaves_the_statistics_as_they_were() -> None:
    stats = accumulate(FEATURES[:40], LABELS[:40])
    measure(stats)
    stats.update(FEATURES[40:], LABELS[40:])
    assert measure(stats, metrics=["vci"])["vci"] == pytest.approx(
        measure(FEATURES, LABELS, metrics=["vci"])["vci"], rel=1e-9
    )


def test_batches_may_be_arrays_lists_and_tensors() -> None:
    as_tensors = ClassStats(3, DIM)
    as_tensors.update(torch.from_numpy(FEATURES), torch.from_numpy(LABELS))
    for features, labels in (
        (FEATURES, LABELS),
        (FEATURES.tolist(), LABELS.tolist()),
        (list(torch.from_numpy(FEATURES)), LABELS.astype(np.uint8)),
        (FEATURES[:, ::-1][:, ::-1], torch.from_numpy(LABELS)),
    ):
        stats = ClassStats(3, DIM)
        stats.update(features, labels)
        stats.update(np.empty((0, DIM)), [])
        assert torch.equal(stats.class_means, as_tensors.class_means)
        assert torch.equal(stats.within_covariance("sample"), as_tensors.within_covariance("sample"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": LABELS}, "a ClassStats has its own labels"),
        ({"predictions": LABELS}, "takes no predictions"),
        ({"features": ClassStats(3, DIM)}, "this ClassStats has seen no samples"),
        ({"weight": np.ones((2, DIM))}, "need .3, 5"),
        ({"test": (FEATURES[:, :3], LABELS)}, "3 features per sample, but train has 5"),
        ({"test": ClassStats(3, DIM)}, "test: this ClassStats has seen no samples"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_mistakes_are_said_in_one_line(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"features": accumulate(FEATURES, LABELS)}
    with pytest.raises(InputError, match=message) as caught:
        measure(**(given | arguments))
    assert "\n" not in str(caught.value)


def test_print_shows_the_table_and_repr_one_short_line() -> None:
    result = measure(FEATURES, LABELS, test=TEST)
    text = str(result)
    assert text.startswith("76 samples, 3 classes, 5 features, balanced weighting\n")
    assert "  normalized_within " in text
    assert max(map(len, text.splitlines())) <= 80
    assert (
        repr(result) == "Measurement(76 samples, 3 classes, 5 features, balanced weighting, train and test)"
    )
