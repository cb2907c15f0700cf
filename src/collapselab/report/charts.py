"""Interactive charts of a run: tables in, plotly figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from collapselab.report.figures import (
    NEUTRAL,
    TEST,
    TRAIN,
    WEAK,
    Chart,
    new_figure,
    number,
    plain,
    spectra_figure,
)
from collapselab.report.run_data import RunData


def variance_over_steps(data: RunData) -> Chart:
    """Train, strong test and weak test variance of the last layer, references at the end of training."""
    table = data.final_reference
    figure = new_figure("optimiser step", "variance over spread of class means", log_y=True)
    for name, label, colour, dash in (
        ("train_variance", "train", TRAIN, "solid"),
        ("strong_test_variance", "test, strong", TEST, "solid"),
        ("weak_test_variance", "test, weak", WEAK, "dot"),
    ):
        figure.add_scatter(
            x=_log_steps(table["step"]).tolist(),
            y=plain(table[name]),
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
    figure = new_figure("optimiser step", "")
    figure.add_heatmap(
        z=[plain(row) for _, row in logs.iterrows()],
        x=[f"step {step}" for step in table.columns],
        y=data.layers,
        customdata=[plain(row) for _, row in table.iterrows()],
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
    figure = new_figure("", metric, log_y=log_y)
    styles = {"train": (TRAIN, "solid"), "test": (TEST, "solid"), "train, initialisation": (NEUTRAL, "dot")}
    table = pd.DataFrame({"layer": data.layers})
    for name, rows in series.items():
        colour, dash = styles[name]
        table[name] = rows[metric].to_numpy()
        figure.add_scatter(
            x=data.layers,
            y=plain(rows[metric]),
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
    figure = new_figure("class", "class")
    figure.add_heatmap(
        z=[plain(row) for _, row in table.iterrows()],
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
    return Chart(id, title, text, spectra_figure(table), table.reset_index())


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
