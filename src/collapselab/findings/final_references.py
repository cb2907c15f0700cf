"""Final references make dips: variances around the class means of the last step fall and rise again, plain ones do not.

docs/findings/final-references.md has the hypothesis, the criteria and the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from collapselab.curves import end_value
from collapselab.experiments.claims import Claim, NotAsked, Number, Void
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import SMOKE, At, Changes, Job, digits, job, scales
from collapselab.frames import curve, groups, hidden_layers, last_layer, numbers, rows_that, rows_where
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Recipe
from collapselab.report.builders import by_layer
from collapselab.report.chart import NEUTRAL, TEST, TRAIN, Axis, Chart, Look, Panel, Series, ordered_looks

_LOSSES = {"cross_entropy": "cross-entropy", "mse": "squared loss"}
# Loss, weight decay and dropout of the networks.
_SETTINGS = (
    *((loss, decay, 0.0) for loss in _LOSSES for decay in (0.0, 5e-4)),
    *((loss, 0.0, 0.5) for loss in _LOSSES),
)
_RISES = 1.01  # the end over the minimum: a curve that ends more than 1 % above its minimum rises again


def _jobs(seed: int, changes: Changes) -> list[Job]:
    return [_job(seed, changes, *setting) for setting in _SETTINGS]


def _job(seed: int, changes: Changes, loss: str, decay: float, dropout: float) -> Job:
    recipe = Recipe(
        model=ModelSpec(options={"width": 256, "depth": 3, "batch_norm": False, "dropout": dropout}),
        data=digits(1000, 400),
        loss="mse" if loss == "mse" else "cross_entropy",
        optimizer=Optimizer(learning_rate=0.005, weight_decay=decay),
        steps=4000,
        seed=seed,
        measuring=Measuring(count=32, metrics=("normalized_within", "train_variance"), weak_test_variance=False, spectra=False),
        checkpoints=Checkpoints(at=()),
    )  # fmt: skip
    setting = f"{_LOSSES[loss]}, weight decay {decay:g}" + (f", dropout {dropout:g}" if dropout else "")
    name = f"{loss}-decay-{decay:g}-dropout-{dropout:g}"
    labels = {"setting": setting, "loss": loss, "weight_decay": decay, "dropout": dropout}
    return job(recipe.with_changes(changes), name, **labels)


# ---------------------------------------------------------------- rows


def dip_rows(runs: Grid) -> pd.DataFrame:
    """Return the curves of all runs, and `mean_size` of each layer at the last step.

    This is k of the formula: the mean square of the class means over the spread of the class means, both weighted as in
    the variance.
    """
    tables = []
    for run in runs.all():
        table = run.curve()
        held = run.folder.read_statistics(int(table["step"].max()))
        sizes = {layer: _mean_size(held, f"train/{layer}") for layer in table["layer"].unique()}
        tables.append(table.assign(mean_size=table["layer"].map(sizes)))
    assert len(tables), "an experiment has runs"
    return pd.concat(tables, ignore_index=True)


def _mean_size(held: dict[str, Tensor], place: str) -> float:
    means, counts = (held[f"{place}/{name}"].double() for name in ("class_means", "counts"))
    size = (counts / counts.sum() * means.square().sum(dim=1)).sum()
    return float(size / (means - means.mean(dim=0)).square().sum(dim=1).mean())


def dips(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and layer with what the claims compare.

    Returns:
        The labels, layer and depth; `final_rise`, the end of train variance around final references over its minimum;
        `plain_rise`, the largest value over an earlier one that plain train variance has from the step of that minimum on;
        `minimum` and `predicted_minimum`, r k / (r + k) with r the variance at the end and k `mean_size`.
    """
    return pd.DataFrame([_dip(part) for _, part in groups(rows, "job", "seed", "layer")])


def _dip(run: pd.DataFrame) -> dict[str, Any]:
    _, final = curve(run, "train_variance_final")
    _, plain = curve(run, "train_variance")
    at, end, size = int(np.nanargmin(final)), end_value(final), float(run["mean_size"].iloc[0])
    later = plain[at:]
    labels = {name: run[name].iloc[0] for name in run.columns if name in _KEPT}
    return labels | {
        "final_rise": end / final[at],
        "plain_rise": float(np.max(later / np.minimum.accumulate(later))),
        "minimum": final[at],
        "predicted_minimum": end * size / (end + size),
    }


_NUMBERS = ("final_rise", "plain_rise", "minimum", "predicted_minimum")
_KEPT = (
    "job", "dataset", "model", "setting", "loss", "weight_decay", "dropout", "seed", "ended", "layer", "depth", "is_last",
)  # fmt: skip


# ---------------------------------------------------------------- claims


def _monotone(says: str, **more: Any) -> Claim:
    """Where the curve around final references rises again, the plain one rises by less than 1 % from there on."""

    def measure(dip: pd.DataFrame, bound: float) -> list[Number]:
        one = _rising(dip)
        shown = Number("end over minimum of train variance around final references", one["final_rise"])
        what = "largest rise of plain train variance from the step of that minimum on"
        return [shown, Number(what, one["plain_rise"], below=bound)]

    return Claim(
        **{**_CLAIM, "numbers": measure, "thresholds": (_RISES, 1.005, 1.02), "statement": says, **more}
    )


def _predicted(says: str, **more: Any) -> Claim:
    """Where the curve around final references rises again, its minimum is the predicted one within a factor."""

    def measure(dip: pd.DataFrame, factor: float) -> list[Number]:
        one = _rising(dip)
        minimum, predicted = one["minimum"], one["predicted_minimum"]
        apart = max(minimum / predicted, predicted / minimum)
        return [
            Number("minimum of train variance around final references", minimum),
            Number("minimum that the formula predicts", predicted),
            Number("factor between the two", apart, below=factor),
        ]

    return Claim(**{**_CLAIM, "numbers": measure, "thresholds": (1.1, 1.05, 1.02), "statement": says, **more})


def _rising(dip: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of the only row."""
    if dip.empty:
        raise Void("the layer was not measured")
    one = {name: numbers(dip, name)[0] for name in _NUMBERS}
    if not one["final_rise"] > _RISES:
        raise NotAsked("the curve around final references does not rise again")
    return one


def _of(layers: Any) -> Any:
    return lambda rows: dips(layers(rows))


def _first_layer(rows: pd.DataFrame) -> pd.DataFrame:
    return rows_where(rows, depth=1)


_CLAIM: dict[str, Any] = {"per": ("setting",), "rows": _of(last_layer), "fitted": None}
_PLAIN, _DROPPED = {"dropout": "0.0"}, {"dropout": "0.5"}
_EXPLORED = ("Not part of the hypothesis: this asks where it ends.",)

CLAIMS = (
    _monotone(
        "Where train variance around final references falls and rises again, plain train variance does not rise.",
        id="monotone", only=_PLAIN,
    ),
    _predicted(
        "The minimum of train variance around final references is r k / (r + k), with r the variance at the end and k the "
        "mean square of the class means over their spread.",
        id="predicted-minimum", only=_PLAIN,
    ),
    _monotone(
        "With dropout: where train variance around final references falls and rises again, plain train variance does not rise.",
        id="monotone-dropout", only=_DROPPED, notes=_EXPLORED,
    ),
    _predicted(
        "With dropout: the minimum of train variance around final references is the predicted one.",
        id="predicted-minimum-dropout", only=_DROPPED, notes=_EXPLORED,
    ),
    _monotone(
        "In the first hidden layer: where train variance around final references falls and rises again, plain train variance "
        "does not rise.",
        id="monotone-first-layer", only=_PLAIN, rows=_of(_first_layer), notes=_EXPLORED,
    ),
    _predicted(
        "In the first hidden layer: the minimum of train variance around final references is the predicted one.",
        id="predicted-minimum-first-layer", only=_PLAIN, rows=_of(_first_layer), notes=_EXPLORED,
    ),
)  # fmt: skip


# ---------------------------------------------------------------- charts


def _curves(rows: pd.DataFrame) -> list[Chart]:
    """Both curves of the last layer from where the one around final references is near its minimum; a panel per setting."""
    panels = []
    for at, (setting, part) in enumerate(groups(last_layer(rows), "setting")):
        steps, values = curve(part, "train_variance_final")
        ends = values[steps == steps.max()]
        start = float(steps[values <= _NEAR * ends.max()].min())
        series = tuple(
            Series(name, pd.DataFrame({"x": part["step"], "y": part[column], "seed": part["seed"]}), look)
            for name, column, look in _KINDS
        )
        place, y = divmod(at, 2), Axis("train variance", "tight")
        panels.append(Panel(str(setting), Axis("SGD step", "log", start=start), y, series, place=place))
    text = "Train variance of the last hidden layer, in units of the spread of the class means."
    title, id = "Train variance around two kinds of class means", "final-references"
    return [Chart(id, title, text, tuple(panels), id, share_x=False, share_y=False)]


_NEAR = 1.5  # times the end
_KINDS = (
    ("class means of the last step", "train_variance_final", Look(TEST, "dash", "square")),
    ("class means of the measured step", "train_variance", Look(TRAIN)),
)


def _minima(rows: pd.DataFrame) -> list[Chart]:
    """Measured against predicted minima, a panel per layer; on the line the prediction is exact."""
    table = dips(hidden_layers(rows))
    table = rows_that(table, table["final_rise"] > _RISES)
    axes = Axis("predicted minimum", "tight"), Axis("measured minimum", "tight")
    settings = list(dict.fromkeys(rows["setting"]))
    looks = dict(zip(settings, ordered_looks(len(settings)), strict=True))
    panels = tuple(
        Panel(name, *axes, tuple(_points(part, looks)), place=(0, column))
        for column, (name, part) in enumerate(by_layer(table))
    )
    text = "One point per run whose curve around final references rises again. On the line, the prediction is exact."
    title = "Minimum of train variance around final references: predicted and measured"
    return [Chart("predicted", title, text, panels, "predicted", share_x=False, share_y=False)]


def _points(table: pd.DataFrame, looks: Mapping[str, Look]) -> Iterator[Series]:
    for setting, part in groups(table, "setting"):
        points = pd.DataFrame({"x": part["predicted_minimum"], "y": part["minimum"], "seed": part["seed"]})
        yield Series(str(setting), points, looks[str(setting)], kind="dots")
    ends = [table["predicted_minimum"].min(), table["minimum"].max()]
    yield Series("exact", pd.DataFrame({"x": ends, "y": ends}), Look(NEUTRAL, "dot", "none"))


_WHOLE = At("Nothing is reduced: the whole experiment is small enough for two CPU cores.", seeds=20)

EXPERIMENT = Experiment(
    id="findings/final-references",
    paper="collapselab",
    where="docs/findings/final-references.md",
    title="Dips of variance under final references",
    question="If train variance around the class means of the last step falls and rises again, does variability itself rise "
    "again, or do the references make the dip?",
    presets=scales(
        _jobs,
        paper=_WHOLE,
        cpu=_WHOLE,
        smoke=At(
            f"200 digits, layers of 32 units, 200 steps. {SMOKE}",
            seeds=1,
            changes={"data": digits(200, 200), "model.options.width": 32, "steps": 200, "measuring.count": 8},
        ),
    ),
    rows=dip_rows,
    charts=[_curves, _minima],
    claims=CLAIMS,
)
