"""Destinations of scalars beside the run folder, recognised by their methods, so that no library need be installed."""

from __future__ import annotations

import csv
import fnmatch
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from collapselab.errors import InputError, one_line
from collapselab.probes import LayerProfile, Profile
from collapselab.storage import replace_text

# Two metrics of NC1, two of NC2, one of NC3 and NC4: what is logged by default. Files contain all that is measured.
MAIN_METRICS = (
    "normalized_within", "cdnv", "equinorm", "equiangularity", "self_duality", "ncc_agreement",
)  # fmt: skip

_PREFIX = "collapse"
_STEP = f"{_PREFIX}/step"
# MLflow accepts these in names, and spaces and colons; a slash would divide the name.
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]")
_CSV_HEADER = ["step", "name", "value"]
_FORMS = (
    "a callable of metrics and step, a SummaryWriter, a W&B run, the mlflow module, a Lightning logger or the path of a .csv "
    "file"
)


@dataclass
class Destination:
    """A logger of the user.

    Attributes:
        name: its name in warnings.
        write: called with scalars by name and the number of optimiser steps done.
        open: called once before the first scalars, with the steps done in the run that is continued (0: a new run) and
            whether earlier rows are overwritten.
    """

    name: str
    write: Callable[[dict[str, float], int], Any]
    open: Callable[[int, bool], None] = lambda _first_step, _overwrite: None
    _has_failed: bool = field(default=False, init=False)

    def send(self, metrics: dict[str, float], step: int) -> None:
        """Write scalars. A logger that fails must not end the training: its first failure is reported in a warning."""
        try:
            self.write(metrics, step)
        except Exception as error:
            is_first, self._has_failed = not self._has_failed, True
            if is_first:
                reason = (one_line(error) or type(error).__name__)[:160]
                warnings.warn(
                    f"log: {self.name} failed at step {step} ({reason}); training goes on, and further failures of it are "
                    "not reported",
                    stacklevel=2,
                )


def destinations(log: Any) -> list[Destination]:
    """Return the destinations that `log=` names.

    Args:
        log: None; a callable of metrics and step; a `SummaryWriter`; a W&B run; the `mlflow` module; a Lightning logger; the
            path of a CSV file; or a list of any of these.

    Raises:
        InputError: an object of any other kind.
    """
    if log is None:
        return []
    if isinstance(log, Destination):
        return [log]
    if isinstance(log, list | tuple):
        return [destination for item in log for destination in destinations(item)]
    if isinstance(log, str | Path):
        file = _CsvFile(Path(log))
        return [Destination(str(log), file.write, file.open)]
    name = log.__name__ if isinstance(log, ModuleType) else type(log).__name__
    if callable(getattr(log, "add_scalar", None)):
        return [
            Destination(
                name, lambda metrics, step: [log.add_scalar(one, metrics[one], step) for one in metrics]
            )
        ]
    if callable(getattr(log, "log_metrics", None)):
        return [Destination(name, lambda metrics, step: log.log_metrics(metrics, step=step))]
    if callable(getattr(log, "define_metric", None)) and callable(getattr(log, "log", None)):
        return [Destination("W&B", lambda metrics, step: _log_to_wandb(log, metrics, step))]
    if callable(getattr(log, "log", None)) and not isinstance(log, logging.Logger) and _takes_step(log.log):
        return [Destination(name, lambda metrics, step: log.log(metrics, step=step))]
    if callable(log) and not isinstance(log, type):
        return [Destination(getattr(log, "__name__", name), log)]
    raise InputError(f"log: cannot write to a {type(log).__name__}; give {_FORMS}")


def scalars(
    profile: Profile, metrics: Sequence[str] | None = None, layers: str | Sequence[str] = "all"
) -> dict[str, float]:
    """Return the defined values of a profile by the names under which they are logged.

    The name is `collapse/METRIC/LAYER` on train data, `collapse/test/METRIC/LAYER` on test data. Characters of a layer that
    a logger would refuse become a hyphen: `fc#2`, the second call of `fc`, is logged as `fc-2`.

    Args:
        profile: profile of one step.
        metrics: names of metrics; default all.
        layers: `all`, `last`, or names and globs.
    """
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    names = _legal_names(layer.name for layer in profile.layers)
    out = {}
    for layer in profile.layers:
        if not _is_wanted(layer, profile, wanted):
            continue
        for split, measured in layer.splits.items():
            prefix = _PREFIX if split == "train" else f"{_PREFIX}/{split}"
            for metric in measured.metrics if metrics is None else metrics:
                value = measured.metrics.get(metric)
                if value is not None:
                    out[f"{prefix}/{metric}/{names[layer.name]}"] = float(value)
    return out


def _is_wanted(layer: LayerProfile, profile: Profile, wanted: Sequence[str]) -> bool:
    if "all" in wanted or ("last" in wanted and layer is profile.layers[-1]):
        return True
    return any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in wanted)


def _legal_names(layers: Iterable[str]) -> dict[str, str]:
    """Return a name for each layer that all loggers accept; no two are equal."""
    names: dict[str, str] = {}
    for layer in layers:
        name = plain = _ILLEGAL.sub("-", layer) or "model"
        number = 2
        while name in names.values():
            name, number = f"{plain}-{number}", number + 1
        names[layer] = name
    return names


def _takes_step(method: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        parameter.name == "step" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters
    )


# The row to which values were last added, of each W&B run: several monitors can log to one run.
_ROWS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def _log_to_wandb(log: Any, metrics: dict[str, float], step: int) -> None:
    """Log to a W&B run, or to the run of the `wandb` module.

    W&B drops rows whose step is lower than one that it has seen. So values carry a step of their own, and are added to
    the row in progress: the user's steps are not advanced by them.
    """
    run = log.run if isinstance(log, ModuleType) else log
    if run is None:
        raise RuntimeError("wandb.init was not called")
    if run not in _ROWS:
        run.define_metric(_STEP, hidden=True)
        run.define_metric(f"{_PREFIX}/*", step_metric=_STEP)
    elif run.step == _ROWS[run]:  # the row still holds values of an earlier step
        run.log({}, commit=True)
    run.log({**metrics, _STEP: step}, commit=False)
    _ROWS[run] = run.step


class _CsvFile:
    """A CSV file of one line per scalar: which scalars are defined can change, but columns cannot."""

    def __init__(self, path: Path) -> None:
        if path.suffix != ".csv":
            raise InputError(f"log: {path} does not end in .csv; give the path of a CSV file")
        self._given = self._path = path

    def open(self, first_step: int, overwrite: bool) -> None:
        """Create the file. Rows of earlier starts stay: a new start writes to `NAME_version_1.csv`, `NAME_version_2.csv`, …

        Args:
            first_step: steps done in the run that is continued: in the newest file, rows of later steps are removed.
            overwrite: whether the newest file is replaced.

        Raises:
            InputError: it cannot be written, or is a file of something else.
        """
        try:
            self._given.parent.mkdir(parents=True, exist_ok=True)
            newest = self._newest()
            self._path = self._version(newest)
            rows = self._rows(self._path)
            if rows and not first_step and not overwrite:
                self._path = self._version(newest + 1)
                rows = []
            kept = [row for row in rows if first_step and int(row[0]) <= first_step]
            text = io.StringIO(newline="")
            csv.writer(text).writerows([_CSV_HEADER, *kept])
            replace_text(self._path, text.getvalue())
        except (OSError, ValueError, IndexError, csv.Error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"log: {self._path}: cannot be written ({one_line(error)}); choose another file"
            ) from error

    def write(self, metrics: dict[str, float], step: int) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows([step, name, value] for name, value in metrics.items())

    def _newest(self) -> int:
        name = re.compile(rf"{re.escape(self._given.stem)}_version_([1-9][0-9]*)\.csv")
        found = (name.fullmatch(path.name) for path in self._given.parent.iterdir())
        return max((int(match[1]) for match in found if match), default=0)

    def _version(self, number: int) -> Path:
        return self._given.with_stem(f"{self._given.stem}_version_{number}") if number else self._given

    def _rows(self, path: Path) -> list[list[str]]:
        if not path.exists():
            return []
        with path.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [_CSV_HEADER]
        if header != _CSV_HEADER:
            raise InputError(
                f"log: {path} has other columns than {', '.join(_CSV_HEADER)}; choose another file"
            )
        return rows
