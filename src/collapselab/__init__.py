"""Measure neural collapse in deep networks: every metric, every layer, on train and on test data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collapselab.errors import InputError
from collapselab.lazy import names_loaded_from

if TYPE_CHECKING:
    from collapselab.features import Measurement, measure
    from collapselab.integrations import Monitor
    from collapselab.metrics import METRICS, Metric
    from collapselab.models import FixedNetwork, fix_collapsed_layers
    from collapselab.probes import LayerProfile, Profile, profile
    from collapselab.ranking import Ranking, rank
    from collapselab.records.run import Run
    from collapselab.statistics import ClassStats
    from collapselab.views import read_profile, read_run

__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "ClassStats",
    "FixedNetwork",
    "InputError",
    "LayerProfile",
    "Measurement",
    "Metric",
    "Monitor",
    "Profile",
    "Ranking",
    "Run",
    "fix_collapsed_layers",
    "measure",
    "profile",
    "rank",
    "read_profile",
    "read_run",
]

# See `collapselab.lazy`.
_HOMES = {
    "METRICS": "collapselab.metrics",
    "ClassStats": "collapselab.statistics",
    "FixedNetwork": "collapselab.models",
    "LayerProfile": "collapselab.probes",
    "Measurement": "collapselab.features",
    "Metric": "collapselab.metrics",
    "Monitor": "collapselab.integrations",
    "Profile": "collapselab.probes",
    "Ranking": "collapselab.ranking",
    "Run": "collapselab.records.run",
    "fix_collapsed_layers": "collapselab.models",
    "measure": "collapselab.features",
    "profile": "collapselab.probes",
    "rank": "collapselab.ranking",
    "read_profile": "collapselab.views",
    "read_run": "collapselab.views",
}


__getattr__ = names_loaded_from(_HOMES, __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
