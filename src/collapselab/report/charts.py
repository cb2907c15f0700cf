"""Interactive charts of a run: tables in, plotly figures out.

Colours stand out on light and on dark ground; whatever is text or grid takes its colour from the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from collapselab.report.run_data import RunData

TRAIN, TEST, WEAK, NEUTRAL = "#3b82f6", "#f97316", "#10b981", "#8b93a3"
# From the first layer to the classifier; no end is too dark or too pale for either ground.
_LAYERS = ("#f59e0b", "#ef4444", "#d946ef", "#8b5cf6", "#3b82f6", "#06b6d4", "#10b981", "#84cc16")


@dataclass(frozen=True)
class Chart:
    """A figure, what it shows in a sentence, and its numbers.

    Attributes:
        id: of the element on the page.
        title: above the chart.
        text: what a reader sees in it, with the numbers that matter; also its alternative text.
        figure: the plotly figure, without colours of text and ground.
        table: every number that is drawn.
    """

    id: str
    title: str
    text: str
    figure: go.Figure
    table: pd.DataFrame


def number(value: float | None) -> str:
    """A number for a reader: three digits."""
    return "undefined" if value is None or pd.isna(value) else f"{value:.3g}"


def variance_over_steps(data: RunData) -> Chart:
    """Train, strong test and weak test variance of the last layer, references at the end of training."""
    table = data.final_reference
    figure = _figure("optimiser step", "variance over spread of class means", log_y=True)
    for name, label, colour, dash in (
        ("train_variance", "train", TRAIN, "solid"),
        ("strong_test_variance", "test, strong", TEST, "solid"),
        ("weak_test_variance", "test, weak", WEAK, "dot"),
    ):
        figure.add_scatter(
            x=_log_steps(table["step"]).tolist(),
            y=_plain(table[name]),
            text=[f"step {step}" for step in table["step"]],
            name=label,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"size": 6},
            hovertemplate=f"{label}<br>%{{text}}<br>%{{y:.3g}}<extra></extra>",
        )
    _step_axis(figure, table["step"].tolist())
    last = table.iloc[-1]
    return Chart(
        "variance",
        "Train collapses, test does not",
        f"The last layer's variance around its class means, relative to how far apart these are. At the end it is "
        f"{number(last['train_variance'])} on train data and {number(last['strong_test_variance'])} around the test "
        f"means ({number(last['weak_test_variance'])} around the best k-means centres, whatever the class).",
        figure,
        table,
    )


def heat_map(data: RunData, split: str) -> Chart:
    """Normalized within-class variance by layer and step."""
    rows = data.rows[data.rows["split"] == split]
    table = rows.pivot_table(index="layer", columns="step", values="normalized_within").loc[data.layers]
    logs = table.map(_log10)
    figure = _figure("optimiser step", "")
    figure.add_heatmap(
        z=[_plain(row) for _, row in logs.iterrows()],
        x=[f"step {step}" for step in table.columns],
        y=data.layers,
        customdata=[_plain(row) for _, row in table.iterrows()],
        colorscale="Viridis_r",
        zmin=-4,
        zmax=0,
        xgap=1,
        ygap=1,
        colorbar={
            "tickvals": [0, -1, -2, -3, -4],
            "ticktext": ["1", "0.1", "0.01", "1e-3", "1e-4"],
            "thickness": 12,
        },
        hovertemplate="%{y}, %{x}<br>%{customdata:.3g}<extra></extra>",
    )
    shown = range(0, table.shape[1], max(1, table.shape[1] // 6))
    figure.update_xaxes(
        type="category", tickvals=list(shown), ticktext=[str(table.columns[i]) for i in shown], tickangle=0
    )
    figure.update_yaxes(autorange="reversed", type="category")
    final = table.iloc[:, -1]
    collapsed = int((final < data.epsilon).sum())
    return Chart(
        f"heat-{split}",
        f"Layer by layer, on {split} data",
        f"Share of variance that lies within classes. At the end it is {number(final.iloc[0])} in what the first layer "
        f"reads and {number(final.iloc[-1])} in what the classifier reads; {collapsed} of {len(final)} layers are below "
        f"{data.epsilon:g}.",
        figure,
        table.reset_index(),
    )


def per_layer(data: RunData, metric: str, *, id: str, title: str, text: str, log_y: bool = False) -> Chart:
    """One metric by depth at the end, train against test, and on train at initialisation."""
    series = {
        "train": data.at(data.last_step, "train"),
        "test": data.at(data.last_step, "test"),
        "train, initialisation": data.at(0, "train"),
    }
    figure = _figure("", metric, log_y=log_y)
    styles = {"train": (TRAIN, "solid"), "test": (TEST, "solid"), "train, initialisation": (NEUTRAL, "dot")}
    table = pd.DataFrame({"layer": data.layers})
    for name, rows in series.items():
        colour, dash = styles[name]
        table[name] = rows[metric].to_numpy()
        figure.add_scatter(
            x=data.layers,
            y=_plain(rows[metric]),
            text=data.layers,
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"size": 7},
            hovertemplate=f"{name}<br>%{{x}}<br>%{{y:.4g}}<extra></extra>",
        )
    if metric == "normalized_within":
        figure.add_hline(y=data.epsilon, line={"color": NEUTRAL, "dash": "dash", "width": 1})
    figure.update_xaxes(type="category", tickangle=-35)
    return Chart(id, title, text, figure, table)


def cosine_map(data: RunData, split: str) -> Chart:
    """Cosines between centred class means of the last layer."""
    table = data.cosines[split]
    num_classes = len(table)
    names = [str(name) for name in range(num_classes)]
    figure = _figure("class", "class")
    figure.add_heatmap(
        z=[_plain(row) for _, row in table.iterrows()],
        x=[f"class {name}" for name in names],
        y=[f"class {name}" for name in names],
        colorscale="RdBu_r",
        zmin=-1,
        zmax=1,
        xgap=1,
        ygap=1,
        colorbar={"thickness": 12},
        hovertemplate="%{y} and %{x}<br>cosine %{z:.3f}<extra></extra>",
    )
    ticks = {
        "type": "category",
        "tickvals": list(range(num_classes)),
        "ticktext": names,
        "constrain": "domain",
    }
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks, autorange="reversed", scaleanchor="x")
    values = table.to_numpy()
    between = [values[i, j] for i in range(num_classes) for j in range(num_classes) if i != j]
    low, high = min(between), max(between)
    table = table.rename(columns=str)
    table.insert(0, "class", names)
    return Chart(
        f"cosines-{split}",
        f"Class means of the last layer, on {split} data",
        f"Cosines between class means seen from their centre. A simplex has {-1 / (num_classes - 1):.3f} between any two "
        f"of {num_classes} classes; here they lie between {low:.3f} and {high:.3f}.",
        figure,
        table,
    )


def singular_values(data: RunData, name: str, *, id: str, title: str, text: str, most: int) -> Chart:
    """Leading values of a spectrum per layer at the end, relative to the largest."""
    rows = data.spectra[
        (data.spectra["when"] == "end") & (data.spectra["split"] == "train") & (data.spectra["name"] == name)
    ]
    table = rows.pivot_table(index="index", columns="layer", values="value")[data.layers].head(most)
    figure = _figure("rank", "share of the largest")
    for layer, colour in zip(data.layers, _spread(_LAYERS, len(data.layers)), strict=True):
        values = table[layer].dropna()
        figure.add_scatter(
            x=values.index.tolist(),
            y=_plain(values / values.iloc[0]),
            text=[f"number {index}" for index in values.index],
            customdata=_plain(values),
            name=layer,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            hovertemplate=f"{layer}<br>%{{text}}<br>%{{y:.3f}} of the largest, %{{customdata:.3g}}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    return Chart(id, title, text, figure, table.reset_index())


def _figure(x_title: str, y_title: str, *, log_y: bool = False) -> go.Figure:
    figure = go.Figure()
    axis = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "automargin": True, "fixedrange": True}
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        height=340,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13},
        xaxis=axis | {"title": {"text": x_title}},
        yaxis=axis | {"title": {"text": y_title}},
    )
    if log_y:
        figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure


def _plain(values: pd.Series) -> list[float | None]:
    """Numbers as JSON has them: whatever is not finite is null."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _log_steps(steps: pd.Series) -> pd.Series:
    """Steps for a logarithmic axis; step 0 takes a place of its own, one factor below step 1."""
    return steps.where(steps > 0, 0.5)


def _step_axis(figure: go.Figure, steps: Sequence[int]) -> None:
    ticks = [step for step in (1, 10, 100, 1000, 10_000, 100_000) if step <= max(steps)]
    start = [0.5] if 0 in steps else []
    figure.update_xaxes(
        type="log", tickvals=start + ticks, ticktext=["0"] * len(start) + [str(t) for t in ticks]
    )


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else float("nan")


def _spread(colours: Sequence[str], count: int) -> list[str]:
    """`count` of the colours, evenly spread; repeated where there are more layers than colours."""
    if count >= len(colours):
        return [colours[index % len(colours)] for index in range(count)]
    return [colours[round(index * (len(colours) - 1) / max(count - 1, 1))] for index in range(count)]
