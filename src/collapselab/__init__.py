"""Measure neural collapse in deep networks: every metric, every layer, on train and on test data."""

from collapselab.checks import InputError
from collapselab.measure import Measurement, measure
from collapselab.metrics import METRICS, Metric
from collapselab.statistics import ClassStats

__version__ = "0.1.0"

__all__ = ["METRICS", "ClassStats", "InputError", "Measurement", "Metric", "measure"]
