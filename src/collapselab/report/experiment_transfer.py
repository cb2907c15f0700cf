"""Charts of transfer: what checkpoints of a pre-trained network lead to on a downstream task."""

from __future__ import annotations

import pandas as pd

from collapselab.report.experiment_data import (
    best_transfer,
    defined,
    kept,
    over_seeds,
    panels,
    place_of_zero,
    placed,
)
from collapselab.report.experiment_drawing import Series, curve_chart, log_axis_with_zero
from collapselab.report.experiment_looks import TRANSFER
from collapselab.report.figures import TEST, TRAIN, Chart, new_figure, plain, shades


def transfer_charts(rows: pd.DataFrame) -> list[Chart]:
    """Of every data set and network: accuracy by collapse of the checkpoint, by learning rate, and the pre-training."""
    charts = []
    for index, (title, part) in enumerate(panels(rows)):
        charts.append(_transfer(best_transfer(part), index, title))
        tuned = kept(part, part["kind"] == "fine_tuning")
        steps = sorted(set(tuned["pretrain_step"]))
        charts.append(
            curve_chart(
                [
                    Series(
                        f"from step {step:,}", kept(tuned, tuned["pretrain_step"] == step), "accuracy", colour
                    )
                    for step, colour in zip(steps, shades(len(steps)), strict=True)
                ],
                x="learning_rate",
                id=f"learning-rates-{index}",
                title=f"Fine-tuning, every learning rate: {title}",
                text="Test accuracy on the downstream task, a line per checkpoint; missing where training diverged.",
                x_title="learning rate of fine-tuning",
                y_title="downstream test accuracy",
                percent=True,
            )
        )
        before = kept(part, part["kind"] == "pretraining").rename(columns={"pretrain_step": "step"})
        for column, what, colour, percent in (
            ("train_variance", "train variance", TRAIN, False),
            ("accuracy", "test accuracy on the super-classes", TEST, True),
        ):
            charts.append(
                curve_chart(
                    [Series(what, before, column, colour)],
                    x="step",
                    id=f"pretraining-{column.replace('_', '-')}-{index}",
                    title=f"Pre-training, {what}: {title}",
                    text="References at the last step; 0 at full collapse."
                    if not percent
                    else "Two classes.",
                    y_title=what,
                    percent=percent,
                )
            )
    return charts


def _transfer(best: pd.DataFrame, index: int, title: str) -> Chart:
    figure = new_figure("train variance of the checkpoint", "downstream test accuracy")
    zero = place_of_zero(best["train_variance"])
    for look in TRANSFER:
        part = kept(best, best["kind"] == look.key)
        if not len(defined(part["accuracy"])):
            continue
        x = over_seeds(part, "pretrain_step", "train_variance", geometric=True)
        y = over_seeds(part, "pretrain_step", "accuracy", geometric=False)
        figure.add_scatter(
            x=plain(placed(x["mean"], zero)),
            y=plain(y["mean"]),
            text=[
                f"step {s:,}, train variance {v:.3g}"
                for s, v in zip(x["pretrain_step"], x["mean"], strict=True)
            ],
            error_y={
                "array": [value or 0.0 for value in plain(y["high"] - y["mean"])],
                "arrayminus": [value or 0.0 for value in plain(y["mean"] - y["low"])],
                "thickness": 1,
                "width": 3,
            },
            name=look.label,
            meta={"name": f"{look.label}, mean", "percent": True},
            mode="lines+markers",
            line={"color": look.colour, "dash": look.dash, "width": 2.5},
            marker={"size": 9, "symbol": look.symbol},
            hovertemplate=f"{look.label}<br>%{{text}}<br>%{{y:.1%}}<extra></extra>",
        )
        figure.add_scatter(
            x=plain(placed(part["train_variance"], zero)),
            y=plain(part["accuracy"]),
            text=[
                f"seed {seed}, step {step:,}, train variance {value:.3g}"
                for seed, step, value in zip(
                    part["seed"], part["pretrain_step"], part["train_variance"], strict=True
                )
            ],
            name=f"{look.label}, each seed",
            meta={"percent": True},
            mode="markers",
            marker={"size": 5, "color": look.colour, "symbol": look.symbol, "opacity": 0.5},
            showlegend=False,
            hovertemplate=f"{look.label}<br>%{{text}}<br>%{{y:.1%}}<extra></extra>",
        )
    if len(defined(best["train_variance"])):
        log_axis_with_zero(figure, "x", best["train_variance"], most=6)
    figure.update_yaxes(tickformat=".0%")
    return Chart(
        f"transfer-{index}",
        f"Accuracy after transfer by collapse of the checkpoint: {title}",
        "Each checkpoint of pre-training by its train variance (references at the last step, 0 at full collapse, so that more collapsed ones stand left) and the "
        "test accuracy it leads to on the downstream task: the best over all learning rates. Lines are means over "
        "seeds, bars their range.",
        figure,
        best.filter(["kind", "seed", "pretrain_step", "train_variance", "accuracy"]).sort_values(
            ["kind", "pretrain_step", "seed"]
        ),
    )
