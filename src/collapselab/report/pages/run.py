"""The page of a run: how it collapsed over the steps of training, and where in the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from collapselab.frames import rows_where
from collapselab.records.recipe import Recipe
from collapselab.records.wording import summary
from collapselab.report.builders import SPREAD, VARIANCES, Lines
from collapselab.report.chart import Axis, Chart, Heat, Mark, Panel
from collapselab.report.layers import Layers, chart_of, cosine_chart, spectra_chart
from collapselab.report.pages.rendering import Page, Section
from collapselab.text import number, percent, words

if TYPE_CHECKING:
    from collapselab.records.run import Run

_MOST = 20  # values of a spectrum
_PROPERTIES = {"nc2": "equiangularity", "nc3": "alignment", "nc4": "ncc_agreement"}
_NETWORK = (
    ("accuracy", "accuracy of the network", percent),
    ("loss", "loss of the network", number),
    ("ncc_accuracy", "accuracy of the nearest class mean", percent),
)
_VARIANCES = Lines(
    "variance",
    "Variance on train and on test data",
    VARIANCES,
    "Variance of the last layer's features around centres, divided by the spread of the centres. “train”: train features around their class means. "
    "“test, strong”: test features around the test class means. “test, weak”: test features around their k-means centres. In a panel titled “centres of "
    "the last step”, all steps use the centres at the end of the run. In a panel titled “centres of the measured step”, each step uses its own centres.",
    axes=(Axis("optimiser step", "log"), SPREAD),
    on_paper=False,
)


def run_page(run: Run) -> Page:
    """Say what the page of a run shows; the same run gives the same page."""
    end, start = (rows_where(run.rows, step=step) for step in (run.last_step, 0))
    layers = Layers(end, start, run.first_collapsed, run.layers_beside)
    epsilon = Mark("y", run.epsilon, f"ε = {number(run.epsilon)}")
    properties = [
        layers.metric("normalized_within", "nc1", marks=[epsilon]),
        *(layers.metric(name, id) for id, name in _PROPERTIES.items()),
    ]
    spectra = [_spectrum(run, name) for name in ("weight_singular_values", "total_eigenvalues")]
    return Page(
        f"Neural collapse: {run.record.data.name if run.record.data else 'a monitored run'}",
        _summary(run, layers),
        facts=_facts(run, layers),
        judgements=run.judgements,
        sections=[
            Section("train-test", "Train against test", [_variances(run)]),
            Section("depth", "Where in the network", [_heat_maps(run, layers)]),
            Section("properties", "The four properties of neural collapse, per layer", properties),
            Section("geometry", "Class-mean geometry", [cosine_chart(run.class_cosines())]),
            Section("spectra", "Singular values", spectra),
        ],
        numbers=[(f"Every metric on {split} data, at the end", layers.table(split)) for split in run.splits],
        warnings=run.warnings,
        made=run.record.how_made(),
    )


def _summary(run: Run, layers: Layers) -> str:
    record, first = run.record, run.first_collapsed
    what = "The network was measured while it was trained"
    if isinstance(record.recipe, Recipe) and record.data is not None:
        model = record.recipe.model
        options = ", ".join(f"{words(name)} {value}" for name, value in model.options.items())
        network = f"{model.name} ({options})" if options else model.name
        what = f"The network {network} was trained on {record.data.num_train:,} samples of {record.data.name}"
    where = f"{first} and all later layers have" if first else "the last layer has not"
    judged = f" {summary(run.judgements)}" if run.judgements else ""
    return (
        f"{what} for {run.last_step:,} steps. On train data, {where} collapsed. A layer is collapsed if less than "
        f"{percent(run.epsilon)} of the variance of its features is within classes.{layers.passed_by}{judged}"
    )


def _facts(run: Run, layers: Layers) -> list[tuple[str, str]]:
    last = run.variances.iloc[-1]
    train, test = last["train_variance"], last["strong_test_variance"]
    facts = [("train variance", number(train)), ("strong test variance", number(test))]
    facts += [("test / train variance", f"{number(test / train)}×")] if train > 0 and test > 0 else []
    facts.append(("first collapsed layer", run.first_collapsed or "none"))
    splits = " / ".join(run.splits)
    for name, what, text in _NETWORK:
        values = [layers.last(name, split) for split in run.splits]
        facts += [(f"{what}, {splits}", " / ".join(map(text, values)))] if pd.notna(values).any() else []
    return facts


def _variances(run: Run) -> Chart:
    """Train, strong and weak test variance of the last layer, over both references."""
    data, recipe = run.record.data, run.record.recipe
    model = recipe.model.name if isinstance(recipe, Recipe) else recipe.monitored
    rows = run.variances.assign(dataset=data.name if data else "its data", model=model, seed=0)
    return _VARIANCES(rows)[0]


def _heat_maps(run: Run, layers: Layers) -> Chart:
    panels: list[Panel] = []
    for split in run.splits if "normalized_within" in run.rows else ():
        rows = rows_where(run.rows, split=split)
        table = rows.pivot_table(index="layer", columns="step", values="normalized_within", dropna=False)
        steps = Axis("optimiser step", names=tuple(map(str, table.columns)))
        heat = Heat(table.loc[layers.names].add_prefix("step "), 1e-4, 1, log=True)
        depth = Axis(names=tuple(layers.names), reverse=True)
        panels.append(Panel(f"{split} data", steps, depth, heat=heat, place=(0, len(panels))))
    end = layers.values("normalized_within")
    ends = {"first": number(end.iloc[0]), "last": number(end.iloc[-1]), "epsilon": number(run.epsilon)}
    return chart_of("heat", panels, **ends, collapsed=(end < run.epsilon).sum(), layers=len(end))


def _spectrum(run: Run, name: str) -> Chart:
    rows = rows_where(run.spectra, when="end", split="train", name=name)
    table = rows.pivot_table(index="index", columns="layer", values="value")
    return spectra_chart(name, table.filter(run.layers).head(_MOST))
