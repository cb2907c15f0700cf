"""Charts of fig. 7: mean log odds gain against every metric, in both groups of networks."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from collapselab.frames import groups, numbers
from collapselab.inference import rank_correlation
from collapselab.papers.xu2023.published import published_rows
from collapselab.papers.xu2023.transfer import REGULARISER, TEMPERATURE
from collapselab.report.chart import TEST, TRAIN, Axis, Chart, Look, Panel, Series, ordered_looks
from collapselab.text import number

METRICS = {
    "train_fuzziness": "fuzziness",
    "train_squared_distance": "squared distance",
    "train_cosine_similarity": "cosine similarity",
    "train_vci_adjusted": "adjusted VCI",
}
_VARIED = {TEMPERATURE: "temperature {:g}", REGULARISER: "weight {:g}"}
_GAIN = Axis("mean log odds gain", "tight")


def gains(rows: pd.DataFrame) -> list[Chart]:
    """Draw a row of panels per group and a column per metric: a point per network and seed, and the mean of each network."""
    panels = []
    for at, (group, part) in enumerate(groups(rows, "group")):
        settings = sorted(set(numbers(part, "value")))
        looks = dict(zip(settings, ordered_looks(len(settings)), strict=True))
        for column, (name, title) in enumerate(METRICS.items()):
            series = tuple(
                Series(_VARIED[group].format(value), _points(own, name), looks[float(value)], kind="points")
                for value, own in groups(part.sort_values("value"), "value")
            )
            panels.append(Panel(f"vary the {group}", Axis(title, "tight"), _GAIN, series, place=(at, column)))
    text = f"Metrics on train data. Rank correlations with the gain, mean over seeds: {_correlations(rows)}."
    return [_chart("fig7", "Transfer against metrics of collapse", text, panels)]


def published(_: pd.DataFrame) -> list[Chart]:
    """Draw table 2 of the paper in the same way."""
    rows = published_rows()
    panels = []
    for at, (group, part) in enumerate(groups(rows, "group")):
        for column, (name, title) in enumerate(METRICS.items()):
            series = (
                Series("a row of table 2", _points(part, name), Look(TEST, marker="square"), kind="dots"),
            )
            panels.append(Panel(f"vary the {group}", Axis(title, "tight"), _GAIN, series, place=(at, column)))
    text = f"ResNet-50 on ImageNet, ten downstream data sets; numbers of the paper. Rank correlations: {_correlations(rows)}."
    return [_chart("published", "As published in table 2", text, panels)]


def accuracies(rows: pd.DataFrame) -> list[Chart]:
    """Draw the accuracy on the pre-training task and on every downstream task over what is varied."""
    names = [name for name in rows if str(name).startswith("accuracy, ")]
    panels = []
    for column, (group, part) in enumerate(groups(rows, "group")):
        drawn = {"pre-training, train": "train_accuracy", "pre-training, test": "test_accuracy"}
        drawn |= {str(name).removeprefix("accuracy, "): str(name) for name in names}
        looks = [Look(TRAIN, "dash", "cross"), Look(TRAIN), *ordered_looks(len(names))]
        points = (
            pd.DataFrame({"x": part["value"], "y": part[name], "seed": part["seed"]})
            for name in drawn.values()
        )
        series = tuple(map(Series, drawn, points, looks))
        axes = (
            Axis("temperature" if group == TEMPERATURE else "weight of the regulariser", "log"),
            Axis("accuracy", "tight", percent=True),
        )
        panels.append(Panel(f"vary the {group}", *axes, series, place=(0, column)))
    title = "Accuracy on the pre-training task and of linear probes"
    return [
        Chart("accuracy", title, "On test data, but for one line.", tuple(panels), "accuracy", share_x=False)
    ]


def _points(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    points = pd.DataFrame({"x": rows[name], "y": rows["gain"], "seed": rows["seed"]})
    return points.assign(group=rows["value"]) if "value" in rows else points


def _correlations(rows: pd.DataFrame) -> str:
    return "; ".join(f"{group}: {', '.join(_of_group(part))}" for group, part in groups(rows, "group"))


def _of_group(part: pd.DataFrame) -> Iterator[str]:
    for name, title in METRICS.items():
        found = [
            rank_correlation(numbers(own, name), numbers(own, "gain")) for _, own in groups(part, "seed")
        ]
        yield f"{title} {number(sum(found) / len(found), 2)}"


def _chart(id: str, title: str, text: str, panels: list[Panel]) -> Chart:
    return Chart(id, title, text, tuple(panels), id, share_x=False, share_y=False)
