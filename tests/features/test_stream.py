"""A source of features as the engine reads it: label numbers, decisions, pieces, what is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collapselab.features import stream
from collapselab.features.sources import ArraySource, ShardSource
from collapselab.features.stream import FEATURES, Classifier, SourceStream
from collapselab.passes import FeatureStream

LABELS = np.array([7, 3, 3, 11, 7, 3])
ROWS = np.random.default_rng(0).standard_normal((6, 4))
VALUES = np.array([3, 7, 11])
WEIGHT, BIAS = np.random.default_rng(1).standard_normal((3, 4)), np.array([0.0, 2.0, -1.0])


def read(source: Any, classifier: Classifier) -> tuple[torch.Tensor, torch.Tensor, list[Any]]:
    """Rows, label numbers and decisions of one pass."""
    rows, labels, decided = [], [], []

    def receive(name: str, features: torch.Tensor, numbers: torch.Tensor) -> None:
        assert name == FEATURES
        rows.append(features)
        labels.append(numbers)

    made = SourceStream("train", source, VALUES, classifier)
    assert isinstance(made, FeatureStream)
    made.read(receive, lambda _numbers, decide: decided.append(decide()))
    return torch.cat(rows), torch.cat(labels), decided


@pytest.mark.parametrize("pieces", [2**16, 4])
def test_all_rows_come_in_order_with_label_numbers(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_ROWS", pieces)
    rows, labels, decided = read(ArraySource(ROWS, LABELS), Classifier(None, None))
    assert np.array_equal(rows.numpy(), ROWS)
    assert labels.tolist() == [1, 0, 0, 2, 1, 0]
    assert decided == [None] * -(-6 // pieces)


@pytest.mark.parametrize("pieces", [2**16, 4])
def test_decisions_are_predictions_or_else_the_classifiers(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_ROWS", pieces)
    classifier = Classifier(WEIGHT, BIAS)
    decided = torch.cat(read(ArraySource(ROWS, LABELS), classifier)[2])
    assert decided.tolist() == (ROWS @ WEIGHT.T + BIAS).argmax(1).tolist()
    predicted = torch.cat(read(ArraySource(ROWS, LABELS, predictions=LABELS[::-1]), classifier)[2])
    assert predicted.tolist() == [0, 1, 2, 0, 0, 1]


def test_counts_are_over_all_labels_and_present_ones_are_those_of_the_split() -> None:
    source = ArraySource(ROWS[:3], LABELS[:3])
    made = SourceStream("test", source, VALUES, Classifier(None, None))
    assert made.declared_counts.tolist() == [2, 1, 0]
    assert made.present.tolist() == [0, 1]
    assert made.label_values.tolist() == [3, 7, 11]


def test_arrays_are_in_memory_and_shards_are_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=ROWS, labels=LABELS)
    classifier = Classifier(None, None)
    array = SourceStream("train", ArraySource(ROWS, LABELS), VALUES, classifier).in_memory
    assert array is not None
    assert np.array_equal(array[0].numpy(), ROWS)
    assert array[1].tolist() == [1, 0, 0, 2, 1, 0]
    shards = SourceStream("train", ShardSource(tmp_path), VALUES, classifier)
    assert shards.in_memory is None
    rows, labels, _ = read(ShardSource(tmp_path), classifier)
    assert torch.equal(rows, array[0])
    assert torch.equal(labels, array[1])
