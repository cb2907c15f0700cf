"""How often an evaluation of all metrics waits for an accelerator, and how many operations it asks for."""

from __future__ import annotations

import pytest
import torch

from collapselab.metrics import METRICS, MetricInputs, NearestCentreCounts, evaluate
from collapselab.statistics import ClassStats
from collapselab.statistics.scatter import Scatter
from devices import accelerators, putting_on
from dispatch_counts import DispatchCounts


@accelerators
@pytest.mark.parametrize(
    ("scatter", "num_classes", "most"), [("per_class", 40, 1100), ("full", 300, 850)], ids=str
)
def test_operations_of_all_metrics(accelerator: str, scatter: Scatter, num_classes: int, most: int) -> None:
    """Neither grows with the number of classes or of features: what is done class by class would take thousands."""
    n, p = 3 * num_classes, 60
    labels = torch.arange(n) % num_classes
    features = torch.randn(n, p, generator=torch.manual_seed(0)) + labels[:, None]
    with putting_on(accelerator) as put:
        stats = ClassStats(num_classes, p, scatter)
        stats.update(put(features), put(labels))
        assert stats.num_samples == n  # what waited is added
        weight = put(torch.randn(num_classes, p, generator=torch.manual_seed(1)))
        inputs = MetricInputs(stats, weight=weight, nearest_centre=NearestCentreCounts(n, n - 1, n - 2))
        with DispatchCounts("cuda") as counts:
            values = evaluate(METRICS, inputs)
    assert values["vci"] is not None
    assert counts.read_backs.total() <= 55
    assert counts.operations.total() <= most
