"""Class weights, and what turns pooled scatter into a covariance of either weighting."""

from __future__ import annotations

import pytest
import torch

from collapselab.statistics import ClassStats, Scatter
from collapselab.statistics.weighting import balancing_scale, class_weights, pooled_factor


def counts(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_weights_of_classes() -> None:
    assert class_weights(counts(1, 3), "balanced").tolist() == [0.5, 0.5]
    assert class_weights(counts(1, 3), "sample").tolist() == [0.25, 0.75]


@pytest.mark.parametrize("declared", [(5, 5, 5), (5, 0, 5), (0, 0, 5)], ids=str)
def test_equal_classes_need_no_scale(declared: tuple[int, ...]) -> None:
    assert balancing_scale(counts(*declared), torch.float64) is None


def test_unequal_classes_are_scaled_in_the_dtype_of_the_products() -> None:
    scale = balancing_scale(counts(3, 0, 12), torch.float32)
    assert scale is not None
    assert scale.dtype == torch.float64
    assert scale.tolist() == [float(torch.tensor(3**-0.5)), 1.0, float(torch.tensor(12**-0.5))]


def test_factors_of_pooled_scatter() -> None:
    assert (
        pooled_factor(counts(4, 4), None, "balanced")
        == pooled_factor(counts(4, 4), counts(4, 4), "sample")
        == 1 / 8
    )
    assert pooled_factor(counts(4, 6), None, "sample") == 1 / 10
    assert pooled_factor(counts(4, 6), counts(4, 6), "balanced") == 1 / 2


@pytest.mark.parametrize("scatter", ["full", "per_class"])
@pytest.mark.parametrize("sizes", [(8, 0, 8), (8, 0, 5)], ids=str)
def test_classes_without_samples_can_be_dropped(scatter: Scatter, sizes: tuple[int, ...]) -> None:
    """The covariance is that of statistics which never knew of the empty class."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    features = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stats = ClassStats(3, 4, scatter, class_counts=sizes)
    stats.update(features, labels)
    dense = ClassStats(2, 4, scatter, class_counts=[sizes[0], sizes[2]])
    dense.update(features, labels // 2)
    found = stats.drop_empty_classes()
    assert torch.allclose(found.within_covariance(), dense.within_covariance(), rtol=1e-12, atol=0)
    assert torch.equal(found.class_means, dense.class_means)


def test_the_largest_value_outlives_the_scatter() -> None:
    stats = ClassStats(2, 2)
    stats.update(torch.tensor([[1.0, -7.0], [2.0, 3.0]]), torch.tensor([0, 1]))
    dropped = stats.without_scatter()
    assert dropped.scatter == "trace"
    assert dropped.max_abs == stats.max_abs == 7.0
    with pytest.raises(ValueError, match="does not store"):
        dropped.within_covariance()
