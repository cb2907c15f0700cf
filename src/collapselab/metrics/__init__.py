"""Metrics of neural collapse: pure functions of class statistics, listed in one registry."""

from collapselab.metrics.inputs import MetricInputs, NearestCentreCounts
from collapselab.metrics.registry import BY_NAME, METRICS, Metric, check_metrics, evaluate, names_of, select

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
