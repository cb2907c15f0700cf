"""Interactive charts of an experiment: rows in, what its page shows out."""

from __future__ import annotations

from collapselab.report.experiment_curves import layer_charts, variance_charts
from collapselab.report.experiment_points import construction_charts, size_charts
from collapselab.report.experiment_transfer import transfer_charts

__all__ = ["construction_charts", "layer_charts", "size_charts", "transfer_charts", "variance_charts"]
