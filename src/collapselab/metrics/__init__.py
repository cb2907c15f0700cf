"""Metrics of neural collapse: pure functions of class statistics, listed in one registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collapselab.lazy import names_loaded_from

if TYPE_CHECKING:
    from collapselab.metrics.inputs import MetricInputs, NearestCentreCounts
    from collapselab.metrics.names import check_metrics
    from collapselab.metrics.registry import BY_NAME, METRICS, Metric, evaluate, names_of, select

__all__ = [
    "BY_NAME",
    "METRICS",
    "Metric",
    "MetricInputs",
    "NearestCentreCounts",
    "check_metrics",
    "evaluate",
    "names_of",
    "select",
]

_HOMES = {
    "MetricInputs": "collapselab.metrics.inputs",
    "NearestCentreCounts": "collapselab.metrics.inputs",
    "BY_NAME": "collapselab.metrics.registry",
    "METRICS": "collapselab.metrics.registry",
    "Metric": "collapselab.metrics.registry",
    "check_metrics": "collapselab.metrics.names",
    "evaluate": "collapselab.metrics.registry",
    "names_of": "collapselab.metrics.registry",
    "select": "collapselab.metrics.registry",
}
__getattr__ = names_loaded_from(_HOMES, __name__)
