"""Figures 1 to 5 and 8 to 14, and those of sec. 6 and of the law of separation, as charts of the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pandas as pd

from collapselab.frames import groups, last_layer, rows_where
from collapselab.papers.rangamani2023.common import EPSILON
from collapselab.papers.rangamani2023.layer_charts import ByLayer, Rows, Strip
from collapselab.papers.rangamani2023.layer_rows import RECALIBRATED, RUNNING
from collapselab.report.builders import STEPS, Lines, Quantity
from collapselab.report.chart import NEUTRAL, TEST, TRAIN, WEAK, Axis, Chart, Look, Mark, Series

_LEVEL = Mark("y", EPSILON, f"ε = {EPSILON}")
_RECALIBRATED = "Statistics of batch norm are computed over the whole train set."
_SHARE = Axis("within-class share", "linear")


def _one(column: str, label: str = "") -> tuple[Quantity]:
    return (Quantity(column, label or column, Look(TRAIN)),)


def _with_totals(rows: Rows) -> Rows:
    own = rows_where(rows, norms=RECALIBRATED)
    # The mean cosine of C class means is that of a simplex, -1/(C - 1), plus the gap.
    mean_cosine = own["mean_cosine_gap"] - 1 / (own["num_classes"] - 1)
    return own.assign(
        total_trace=own["within_trace"] + own["between_trace"],
        relative_equiangularity=(own["equiangularity"] / mean_cosine.abs()).where(mean_cosine != 0),
    )


def _both_norms(rows: Rows) -> Rows:
    """Put both kinds of batch norm side by side in columns."""
    kinds = (rows_where(rows, norms=norms) for norms in (RECALIBRATED, RUNNING))
    own, running = (part.set_index(["job", "seed", "step", "layer"]) for part in kinds)
    return own.assign(running=running["normalized_within"]).reset_index()


def _singular_values(rows: Rows) -> Iterator[Series]:
    """The largest singular values of each weight at the end, the mean of seeds; the C largest stand out."""
    end = rows_where(rows, step=rows["step"].max())
    classes = int(end["num_classes"].max())
    ranks = [name for name in end if str(name).startswith("singular_value_")]
    for name, chosen, look in (
        (f"the C = {classes} largest", ranks[:classes], Look(TRAIN)),
        (f"the next {len(ranks) - classes}", ranks[classes:], Look(NEUTRAL)),
    ):
        means = [
            {"x": depth, "y": float(part[rank].mean())}
            for depth, part in groups(end, "depth")
            for rank in chosen
        ]
        yield Series(name, pd.DataFrame(means, columns=["x", "y"]).dropna(), look, kind="dots")


_TRACES = (
    Quantity("within_trace", "within", Look(TEST, "dot", "none")),
    Quantity("between_trace", "between", Look(WEAK, "dash", "none")),
    Quantity("total_trace", "total", Look(TRAIN, "solid", "none")),
)
_RANKS = (
    Quantity("stable_rank_per_class", "per class", Look(TRAIN)),
    Quantity("stable_rank", "pooled", Look(TEST, "dash", "square")),
)
_NORMS = (
    Quantity("normalized_within", "recalibrated", Look(TRAIN)),
    Quantity("running", "running statistics", Look(TEST, "dash", "square")),
)
_RANDOM = Quantity("alignment_random", "two random subspaces", Look(NEUTRAL, "dash", "none"))
_TEST_SHARE = Axis("share of test samples", "linear", percent=True)

PROPERTIES = (
    ByLayer("layers", "layers-appendix", "Within-class share of the variance, with both statistics of batch norm",
            [Strip(_SHARE, _NORMS, [_LEVEL])], "Running statistics are those of the last few batches of training.",
            select=_both_norms),
    ByLayer("fig1", "fig8", "NC1: feature variability suppression", [
        Strip(Axis("trace of the covariance", "log"), _TRACES), Strip(_SHARE, _one("normalized_within"), [_LEVEL]),
    ], _RECALIBRATED, select=_with_totals),
    ByLayer("fig2", "fig9", "NC2: convergence of class means to a simplex", [
        Strip(Axis("mean cosine + 1/(C−1)", "linear"), _one("mean_cosine_gap")),
        Strip(Axis("std / mean of cosines", "linear"), _one("relative_equiangularity")),
        Strip(Axis("std / mean of norms", "linear"), _one("equinorm")),
    ], f"All three are 0 in a simplex. {_RECALIBRATED}", select=_with_totals),
    ByLayer("fig3", "fig10", "NC3: alignment of class means and weights",
            [Strip(Axis("mean cosine of principal angles", "linear"), _one("alignment"), level=_RANDOM)], _RECALIBRATED),
    ByLayer("fig4", "fig11", "NC4: nearest class means on test data", [
        Strip(replace(_TEST_SHARE, title="agree with the network"), _one("test_ncc_agreement")),
        Strip(replace(_TEST_SHARE, title="accuracy"), _one("test_ncc_accuracy")),
    ], _RECALIBRATED),
    ByLayer("fig5", "fig12", "Singular values of weights, stable ranks of features and weights", [
        (Axis("singular values of the weight", "log"), _singular_values),
        Strip(Axis("stable rank within classes", "linear"), _RANKS),
        Strip(Axis("the same, in the published code", "linear"), _one("stable_rank_published", "n_c times larger"), only_end=True),
        Strip(Axis("stable rank of the weight", "linear"), _one("weight_stable_rank")),
    ], "The 20 largest singular values of each weight are drawn. Per class: the mean over classes. The published code does not "
       f"divide the numerator by the samples of a class. {_RECALIBRATED}"),
    ByLayer("law-of-separation", "law-of-separation-appendix", "Law of data separation: fuzziness by layer",
            [Strip(Axis("fuzziness", "log"), _one("fuzziness"))],
            f"He and Su (2022): fuzziness falls by the same factor ρ from layer to layer, a straight line here. {_RECALIBRATED}"),
    ByLayer("associative-memory", "associative-memory-appendix", "Recall of the associative memory of features and labels",
            [Strip(replace(_TEST_SHARE, title="recalled test samples"), _one("test_memory_recall"))],
            f"The class with the largest entry of A (h − μ_G). {_RECALIBRATED}"),
)  # fmt: skip

collapse_profile = ByLayer("no-collapse", "no-collapse-appendix", "Profiles of all settings of the search, side by side", [
    Strip(_SHARE, _one("normalized_within"), [_LEVEL]),
    Strip(Axis("std / mean of cosines", "linear"), _one("relative_equiangularity")),
    Strip(replace(_TEST_SHARE, title="NCC agrees on test"), _one("test_ncc_agreement")),
], _RECALIBRATED, select=_with_totals)  # fmt: skip


def along_training(rows: pd.DataFrame) -> list[Chart]:
    """Draw rho and R^2 of the law of separation, and cosine of memory and classifier, over steps."""
    looks = (Look(TRAIN), Look(TEST, "dash", "square"))
    law = (Quantity("separation_rho", "ρ", looks[0]), Quantity("separation_r_squared", "R²", looks[1]))
    memory = (
        Quantity("memory_cosine", "cosine of memory and weight", looks[0]),
        Quantity("alignment", "alignment of their row spaces", looks[1]),
    )
    charts = []
    for id, title, quantities, norms in (
        ("separation-by-step", "Law of data separation along training", law, RECALIBRATED),
        ("memory-by-step", "Associative memory and classifier along training", memory, RUNNING),
    ):
        axes = STEPS, Axis("value", "linear")
        select = partial(_last_layer, norms=norms)
        charts += Lines(id, title, quantities, axes=axes, select=select, references=False)(rows)
    return charts


def _last_layer(rows: Rows, norms: str) -> Rows:
    return rows_where(last_layer(rows), norms=norms)
