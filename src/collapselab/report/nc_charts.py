"""The four properties of neural collapse by layer, as Rangamani et al. 2023 draw them in figures 1 to 4."""

from __future__ import annotations

from collapselab.report.figures import NEUTRAL, TEST, TRAIN, Chart, number
from collapselab.report.layer_chart import Line, Missing, layer_chart
from collapselab.report.metric_charts import journey, metric_chart, usual_lines, weight_chart
from collapselab.report.profile_data import ProfileData

# Quantities of one chart that shows several; train, test and the first collapsed layer have colours of their own.
_WITHIN, _BETWEEN, _TOTAL = "#d946ef", "#06b6d4", NEUTRAL
# Name and group of the legend entry that all lines at initialisation share.
_START = ("initialisation", "initialisation")


def nc1(data: ProfileData) -> list[Chart | Missing]:
    """Within-class variance is suppressed: traces, and their shares."""
    return [*(_traces(data, split) for split in data.splits), _shares(data)]


def _shares(data: ProfileData) -> Chart | Missing:
    lines = []
    within = {split: data.values("normalized_within", split) for split in ("train", "test")}
    for split, colour in (("train", TRAIN), ("test", TEST)):
        lines.append(Line(f"within, {split}", within[split], colour))
        lines.append(Line(f"between, {split}", 1 - within[split], colour, "dash"))
    start = data.values("normalized_within", at_start=True)
    for name, values in (("within", start), ("between", 1 - start)):
        lines.append(Line(f"{name}, train, initialisation", values, NEUTRAL, "dot", *_START))
    first = data.first_collapsed
    where = (
        f"stays below {data.epsilon:g} from {first} on" if first else f"does not end below {data.epsilon:g}"
    )
    return layer_chart(
        data,
        lines,
        id="nc1-shares",
        title="Shares of the variance",
        text="Variance within classes and between them, as shares of all. On train data the share within classes "
        f"{where}. {journey(data, within['train'], within['test'], of='It is')}",
        y_title="share of the variance",
        level=(data.epsilon, f"ε = {data.epsilon:g}"),
        gaps=data.gaps(["normalized_within"]),
    )


def _traces(data: ProfileData, split: str) -> Chart | Missing:
    lines, starts = [], []
    for name, colour, dash in (
        ("total", _TOTAL, "solid"),
        ("between", _BETWEEN, "dash"),
        ("within", _WITHIN, "solid"),
    ):
        lines.append(Line(name, data.values(f"{name}_trace", split), colour, dash))
        start = data.values(f"{name}_trace", split, at_start=True)
        starts.append(Line(f"{name}, initialisation", start, colour, "dot", *_START))
    _, between, within = (line.values for line in lines)
    return layer_chart(
        data,
        [*lines, *starts],
        id=f"nc1-traces-{split}",
        title=f"Variance on {split} data",
        text="Traces of the covariance within classes, between class means, and of both. Where the last layer reads, "
        f"{number(within.iloc[-1])} within and {number(between.iloc[-1])} between; where the first reads, "
        f"{number(within.iloc[0])} and {number(between.iloc[0])}.",
        y_title="trace of the covariance",
        gaps=data.gaps(["within_trace", "between_trace", "total_trace"]),
        log_y=True,
    )


def nc2(data: ProfileData) -> list[Chart | Missing]:
    """Class means become a simplex: wide angles, equal angles, equal norms."""
    ratios = _relative_spread(data)
    return [
        metric_chart(
            data,
            "mean_cosine_gap",
            title="Angles as wide as a simplex has them",
            text="Mean cosine between centred class means, plus 1/(C−1); 0 in a simplex.",
            y_title="mean cosine + 1/(C−1)",
        ),
        layer_chart(
            data,
            ratios,
            id="relative_equiangularity",
            title="Equal angles",
            text="Standard deviation of these cosines over the size of their mean; 0 when all are equal. "
            "Drawn from equiangularity and mean cosine gap, not a metric of its own. "
            f"{journey(data, ratios[0].values, ratios[1].values)}",
            y_title="std / |mean| of cosines",
            gaps=data.gaps(["equiangularity", "mean_cosine_gap"]),
        ),
        metric_chart(
            data,
            "equinorm",
            title="Equal norms",
            text="Standard deviation of the class means' distances from their centre, over their mean; 0 when all are "
            "equal.",
            y_title="std / mean of norms",
        ),
    ]


def _relative_spread(data: ProfileData) -> list[Line]:
    """The lines of equiangularity, each over the size of its mean cosine."""
    out = []
    spread, gap = usual_lines(data, "equiangularity"), usual_lines(data, "mean_cosine_gap")
    simplex = 1 / (data.num_classes - 1) if data.num_classes > 1 else float("nan")
    for line, its_gap in zip(spread, gap, strict=True):
        mean = (its_gap.values - simplex).abs()
        ratio = (line.values / mean).where(mean > 0)
        out.append(Line(line.name, ratio, line.colour, line.dash, line.legend))
    return out


def nc3(data: ProfileData) -> list[Chart | Missing]:
    """Weights line up with class means, and have equal singular values."""
    train, _, start = usual_lines(data, "alignment")
    random = Line("two random subspaces", data.values("alignment_random"), _WITHIN, "dash", "random")
    return [
        layer_chart(
            data,
            [train, start, random],
            id="alignment",
            title="Class means and what the weight reads",
            text="Mean cosine of the angles between the span of the class means and the weight's leading input "
            f"directions; 1 when they are the same space. {journey(data, train.values)} Two random subspaces would have "
            f"{number(random.values.iloc[-1])} at the last layer.",
            y_title="mean cosine of principal angles",
            gaps=data.gaps(["alignment"]),
        ),
        weight_chart(
            data,
            "weight_singular_spread",
            title="Equal singular values",
            text="Standard deviation over mean of the C largest singular values of the weight. At full collapse C−1 are "
            f"equal and the last is 0: {_full_collapse_spread(data)}.",
            y_title="std / mean",
        ),
    ]


def _full_collapse_spread(data: ProfileData) -> str:
    return number((data.num_classes - 1) ** -0.5) if data.num_classes > 1 else number(None)


def nc4(data: ProfileData) -> list[Chart | Missing]:
    """The nearest class mean decides as the network does."""
    return [
        metric_chart(
            data,
            "ncc_agreement",
            title="Agreement with the network",
            text="Share of samples whose nearest train class mean is the network's own decision; all at collapse.",
            y_title="share of samples",
            percent=True,
        ),
        metric_chart(
            data,
            "ncc_accuracy",
            title="Accuracy of the nearest class mean",
            text="Share of samples whose nearest train class mean is that of their label.",
            y_title="share of samples",
            percent=True,
        ),
    ]
