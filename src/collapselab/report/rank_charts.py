"""Ranks of weights and features by layer, as in figure 5 of Rangamani et al. 2023, and further measures."""

from __future__ import annotations

from collapselab.report.figures import NEUTRAL, Chart, number, spectra_figure
from collapselab.report.layer_chart import Line, Missing, layer_chart
from collapselab.report.metric_charts import journey, metric_chart, usual_lines, weight_chart
from collapselab.report.profile_data import ProfileData

_COMPONENTS = {90: "#8b5cf6", 95: "#d946ef", 99: "#f59e0b"}
_MOST_SINGULAR_VALUES = 20
_SPECTRA = "Singular values of the weights"


def ranks(data: ProfileData) -> list[Chart | Missing]:
    """Singular values of the weights, stable ranks of weights and of features within classes."""
    return [
        _weight_spectra(data),
        weight_chart(
            data,
            "weight_stable_rank",
            title="Stable rank of the weights",
            text="Sum of the squared singular values over the largest; C−1 for a classifier that is a simplex, that is "
            f"{data.num_classes - 1}.",
            y_title="stable rank",
        ),
        _stable_rank(data),
        metric_chart(
            data,
            "stable_rank_per_class",
            title="Stable rank of features, class by class",
            text="The same of each class's own covariance, averaged over classes.",
            y_title="stable rank",
        ),
    ]


def _weight_spectra(data: ProfileData) -> Chart | Missing:
    table = data.weight_singular_values(_MOST_SINGULAR_VALUES)
    if table.empty:
        return Missing(_SPECTRA, "No layer has a weight whose singular values are known.")
    figure = spectra_figure(table)
    if data.num_classes <= len(table):
        figure.add_vline(
            x=data.num_classes,
            line={"color": NEUTRAL, "dash": "dash", "width": 1.5},
            name=f"C = {data.num_classes}",
            layer="below",
        )
    last = table.iloc[:, -1].dropna()
    at = min(data.num_classes, len(last))
    return Chart(
        "weight-spectra",
        _SPECTRA,
        f"The largest {len(table)} of each layer's weight, relative to its largest. In collapsed layers about C−1 stand "
        f"out, nearly equal; the dashed line is at C, {data.num_classes}. In {table.columns[-1]} the largest is "
        f"{number(last.iloc[0])}, number {at} is {number(last.iloc[at - 1] / last.iloc[0] if last.iloc[0] > 0 else None)} of "
        "it.",
        figure,
        table.reset_index(),
    )


def _stable_rank(data: ProfileData) -> Chart | Missing:
    lines = []
    sketched = False
    for line, split in zip(usual_lines(data, "stable_rank"), ("train", "test", None), strict=True):
        if split is None:
            lines.append(line)
            continue
        low, high = data.values("stable_rank_low", split), data.values("stable_rank_high", split)
        # Bounds that equal the value say nothing: there the scatter was kept whole.
        if (low < high).any():
            sketched = True
            lines.append(Line(line.name, line.values, line.colour, line.dash, low=low, high=high))
        else:
            lines.append(line)
    bounds = (
        " Where the scatter was sketched it is an estimate, and lies in the shaded band." if sketched else ""
    )
    return layer_chart(
        data,
        lines,
        id="stable-rank",
        title="Stable rank of features within classes",
        text="Trace of the within-class covariance of all classes together, over its largest eigenvalue. "
        f"{journey(data, lines[0].values, lines[1].values)}{bounds}",
        y_title="stable rank",
        gaps=data.gaps(["stable_rank"]),
    )


def more(data: ProfileData) -> list[Chart | Missing]:
    """Measures of collapse that the paper does not draw."""
    return [
        metric_chart(
            data,
            "vci",
            title="Variability collapse index",
            text="What share of the variance is not between classes, whatever the basis; 0 at collapse (Xu, Liu 2023).",
            y_title="VCI",
        ),
        metric_chart(
            data,
            "fuzziness",
            title="Fuzziness",
            text="Trace of the within-class covariance times the inverse of that between classes; 0 at collapse.",
            y_title="fuzziness",
            log_y=True,
        ),
        metric_chart(
            data,
            "cdnv",
            title="Class-distance normalised variance",
            text="Variance of two classes over twice their squared distance, averaged over pairs; 0 at collapse.",
            y_title="CDNV",
            log_y=True,
        ),
        metric_chart(
            data,
            "cosine_similarity",
            title="Cosine similarity within classes",
            text="Mean cosine of all pairs of samples of one class; 1 at collapse.",
            y_title="mean cosine",
        ),
        metric_chart(
            data,
            "class_separation",
            title="Class separation",
            text="One less the cosine distance within classes over that of all pairs; 1 at collapse.",
            y_title="class separation",
        ),
        _components(data),
    ]


def _components(data: ProfileData) -> Chart | Missing:
    lines, tests, starts = [], [], []
    for percent, colour in _COMPONENTS.items():
        metric, label = f"components_{percent}", f"{percent} %"
        lines.append(Line(f"{label}, train", data.values(metric), colour, legend=f"{label}, train"))
        tests.append(Line(f"{label}, test", data.values(metric, "test"), colour, "dash", "test", "test"))
        start = data.values(metric, at_start=True)
        starts.append(
            Line(f"{label}, initialisation", start, colour, "dot", "initialisation", "initialisation")
        )
    return layer_chart(
        data,
        [*lines, *tests, *starts],
        id="components",
        title="Principal components that hold the variance",
        text="How many hold 90, 95 and 99 % of the total variance; at full collapse at most C−1, here "
        f"{data.num_classes - 1}. {journey(data, lines[-1].values, tests[-1].values, of='99 % on train data take')}",
        y_title="components",
        gaps=data.gaps(["components_99"]),
        log_y=True,
    )
