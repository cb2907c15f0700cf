"""From one result, or several of a kind, to charts: metrics by layer, over training, by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from collapselab.features.measurement import Measurement
from collapselab.frames import last_layer, rows_where
from collapselab.metrics import BY_NAME
from collapselab.names import check_names
from collapselab.probes import Profile
from collapselab.records.run import Run
from collapselab.report.chart import TEST, TRAIN, WEAK, Axis, Chart, Look, Mark, Panel, Series, ordered_looks
from collapselab.report.scales import names_fit
from collapselab.text import words

# One metric for each property of neural collapse.
PROPERTIES = ("normalized_within", "equiangularity", "alignment", "ncc_agreement")
# What a network does, beside what its features do.
NETWORK = ("loss", "accuracy")
_SPLITS = {"train": Look(TRAIN), "test": Look(TEST, "dash", "square")}
_MOST_CLASSES = 40  # whose labels fit along an axis
_CLASS_TITLES = {
    "relative_variance": "Variance within each class / spread of the class means",
    "closest_cdnv": "Overlap with the closest class (CDNV)",
    "variance": "Variance within each class",
    "distance_from_centre": "Distance of the class mean from the centre",
    "num_samples": "Samples",
}


def layer_chart(profiles: Mapping[str, Profile], names: Sequence[str] = ()) -> Chart:
    """Return a chart of metrics by layer, a panel per metric; train lines are solid, test lines dashed.

    Args:
        profiles: by the name of their lines.
        names: of metrics; default: one for each property of neural collapse.

    Raises:
        InputError: an unknown metric.
    """
    names = _checked(names, BY_NAME, "metric", PROPERTIES)
    frames = {name: profile.to_frame() for name, profile in profiles.items()}
    layers = [rows_where(frame, split="train").sort_values("depth") for frame in frames.values()]
    same = all(table["layer"].tolist() == layers[0]["layer"].tolist() for table in layers)
    labels = tuple(layers[0]["layer"]) if same else ()
    title = "layer" if labels and names_fit(labels) else "depth of the layer"
    x = Axis(title, names=labels) if same else Axis("depth of the layer", "linear")
    one = next(iter(profiles.values()))
    marks: list[Mark] = []
    if len(profiles) == 1 and one.first_collapsed_layer is not None:
        marks = [
            Mark(
                "x",
                labels.index(one.first_collapsed_layer),
                "first collapsed layer",
                Look(WEAK, "solid", "none"),
            )
        ]
    panels = []
    for metric in names:
        series = [
            Series(
                _legend(name, split, frames),
                _points(rows, "depth", metric),
                look,
                apart=profiles[name].layers_beside,
            )
            for name, split, look in _styles(frames)
            if metric in frames[name] and len(rows := rows_where(frames[name], split=split))
        ]
        own = [Mark("y", one.epsilon, f"ε = {one.epsilon:g}")] if metric == "normalized_within" else []
        panels.append((metric, series, [*own, *marks]))
    return _chart("layers", "Metrics by layer", panels, x)


def step_chart(runs: Mapping[str, Run], names: Sequence[str] = ()) -> Chart:
    """Return a chart of metrics of the last layer over training, a panel per metric.

    Args:
        runs: by the name of their lines.
        names: of metrics, `loss` or `accuracy`; default: what was measured of the properties of neural collapse,
            and loss and accuracy.

    Raises:
        InputError: a name that was measured in none of the runs.
    """
    frames = {name: last_layer(run.rows) for name, run in runs.items()}
    measured = [
        name
        for name in (*BY_NAME, *NETWORK)
        if any(name in frame and frame[name].notna().any() for frame in frames.values())
    ]
    usual = [name for name in (*PROPERTIES, "vci_adjusted", *NETWORK) if name in measured]
    names = _checked(names, measured, "measured quantity", usual)
    panels = []
    for metric in names:
        series = [
            Series(_legend(name, split, frames), _points(rows, "step", metric), look)
            for name, split, look in _styles(frames)
            if metric in frames[name] and len(rows := rows_where(frames[name], split=split))
        ]
        panels.append((metric, series, []))
    return _chart("training", "Last layer over training", panels, Axis("optimiser step", "log"))


def class_chart(tables: Mapping[str, pd.DataFrame], names: Sequence[str] = ()) -> Chart:
    """Return a chart of values by class, a panel per value.

    Args:
        tables: by split, as `Measurement.class_details`.
        names: of columns; default: relative variance, and overlap with the closest class.

    Raises:
        InputError: an unknown column.
    """
    names = _checked(names, _CLASS_TITLES, "value of a class", ("relative_variance", "closest_cdnv"))
    labels = sorted({label for table in tables.values() for label in table["label"]})
    place = {label: at for at, label in enumerate(labels)}
    few = len(labels) <= _MOST_CLASSES
    x = (
        Axis("class", names=tuple(map(str, labels)))
        if few
        else Axis("class, in the order of labels", "linear")
    )
    panels = []
    for at, name in enumerate(names):
        series = []
        for split, table in tables.items():
            points = pd.DataFrame({"x": table["label"].map(place), "y": table[name].replace(np.inf, np.nan)})
            points["point"] = [f"class {label}" for label in table["label"]]
            series.append(Series(split, points, _SPLITS[split], kind="dots"))
        panels.append(Panel(_CLASS_TITLES[name], x, Axis("", "auto"), tuple(series), place=(at, 0)))
    return Chart("classes", "Class by class", "", tuple(panels), share_y=False)


def measurement_chart(measurement: Measurement, names: Sequence[str] = ()) -> Chart:
    """Return a chart of the classes of a measurement, and of its spectra where it has some: see `class_chart`."""
    chart = class_chart(measurement.class_details, names)
    spectra = sorted({name for lists in measurement.spectra.values() for name in lists}) if not names else []
    panels = list(chart.panels)
    for name in spectra:
        series = [
            Series(split, pd.DataFrame({"x": range(1, len(values) + 1), "y": values}), _SPLITS[split])
            for split, lists in measurement.spectra.items()
            if (values := lists.get(name))
        ]
        panel = Panel(
            words(name), Axis("rank", "log"), Axis("", "auto"), tuple(series), place=(len(panels), 0)
        )
        panels.append(panel)
    return replace(chart, panels=tuple(panels), share_x=False)


# ---------------------------------------------------------------- parts


def _checked(
    names: Sequence[str], known: Sequence[str] | Mapping[str, object], what: str, usual: Sequence[str]
) -> list[str]:
    check_names(names, known, what)
    return list(dict.fromkeys(names)) or list(usual)


def _styles(frames: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str, Look]]:
    """Name, split and look of every line: one result has the usual colours; several have a colour each."""
    looks = ordered_looks(len(frames))
    for name, look in zip(frames, looks, strict=True):
        for split, usual in _SPLITS.items():
            yield name, split, usual if len(frames) == 1 else Look(look.colour, usual.dash, usual.marker)


def _legend(name: str, split: str, frames: Mapping[str, pd.DataFrame]) -> str:
    return split if len(frames) == 1 else f"{name}, {split}"


def _points(rows: pd.DataFrame, x: str, metric: str) -> pd.DataFrame:
    points = pd.DataFrame({"x": rows[x], "y": rows[metric].astype("float64")})
    if x == "depth":
        points["point"] = [
            f"depth {depth}, {layer}" for depth, layer in zip(rows["depth"], rows["layer"], strict=True)
        ]
    return points.sort_values("x")


def _chart(id: str, title: str, parts: Sequence[tuple[str, list[Series], list[Mark]]], x: Axis) -> Chart:
    """A chart of one or two columns of panels; a metric without values has none."""
    columns = 1 if len(parts) == 1 else 2
    panels = []
    for metric, series, marks in parts:
        shown = tuple(one for one in series if one.points["y"].notna().any())
        if shown:
            place = divmod(len(panels), columns)
            y = Axis("", "auto", percent=metric in ("accuracy", "ncc_agreement", "ncc_accuracy"))
            panels.append(Panel(words(metric), x, y, shown, tuple(marks), place=place))
    text = "" if panels else f"Not measured: {', '.join(words(metric) for metric, _, _ in parts)}."
    return Chart(id, title, text, tuple(panels), share_y=False)
