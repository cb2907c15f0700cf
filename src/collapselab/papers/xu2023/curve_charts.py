"""Charts of metrics along training: a panel per network and metric, or per network and setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from collapselab.frames import groups, rows_where
from collapselab.report.chart import (
    NEUTRAL,
    TEST,
    TRAIN,
    WEAK,
    Axis,
    Chart,
    Look,
    Panel,
    Series,
    ordered_looks,
)

_STEP = Axis("SGD step", "linear")
_SHOWN = {
    "vci": "VCI",
    "vci_adjusted": "adjusted VCI",
    "fuzziness": "fuzziness",
    "squared_distance": "squared distance",
    "squared_distance_debiased": "squared distance",
    "cosine_similarity": "cosine similarity",
    "accuracy": "accuracy",
}
FOUR = ("fuzziness", "squared_distance", "cosine_similarity", "vci")
_PARTS = (
    ("within classes, row space", "within_in", Look(TRAIN)),
    ("within classes, off it", "within_off", Look(TEST, "dash", "square")),
    ("between classes, row space", "between_in", Look(WEAK, "dot", "triangle")),
    ("between classes, off it", "between_off", Look(NEUTRAL, "dashdot", "diamond")),
)
_UNITS = (("", "trace of the covariance"), ("_over_between", "trace / Tr Σ_B"))
Rows = pd.DataFrame


@dataclass(frozen=True)
class Metrics:
    """A row of panels per network, a column per metric, and a line per setting.

    Attributes:
        id, title, text: of the chart; the id is also the name of its figure.
        names: metrics, on train data.
        select: the rows that are drawn.
    """

    id: str
    title: str
    text: str
    names: Sequence[str] = FOUR
    select: Callable[[Rows], Rows] = lambda rows: rows

    def __call__(self, rows: Rows) -> list[Chart]:
        panels = []
        for at, (name, part) in enumerate(groups(self.select(rows), "network")):
            settings = list(groups(part, "setting"))
            looks = _setting_looks(rows)
            for column, metric in enumerate(self.names):
                lines = tuple(
                    _line(setting, own, f"train_{metric}", looks[setting]) for setting, own in settings
                )
                panels.append(Panel(str(name), _STEP, Axis(_SHOWN[metric]), lines, place=(at, column)))
        return _charts(self.id, self.title, self.text, panels)


@dataclass(frozen=True)
class TrainAndTest:
    """Lines on train and on test data: a row of panels per network and setting, and a column per metric.

    Of one metric, a row of panels per network and a column per setting.

    Attributes:
        id, title, text, names, select: as of `Metrics`.
    """

    id: str
    title: str
    text: str
    names: Sequence[str]
    select: Callable[[Rows], Rows] = lambda rows: rows

    def __call__(self, rows: Rows) -> list[Chart]:
        drawn, panels = self.select(rows), []
        networks = list(dict.fromkeys(drawn["network"]))
        settings = list(dict.fromkeys(drawn["setting"]))
        for at, ((network, setting), part) in enumerate(groups(drawn, "network", "setting")):
            for column, name in enumerate(self.names):
                lines = (
                    _line("train", part, f"train_{name}", Look(TRAIN)),
                    _line("test", part, f"test_{name}", Look(TEST, "dash", "square")),
                )
                single = (networks.index(network), settings.index(setting))
                place = single if len(self.names) == 1 else (at, column)
                title = f"{network}, {setting}" if len(networks) > 1 else setting
                y = Axis("accuracy", "linear", percent=True) if name == "accuracy" else Axis(_SHOWN[name])
                panels.append(Panel(title, _STEP, y, lines, place=place))
        return _charts(self.id, self.title, self.text, panels)


@dataclass(frozen=True)
class WeightSpace:
    """Traces over the classifier's row space and off it: a row of panels per network, absolute and relative to Tr Sigma_B.

    Attributes:
        id, title, text, select: as of `Metrics`.
    """

    id: str
    title: str
    text: str
    select: Callable[[Rows], Rows] = lambda rows: rows

    def __call__(self, rows: Rows) -> list[Chart]:
        panels = [
            Panel(str(name), _STEP, Axis(unit), tuple(_parts(part, suffix)), place=(at, column))
            for at, (name, part) in enumerate(groups(self.select(rows), "network"))
            for column, (suffix, unit) in enumerate(_UNITS)
        ]
        return _charts(self.id, self.title, self.text, panels)


def of_setting(setting: str) -> Callable[[Rows], Rows]:
    """Return what selects the rows of one setting."""
    return lambda rows: rows_where(rows, setting=setting)


def _parts(part: Rows, suffix: str) -> Iterator[Series]:
    for name, column, look in _PARTS:
        yield _line(name, part, f"train_{column}_weight_space{suffix}", look)


def _setting_looks(rows: Rows) -> Mapping[object, Look]:
    settings = list(dict.fromkeys(rows["setting"]))
    return dict(zip(settings, ordered_looks(len(settings)), strict=True))


def _line(name: object, rows: Rows, column: str, look: Look) -> Series:
    points = pd.DataFrame({"x": rows["step"], "y": rows[column], "seed": rows["seed"]})
    return Series(str(name), points, look)


def _charts(id: str, title: str, text: str, panels: Sequence[Panel]) -> list[Chart]:
    if not panels:
        return []
    return [Chart(id, title, text, tuple(panels), id, share_x=False, share_y=False)]
