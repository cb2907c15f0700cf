"""Options of monitors and callbacks beside those of profiling."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collapselab.errors import InputError, one_line
from collapselab.probes import ProfileOptions


class CallbackOptions(ProfileOptions, total=False):
    """Options of profiling, and those that a callback passes on to its `Monitor`."""

    log_metrics: Iterable[str] | None
    log_layers: str | Sequence[str]
    overwrite: bool
    settings: Mapping[str, Any] | None


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` as JSON gives them back.

    Raises:
        InputError: JSON cannot hold them.
    """
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: {one_line(error)}; give numbers, strings, lists and mappings") from error
