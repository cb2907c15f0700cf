"""`plot` of a measurement, a profile or a run, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collapselab.errors import InputError
from collapselab.features.measurement import Measurement
from collapselab.probes import Profile
from collapselab.records.run import Run
from collapselab.report import paper
from collapselab.report.layout import lay_out
from collapselab.views.charts import layer_chart, measurement_chart, step_chart


def plot(result: Measurement | Profile | Run, names: Sequence[str]) -> list[Any]:
    """Draw a result as one figure of matplotlib in the style of the papers' figures, and return its axes in order.

    Raises:
        InputError: an unknown name, or nothing to draw.
        ImportError: matplotlib is not installed.
    """
    if isinstance(result, Profile):
        chart = layer_chart({result.model: result}, names)
    elif isinstance(result, Run):
        chart = step_chart({"run": result}, names)
    else:
        chart = measurement_chart(result, names)
    if not chart.panels:
        raise InputError(f"nothing to draw: {chart.text}")
    return paper.show(lay_out(chart))
