"""`plot` of results, which are made far below the floor that draws: it is found by name when it is first used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any


def plotted(result: Any, names: Sequence[str]) -> list[Any]:
    """Draw a result with `collapselab.views.plots`, and return the axes."""
    return import_module("collapselab.views.plots").plot(result, names)
