"""The page of a run: one file that works offline, every chart also as a table."""

from __future__ import annotations

from typing import Any

from collapselab.metrics import BY_NAME
from collapselab.records.run_folder import RunFolder
from collapselab.report.charts import (
    cosine_map,
    heat_map,
    per_layer,
    singular_values,
    variance_over_steps,
)
from collapselab.report.experiment_page import words_of
from collapselab.report.figures import number
from collapselab.report.rendering import Page, Section, cells, render
from collapselab.report.run_data import RunData, read_run
from collapselab.storage import replace_text


def write_report(folder: RunFolder) -> None:
    """Render the page of a finished run into its folder.

    Raises:
        ValueError: the run is not finished.
    """
    replace_text(folder.report, render_report(read_run(folder)))


def render_report(data: RunData) -> str:
    """The page as one HTML text; the same data give the same bytes."""
    return render(
        Page(
            title=f"Neural collapse: {data.run['data']['name']}",
            summary=_summary(data),
            facts=_facts(data),
            verdicts=[words_of(one) for one in data.verdicts],
            sections=_sections(data),
            numbers_title="All numbers at the end",
            numbers=_final_tables(data),
            warnings=data.warnings,
            warnings_of="of the last measurement",
            made=_made(data.run),
        )
    )


def _summary(data: RunData) -> str:
    first = data.first_collapsed
    where = f"from {first} on" if first else "nowhere"
    model, samples = data.run["recipe"]["model"], data.run["data"]
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in model["options"].items())
    network = f"{model['name']} ({options})" if options else model["name"]
    return (
        f"The network {network} was trained for {data.run['steps']} steps on {samples['num_train']} samples of "
        f"{samples['name']}. On train data its features have collapsed {where} (less than {data.epsilon:.0%} of their "
        "variance lies within classes)."
    )


def _facts(data: RunData) -> list[tuple[str, str]]:
    last = data.final_reference.iloc[-1]
    ratio = last["strong_test_variance"] / last["train_variance"]
    classifier = data.at(data.last_step, "test").iloc[-1]
    return [
        ("train variance", number(last["train_variance"])),
        ("strong test variance", number(last["strong_test_variance"])),
        ("test over train", f"{ratio:.0f}×"),
        ("first collapsed layer", data.first_collapsed or "none"),
        ("nearest centre, test accuracy", f"{classifier['ncc_accuracy']:.1%}"),
    ]


def _made(run: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        *flat_values(run["recipe"]),
        *run["versions"].items(),
        *(
            (name.replace("_", " "), "none" if value is None else value)
            for name, value in run["hardware"].items()
        ),
        ("commit", run["commit"] or "unknown"),
        ("started", run["started"]),
        ("seconds training", run["seconds"]["training"]),
        ("seconds measuring", run["seconds"]["measuring"]),
    ]


def flat_values(values: dict[str, Any], within: str = "") -> list[tuple[str, Any]]:
    """Nested values as name and text, in order; what is not set is left out."""
    out: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = f"{within} {name}".strip().replace("_", " ")
        if isinstance(value, dict):
            out += flat_values(value, path)
        elif value is not None and value != []:
            out.append((path, ", ".join(map(str, value)) if isinstance(value, list) else value))
    return out


def _sections(data: RunData) -> list[Section]:
    return [
        Section("train-test", "Train against test", [variance_over_steps(data)]),
        Section("depth", "Where in the network", [heat_map(data, "train"), heat_map(data, "test")]),
        Section(
            "properties",
            "The four properties of neural collapse, per layer",
            [
                per_layer(
                    data,
                    "normalized_within",
                    id="nc1",
                    title="NC1: samples gather at their class mean",
                    text=f"Share of variance within classes; 0 at full collapse. A layer below {data.epsilon:g} (dashed) "
                    "counts as collapsed.",
                    log_y=True,
                ),
                per_layer(
                    data,
                    "equiangularity",
                    id="nc2",
                    title="NC2: class means spread evenly",
                    text="Standard deviation of the cosines between centred class means; 0 when all angles are equal, as "
                    "in a simplex.",
                ),
                per_layer(
                    data,
                    "alignment",
                    id="nc3",
                    title="NC3: weights line up with class means",
                    text="Mean cosine of the angles between the span of the class means and what the layer's weight "
                    "reads; 1 when they are the same space.",
                ),
                per_layer(
                    data,
                    "ncc_agreement",
                    id="nc4",
                    title="NC4: the nearest class mean decides",
                    text="Share of samples whose nearest train class mean is the network's own decision; 1 at collapse.",
                ),
            ],
        ),
        Section("geometry", "Class-mean geometry", [cosine_map(data, "train"), cosine_map(data, "test")]),
        Section(
            "spectra",
            "Singular values",
            [
                singular_values(
                    data,
                    "weight_singular_values",
                    id="weight-spectrum",
                    title="Weights",
                    text="Largest singular values of each layer's weight. In collapsed layers the weight is close to rank "
                    "C − 1, with equal values.",
                    most=20,
                ),
                singular_values(
                    data,
                    "total_eigenvalues",
                    id="feature-spectrum",
                    title="Features",
                    text="Largest eigenvalues of the total covariance of what each layer reads, on train data. At "
                    "collapse C − 1 are left.",
                    most=20,
                ),
            ],
        ),
    ]


def _final_tables(data: RunData) -> list[tuple[str, dict[str, Any]]]:
    """Every metric at the end, layers as columns, one table per split."""
    out = []
    for split in ("train", "test"):
        rows = data.at(data.last_step, split).set_index("layer")
        names = [name for name in BY_NAME if name in rows.columns and split in BY_NAME[name].splits]
        table = rows[names].T.reset_index(names="metric")
        out.append((f"{split} data", cells(table)))
    return out
