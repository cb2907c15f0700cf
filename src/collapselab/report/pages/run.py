"""The page of a run: how it collapsed over the steps of training, and where in the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collapselab.frames import rows_where
from collapselab.metrics import BY_NAME
from collapselab.records.recipe import Recipe
from collapselab.records.rows import final
from collapselab.report.builders import VARIANCES
from collapselab.report.chart import Axis, Chart, Heat, Missing, Panel, Series
from collapselab.report.layers import Layers, cosine_chart, spectra_chart, usual_lines
from collapselab.report.pages.rendering import Page, Section, section, verdict_cards, write_page
from collapselab.text import number, percent, words

if TYPE_CHECKING:
    from torch import Tensor

    from collapselab.records.run import Run

_MOST = 20  # values of a spectrum
_PROPERTIES = (
    ("normalized_within", "nc1", "NC1: samples gather at their class mean", "Share of variance within classes; 0 at full collapse. A "
     "layer below the dashed line counts as collapsed."),
    ("equiangularity", "nc2", "NC2: class means spread evenly", "Standard deviation of the cosines between centred class means; 0 when "
     "all angles are equal, as in a simplex."),
    ("alignment", "nc3", "NC3: weights line up with class means", "Mean cosine of the angles between the span of the class means and "
     "what the layer's weight reads; 1 when they are the same space."),
    ("ncc_agreement", "nc4", "NC4: the nearest class mean decides", "Share of samples whose nearest train class mean is the network's "
     "own decision; 1 at collapse."),
)  # fmt: skip


def write_run_page(run: Run, path: Path) -> None:
    """Write the page of a run.

    Raises:
        OSError: it cannot be written.
    """
    write_page(path, run_page(run))


def run_page(run: Run) -> Page:
    """Say what the page of a run shows; the same run gives the same page."""
    spectra = [_spectrum(run, "weight_singular_values", "Weights", "Largest singular values of each layer's weight. In collapsed layers "
                         "the weight is close to rank C − 1, with equal values."),
               _spectrum(run, "total_eigenvalues", "Features", "Largest eigenvalues of the total covariance of what each layer reads, "
                         "on train data. At collapse C − 1 are left.")]  # fmt: skip
    means = {split: run.class_means(split) for split in run.splits}
    cosines = {
        split: cosine_matrix(value) for split, value in means.items() if value is not None and len(value) > 1
    }
    sections = [
        section("train-test", "Train against test", [_variances(run)]),
        section("depth", "Where in the network", [_heat_maps(run)]),
        section(
            "properties",
            "The four properties of neural collapse, per layer",
            [_by_layer(run, *one) for one in _PROPERTIES],
        ),
        section("geometry", "Class-mean geometry", [cosine_chart(cosines)] if cosines else []),
        section("spectra", "Singular values", spectra),
    ]
    return Page(
        f"Neural collapse: {run.record.data.name if run.record.data else 'a monitored run'}",
        _summary(run),
        facts=_facts(run),
        cards=verdict_cards(run.judgements),
        sections=[part for part in sections if part.charts or part.note],
        numbers=[(f"Every metric on {split} data, at the end", _numbers(run, split)) for split in run.splits],
        warnings=run.warnings,
        made=run.record.how_made(),
    )


def _summary(run: Run) -> str:
    record, first = run.record, run.first_collapsed
    what = "The network was measured while it was trained"
    if isinstance(record.recipe, Recipe) and record.data is not None:
        model = record.recipe.model
        options = ", ".join(f"{words(name)} {value}" for name, value in model.options.items())
        network = f"{model.name} ({options})" if options else model.name
        what = f"The network {network} was trained on {record.data.num_train:,} samples of {record.data.name}"
    where = f"have collapsed from {first} on" if first else "have not collapsed at the last layer"
    return (
        f"{what} for {run.last_step:,} steps. On train data its features {where} (less than {percent(run.epsilon)} of their "
        "variance lies within classes)."
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    last = run.variances.iloc[-1]
    train, test = last["train_variance"], last["strong_test_variance"]
    facts = [("train variance", number(train)), ("strong test variance", number(test))]
    if train > 0 and test > 0:
        facts.append(("test over train", f"{number(test / train)}×"))
    facts.append(("first collapsed layer", run.first_collapsed or "none"))
    ends = run.at(run.last_step, "test")
    if "ncc_accuracy" in ends and len(ends):
        facts.append(("nearest centre, test accuracy", percent(ends["ncc_accuracy"].iloc[-1])))
    return facts


def _variances(run: Run) -> Chart | Missing:
    """Train, strong and weak test variance of the last layer, over both references."""
    kinds = ((final, "references of the last step"), (str, "references of the same step"))
    panels = []
    for column, (name_of, title) in enumerate(kinds):
        series = tuple(
            Series(
                one.label,
                pd.DataFrame({"x": run.variances["step"], "y": run.variances[name_of(one.column)]}),
                one.look,
            )
            for one in VARIANCES
            if run.variances[name_of(one.column)].notna().any()
        )
        if series:
            y = Axis("variance / class-mean spread (0: full collapse)")
            panels.append(Panel(title, Axis("optimiser step", "log"), y, series, place=(0, column)))
    last = run.variances.iloc[-1]
    text = (
        "The last layer's variance around its class means, relative to how far apart these are. At the end it is "
        f"{number(last['train_variance'])} on train data and {number(last['strong_test_variance'])} around the test means."
    )
    return (
        Chart("variance", "Variance on train and on test data", text, tuple(panels))
        if panels
        else Missing("Variances", "Not measured.")
    )


def _heat_maps(run: Run) -> Chart | Missing:
    """Share of variance within classes, by layer and step, a panel per split."""
    title = "Share of variance within classes, by layer and step"
    if "normalized_within" not in run.rows:
        return Missing(title, "It was not measured.")
    panels = []
    for column, split in enumerate(run.splits):
        rows = rows_where(run.rows, split=split)
        table = rows.pivot_table(index="layer", columns="step", values="normalized_within", dropna=False).loc[
            run.layers
        ]
        steps = tuple(str(step) for step in table.columns)
        heat = Heat(table.set_axis([f"step {step}" for step in steps], axis=1), 1e-4, 1, log=True)
        axes = Axis("optimiser step", names=steps), Axis(names=tuple(run.layers), reverse=True)
        panels.append(Panel(f"{split} data", *axes, heat=heat, place=(0, column)))
    end = run.at(run.last_step, "train")["normalized_within"]
    text = (
        f"At the end, on train data, it is {number(end.iloc[0])} in what the first layer reads and {number(end.iloc[-1])} in what "
        f"the last one reads; {int((end < run.epsilon).sum())} of {len(end)} layers are below {number(run.epsilon)}."
    )
    return Chart("heat", title, text, tuple(panels))


def _by_layer(run: Run, metric: str, id: str, title: str, text: str) -> Chart | Missing:
    """One metric by depth at the end, train against test, and on train data at initialisation."""
    places = [(run.last_step, "train"), (run.last_step, "test"), (0, "train")]
    train, test, start = (_values(run, metric, step, split) for step, split in places)
    layers = Layers(run.layers, run.first_collapsed)
    level = (run.epsilon, f"ε = {number(run.epsilon)}") if metric == "normalized_within" else None
    text = f"{text} {layers.journey(train, test)}"
    lines = usual_lines(train, test, start)
    return layers.chart(
        lines, id=id, title=title, text=text, y_title=words(metric), log=level is not None, level=level
    )


def _values(run: Run, metric: str, step: int, split: str) -> pd.Series:
    rows = run.at(step, split).set_index("layer")
    values = rows[metric] if metric in rows else pd.Series(dtype="float64")
    return values.reindex(run.layers).astype("float64")


def _spectrum(run: Run, name: str, title: str, text: str) -> Chart | Missing:
    rows = rows_where(run.spectra, when="end", split="train", name=name)
    if rows.empty:
        return Missing(title, "Spectra were not kept.")
    table = rows.pivot_table(index="index", columns="layer", values="value")
    table = table[[layer for layer in run.layers if layer in table]].head(_MOST)
    return spectra_chart(table, id=name.replace("_", "-"), title=title, text=text)


def cosine_matrix(class_means: Tensor) -> pd.DataFrame:
    """Return cosines between class means (C, p) centred at their mean: (C, C), NaN where a mean has no direction."""
    centred = class_means.double().numpy() - class_means.double().mean(0).numpy()
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=np.full_like(centred, np.nan), where=norms > 0)
    return pd.DataFrame(np.clip(unit @ unit.T, -1, 1))


def _numbers(run: Run, split: str) -> pd.DataFrame:
    """Every metric at the end, layers as columns."""
    rows = run.at(run.last_step, split).set_index("layer")
    names = [name for name in BY_NAME if name in rows and split in BY_NAME[name].splits]
    return rows[names].T.reset_index(names="metric")


__all__ = ["Section", "cosine_matrix", "run_page", "write_run_page"]
