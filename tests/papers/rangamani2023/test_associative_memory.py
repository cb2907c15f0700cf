"""Remark 6.1: the associative memory against its definition, sums over samples in float64, and what it is invariant to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import collapselab
from collapselab.data import Split
from collapselab.metrics import BY_NAME
from collapselab.metrics.inputs import MetricInputs
from collapselab.models import ConvNet
from collapselab.papers.rangamani2023.associative_memory import memory_cosine, memory_of, recall, recall_rule
from collapselab.probes import capture_inputs, weight_layers
from collapselab.statistics import ClassStats
from helpers import assert_close

SIZES = (12, 20, 9)


def samples(seed: int = 0, dim: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    return 2 * rng.standard_normal((len(SIZES), dim))[labels] + rng.standard_normal(
        (len(labels), dim)
    ) + 5, labels


def naive(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Y H^T, sample by sample, and the mean of the class means."""
    centre = np.mean([features[labels == c].mean(0) for c in range(len(SIZES))], axis=0)
    memory = np.zeros((len(SIZES), features.shape[1]))
    for row, label in zip(features, labels, strict=True):
        memory[label] += row - centre
    return memory, centre


def stats_of(features: np.ndarray, labels: np.ndarray) -> ClassStats:
    stats = ClassStats(len(SIZES), features.shape[1], scatter="trace")
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    return stats


def recalled(features: np.ndarray, labels: np.ndarray) -> list[int]:
    stats = stats_of(features, labels)
    return recall_rule(stats.class_means, stats.counts)(torch.from_numpy(features)).tolist()


def test_the_memory_is_the_sum_over_samples() -> None:
    features, labels = samples()
    stats = stats_of(features, labels)
    memory, centre = memory_of(stats.class_means, stats.counts)
    assert_close(memory, naive(features, labels)[0], rel=1e-12, why="float64 sums of 41 terms")
    assert_close(centre, naive(features, labels)[1], rel=1e-12, why="float64 sums of 41 terms")


def test_recall_is_the_largest_entry_of_the_memory_times_the_centred_features() -> None:
    features, labels = samples()
    memory, centre = naive(features, labels)
    expected = ((features - centre) @ memory.T).argmax(1)
    assert recalled(features, labels) == expected.tolist()
    assert 0 < (expected != labels).sum() < len(labels)  # it is no copy of the labels


def test_recall_is_invariant_to_shift_scale_and_rotation() -> None:
    features, labels = samples()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((7, 7)))[0]
    assert recalled(3 * features @ turn - 40, labels) == recalled(features, labels)


@pytest.mark.parametrize("noise", [0.0, 0.3, 30.0])
def test_the_cosine_follows_from_self_duality(noise: float) -> None:
    """Of the flattened weight and the memory with rows divided by n_c: classes here have unequal sizes."""
    features, labels = samples()
    rows = naive(features, labels)[0] / np.array(SIZES)[:, None]
    weight = rows + noise * np.random.default_rng(2).standard_normal(rows.shape)
    expected = (weight * rows).sum() / np.linalg.norm(weight) / np.linalg.norm(rows)
    distance = BY_NAME["self_duality"].function(
        MetricInputs(stats_of(features, labels), weight=torch.from_numpy(weight))
    )
    assert distance is not None
    assert_close(memory_cosine(float(distance)), expected, rel=1e-12, scale=1.0, why="float64")


def test_recall_of_every_layer_of_a_network_equals_recall_of_its_stored_features() -> None:
    torch.manual_seed(0)
    model, labels = ConvNet(1, (8, 8), 3, width=4, depth=2), torch.arange(3).repeat(20)
    split = Split(torch.randn(60, 1, 8, 8) + labels[:, None, None, None], labels)
    profile = collapselab.profile(model, split.batches(16))
    found = recall(model, profile, split, batch_size=7)
    stored: dict[str, torch.Tensor] = {}
    model.eval()
    with (
        torch.no_grad(),
        capture_inputs(weight_layers(model), lambda name, rows: stored.update({name: rows})),
    ):
        model(split.inputs)
    assert list(found) == [layer.name for layer in profile.layers]
    for name, rows in stored.items():
        means = torch.stack([rows[labels == c].double().mean(0) for c in range(3)])
        memory = 20 * (means - means.mean(0))
        right = ((rows.double() - means.mean(0)) @ memory.T).argmax(1) == labels
        assert found[name] == pytest.approx(float(right.double().mean()), abs=1e-12), name
    assert isinstance(model, nn.Module)
