"""How often an evaluation of all metrics waits for an accelerator, how many operations it asks for, and what it finds."""

from __future__ import annotations

import pytest
import torch

from collapselab.metrics import METRICS, MetricInputs, NearestCentreCounts, evaluate
from collapselab.statistics import ClassStats
from collapselab.statistics.scatter import Scatter
from devices import Put, accelerators, putting_on
from dispatch_counts import DispatchCounts

Shape = tuple[Scatter, int, int]
SHAPES: list[Shape] = [("per_class", 40, 60), ("full", 300, 60), ("full", 80, 120)]


def inputs_of(shape: Shape, put: Put) -> MetricInputs:
    scatter, num_classes, p = shape
    n = 5 * num_classes
    labels = torch.arange(n) % num_classes
    features = torch.randn(n, p, generator=torch.manual_seed(0)).double() + torch.sin(labels)[:, None]
    stats = ClassStats(num_classes, p, scatter)
    stats.update(put(features), put(labels))
    assert stats.num_samples == n  # what waited is added
    weight = put(torch.randn(num_classes, p, generator=torch.manual_seed(1)))
    return MetricInputs(stats, weight=weight, nearest_centre=NearestCentreCounts(n, n - 1, n - 2))


@accelerators
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_operations_of_all_metrics(accelerator: str, shape: Shape) -> None:
    """Neither number grows with the classes or features: what is done class by class would take thousands."""
    expected = evaluate(METRICS, inputs_of(shape, lambda tensor: tensor))
    with putting_on(accelerator) as put:
        inputs = inputs_of(shape, put)
        with DispatchCounts("cuda") as counts:
            found = evaluate(METRICS, inputs)
    assert counts.read_backs.total() <= 60
    assert counts.operations.total() <= 1000
    for name, value in expected.items():
        assert found[name] == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)), name
