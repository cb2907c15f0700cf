"""Measure neural collapse in deep networks: every metric, every layer, on train and on test data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collapselab.errors import InputError

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

# Importing torch takes seconds, which `collapselab --help` should not: names are loaded when first used.
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
