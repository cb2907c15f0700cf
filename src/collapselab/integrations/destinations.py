"""Destinations of scalars beside the run folder, recognised by their methods, so that no library need be installed."""

from __future__ import annotations

import csv
import fnmatch
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from collapselab.errors import InputError, one_line
from collapselab.probes import Profile

# Called with scalars by name and the number of optimiser steps done.
Destination = Callable[[dict[str, float], int], Any]

# A dozen metrics that every layer has; files contain all.
MAIN_METRICS = (
    "normalized_within", "nc1", "vci", "cdnv", "equinorm", "equiangularity", "etf_distance", "self_duality",
    "alignment", "ncc_agreement", "ncc_accuracy", "stable_rank",
)  # fmt: skip

_CSV_HEADER = ["step", "name", "value"]


def destinations(log: Any) -> list[Destination]:
    """Return the destinations that `log=` names.

    Args:
        log: None; a callable of metrics and step; a `SummaryWriter`; a W&B run; a Lightning logger; the path of a
            CSV file; or a list of any of these.

    Raises:
        InputError: an object of any other kind.
    """
    if log is None:
        return []
    if isinstance(log, list | tuple):
        return [destination for item in log for destination in destinations(item)]
    if isinstance(log, str | Path):
        return [_csv_file(Path(log))]
    if callable(getattr(log, "add_scalar", None)):
        return [lambda metrics, step: [log.add_scalar(name, value, step) for name, value in metrics.items()]]
    if callable(getattr(log, "log_metrics", None)):
        return [lambda metrics, step: log.log_metrics(metrics, step=step)]
    if callable(getattr(log, "log", None)) and not isinstance(log, logging.Logger) and _takes_step(log.log):
        return [lambda metrics, step: log.log(metrics, step=step)]
    if callable(log) and not isinstance(log, type):
        return [log]
    raise InputError(
        f"log: cannot write to a {type(log).__name__}; give a callable of metrics and step, a SummaryWriter, a W&B "
        "run, a Lightning logger or the path of a .csv file"
    )


def scalars(profile: Profile, metrics: Sequence[str], layers: str | Sequence[str]) -> dict[str, float]:
    """Return the defined values of a profile, named `split/layer/metric`.

    Args:
        profile: profile of one step.
        metrics: names of metrics.
        layers: `all`, `last`, or names and globs.
    """
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    out = {}
    for layer in profile.layers:
        is_last = layer is profile.layers[-1]
        if not (wanted == ("all",) or (is_last and "last" in wanted) or _matches(layer.name, wanted)):
            continue
        for split, measured in layer.splits.items():
            for name in metrics:
                value = measured.metrics.get(name)
                if value is not None:
                    out[f"{split}/{layer.name}/{name}"] = float(value)
    return out


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _takes_step(method: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        parameter.name == "step" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


def _csv_file(path: Path) -> Destination:
    """Return a function that appends one line per scalar: which are defined can change, but columns cannot."""
    if path.suffix != ".csv":
        raise InputError(f"log: {path} does not end in .csv; give the path of a CSV file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", newline="") as file:
            file.seek(0)
            header = next(csv.reader(file), None)
            if header is None:
                csv.writer(file).writerow(_CSV_HEADER)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"log: {path}: cannot be written ({one_line(error)}); choose another file"
        ) from error
    if header not in (None, _CSV_HEADER):
        raise InputError(f"log: {path} has other columns than {', '.join(_CSV_HEADER)}; choose another file")

    def write(metrics: dict[str, float], step: int) -> None:
        with path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, value] for name, value in metrics.items())

    return write
