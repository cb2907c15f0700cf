"""Options of monitors and callbacks beside those of profiling."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collapselab.errors import InputError, one_line
from collapselab.metrics.registry import BY_NAME, CHEAP_METRICS
from collapselab.probes import ProfileOptions
from collapselab.probes.select import LAST


class CallbackOptions(ProfileOptions, total=False):
    """Options of profiling, and those that a callback passes on to its `Monitor`."""

    log_metrics: Iterable[str] | None
    log_layers: str | Sequence[str]
    overwrite: bool
    settings: Mapping[str, Any] | None


def monitored_options(
    options: ProfileOptions, log_metrics: Sequence[str] | None, log_layers: str | Sequence[str]
) -> ProfileOptions:
    """Return the options of a monitor: where they say nothing, the last layer and cheap metrics are measured.

    Args:
        options: as given.
        log_metrics: names of metrics to log, which are measured too.
        log_layers: layers to log: unless that is the last one, all are measured.
    """
    measured = [name for name in BY_NAME if name in {*CHEAP_METRICS, *(log_metrics or ())}]
    layers = None if log_layers not in ("last", ["last"], ("last",)) else LAST
    return {"layers": layers, "metrics": measured, **options}


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` as JSON gives them back.

    Raises:
        InputError: JSON cannot hold them.
    """
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: {one_line(error)}; give numbers, strings, lists and mappings") from error
