"""The metric for torchmetrics: the numbers of `measure`, in any order of batches, in one process or two."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

import metric_worker
from metric_worker import DIM, NAMES, NUM_CLASSES, samples
from torchmetrics import MetricCollection

from collapselab import InputError, measure
from collapselab.integrations.torchmetrics import NeuralCollapse
from test_distributed import results_by_rank

FEATURES, LABELS = samples()
# The metric returns float32, as others of torchmetrics do.
CLOSE: dict[str, Any] = {"rel": 1e-6}


def updated(*arguments: Any, **options: Any) -> NeuralCollapse:
    metric = NeuralCollapse(NUM_CLASSES, DIM, *arguments, **options)
    for start in range(0, len(LABELS), 16):
        metric.update(FEATURES[start : start + 16], LABELS[start : start + 16])
    return metric


def number(value: Any) -> float:
    """The value of the only metric."""
    return float(value)


def numbers(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def test_it_gives_the_numbers_of_measure() -> None:
    expected = measure(FEATURES, LABELS, metrics=NAMES, weighting="sample").train
    metric = updated(NAMES, weighting="sample")
    assert numbers(metric.compute()) == pytest.approx(expected, **CLOSE)
    metric.reset()
    metric.update(FEATURES[:40], LABELS[:40])
    expected = measure(FEATURES[:40], LABELS[:40], metrics=NAMES, weighting="sample").train
    assert numbers(metric.compute()) == pytest.approx(expected, **CLOSE)


def test_one_name_gives_one_value_and_test_metrics_are_known() -> None:
    value = updated("strong_test_variance").compute()
    assert isinstance(value, torch.Tensor)
    expected = measure(FEATURES, LABELS, test=(FEATURES, LABELS), metrics="strong_test_variance").test
    assert float(value) == pytest.approx(expected["strong_test_variance"], **CLOSE)


def test_forward_gives_the_batch_and_accumulates_all() -> None:
    metric = NeuralCollapse(NUM_CLASSES, DIM, "cdnv")
    for half in (slice(0, 50), slice(50, None)):
        batch = number(metric(FEATURES[half], LABELS[half]))
        assert batch == pytest.approx(measure(FEATURES[half], LABELS[half], metrics="cdnv")["cdnv"], **CLOSE)
    assert number(metric.compute()) == pytest.approx(
        measure(FEATURES, LABELS, metrics="cdnv")["cdnv"], **CLOSE
    )


def test_states_merge_copy_and_pickle() -> None:
    whole = number(updated("cdnv").compute())
    first, second = (NeuralCollapse(NUM_CLASSES, DIM, "cdnv") for _ in range(2))
    first.update(FEATURES[:50], LABELS[:50])
    second.update(FEATURES[50:], LABELS[50:])
    first.merge_state(second)
    for metric in (first, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert number(metric.compute()) == pytest.approx(whole, **CLOSE)
    assert first.state_dict() == {}


def test_the_current_weight_of_the_classifier_is_compared() -> None:
    layer = nn.Linear(DIM, NUM_CLASSES).double()
    metric = updated(classifier=layer)
    assert "self_duality" in numbers(metric.compute())
    with torch.no_grad():
        layer.weight.mul_(-1)
    again = numbers(updated(classifier=layer).compute())
    expected = measure(FEATURES, LABELS, weight=layer.weight, metrics="self_duality")
    assert again["self_duality"] == pytest.approx(expected["self_duality"], **CLOSE)
    assert list(metric.parameters()) == []
    clone: Any = metric.clone()
    assert clone._classifier.module is layer


def test_defaults_and_weighting() -> None:
    assert list(numbers(updated().compute())) == ["normalized_within", "cdnv", "equinorm", "equiangularity"]
    counts = torch.bincount(LABELS)
    for options in ({"class_counts": counts}, {"weighting": "sample"}):
        metric = updated("nc1", **options)
        expected = measure(FEATURES, LABELS, metrics="nc1", weighting=options.get("weighting", "balanced"))  # pyright: ignore[reportArgumentType] it is a weighting
        assert number(metric.compute()) == pytest.approx(expected["nc1"], **CLOSE)
        assert metric.problems == ()
    metric = updated("nc1")
    metric.compute()
    assert "sample weighting is used" in " ".join(metric.problems)


def test_too_few_classes_are_undefined_and_not_an_error() -> None:
    metric = NeuralCollapse(NUM_CLASSES, DIM, ["cdnv", "equinorm"])
    metric.update(FEATURES[LABELS == 1], LABELS[LABELS == 1])
    with pytest.warns(UserWarning, match="need samples of two classes"):
        values = metric.compute()
    assert all(math.isnan(value) for value in numbers(values).values())


def test_a_collection_holds_it() -> None:
    collection = MetricCollection({"mine": NeuralCollapse(NUM_CLASSES, DIM, "cdnv")})
    collection.update(FEATURES, LABELS)
    assert float(collection.compute()["mine"]) == pytest.approx(
        measure(FEATURES, LABELS, metrics="cdnv")["cdnv"], **CLOSE
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "ncc_accuracy"}, "ncc_accuracy needs the features of every sample"),
        ({"metrics": ["cdvn"]}, "did you mean 'cdnv'"),
        ({"process_group": object()}, "process_group= is not supported"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NeuralCollapse(NUM_CLASSES, DIM, **arguments)


@pytest.mark.slow
def test_two_processes_compute_the_metrics_of_all_samples(tmp_path: Path) -> None:
    found = results_by_rank(Path(metric_worker.__file__), tmp_path)
    for step, count in enumerate((20, len(LABELS))):
        expected = measure(FEATURES[:count], LABELS[:count], metrics=NAMES, weighting="sample").train
        assert found[0][f"all {step}"] == found[1][f"all {step}"]
        assert found[0][f"all {step}"] == pytest.approx(expected, **CLOSE)
    # Each goes on with its own samples.
    assert [one["own 0"] for one in found] == [20, 0]
    assert [one["own 1"] for one in found] == [90, 13]
    assert [one["after reset"] for one in found] == [False, False]
