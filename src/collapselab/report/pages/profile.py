"""The page of a profile: every property of neural collapse by layer, of one network as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collapselab.metrics import BY_NAME
from collapselab.report.chart import NEUTRAL, TEST, TRAIN, Chart, Dash, Look, Missing
from collapselab.report.layers import INITIALISATION, Layers, Line, spectra_chart, usual_lines
from collapselab.report.pages.rendering import Page, Section, section, write_page
from collapselab.text import number, percent

if TYPE_CHECKING:
    from collapselab.probes import Profile
    from collapselab.records.profile import ProfileMade

# What each way of keeping the within-class scatter cannot give, and how a reader is told.
_WITHOUT = {
    "full": ({"class covariances"}, "only the scatter of all classes together was kept there"),
    "sketch": (
        {"covariance", "class covariances"},
        "only a sketch of the within-class scatter was kept there",
    ),
    "trace": (
        {"covariance", "class covariances", "top eigenvalue"},
        "only the trace of the within-class scatter was kept there",
    ),
}
_WITHIN, _BETWEEN, _TOTAL = "#d946ef", "#06b6d4", NEUTRAL
_COMPONENTS = {90: "#8b5cf6", 95: "#d946ef", 99: "#f59e0b"}
_MOST = 20  # singular values
_START = "initialisation"

# Charts of one metric on train and test data: title, what it is, name at the axis.
_METRICS: dict[str, tuple[str, str, str]] = {
    "mean_cosine_gap": ("Angles as wide as a simplex has them", "Mean cosine between centred class means, plus 1/(C−1); 0 in a simplex.",
                        "mean cosine + 1/(C−1)"),
    "equinorm": ("Equal norms", "Standard deviation of the class means' distances from their centre, over their mean; 0 when all are equal.",
                 "std / mean of norms"),
    "ncc_agreement": ("Agreement with the network", "Share of samples whose nearest train class mean is the network's own decision; all at "
                      "collapse.", "share of samples"),
    "ncc_accuracy": ("Accuracy of the nearest class mean", "Share of samples whose nearest train class mean is that of their label.",
                     "share of samples"),
    "stable_rank_per_class": ("Stable rank of features, class by class", "The same of each class's own covariance, averaged over classes.",
                              "stable rank"),
    "vci": ("Variability collapse index", "Share of the variance that is not between classes, whatever the basis; 0 at collapse (Xu, Liu 2023).",
            "VCI"),
    "fuzziness": ("Fuzziness", "Trace of the within-class covariance times the inverse of that between classes; 0 at collapse.", "fuzziness"),
    "cdnv": ("Class-distance normalised variance", "Variance of two classes over twice their squared distance, averaged over pairs; 0 at "
             "collapse.", "CDNV"),
    "cosine_similarity": ("Cosine similarity within classes", "Mean cosine of all pairs of samples of one class; 1 at collapse.", "mean cosine"),
    "class_separation": ("Class separation", "One less the cosine distance within classes over that of all pairs; 1 at collapse.",
                         "class separation"),
}  # fmt: skip


def write_profile_page(
    folder: Path, profile: Profile, initial: Profile | None = None, made: ProfileMade | None = None
) -> Path:
    """Write `report.html`, one page that works offline, into a folder that exists or is made.

    Args:
        folder: where to.
        profile: of the network.
        initial: of the same network at initialisation, drawn beside.
        made: how the numbers came to be.

    Returns:
        The path of the page.

    Raises:
        ValueError: a profile without layers, or an initial one of other layers.
        OSError: it cannot be written.
    """
    path = folder / "report.html"
    write_page(path, profile_page(profile, initial, made))
    return path


def profile_page(profile: Profile, initial: Profile | None = None, made: ProfileMade | None = None) -> Page:
    """Say what the page of a profile shows; the same profiles give the same page.

    Raises:
        ValueError: a profile without layers, or an initial one of other layers.
    """
    shown = _Shown(profile, initial)
    if not profile.layers:
        raise ValueError("the profile has no layers")
    if initial and not {layer.name for layer in initial.layers} & set(shown.layers.names):
        raise ValueError("the profile at initialisation has none of these layers")
    return Page(
        f"Neural collapse by layer: {profile.model}",
        _summary(shown),
        facts=_facts(shown),
        sections=_sections(shown),
        numbers=_numbers(shown),
        warnings=profile.warnings,
        made=[
            ("weighting", profile.weighting),
            ("reduction", profile.reduction),
            *(made.how_made() if made else []),
        ],
    )


@dataclass(frozen=True)
class _Shown:
    """A profile, and that of the same network at initialisation, as series by layer."""

    profile: Profile
    initial: Profile | None

    @property
    def layers(self) -> Layers:
        return Layers([layer.name for layer in self.profile.layers], self.profile.first_collapsed_layer)

    @property
    def splits(self) -> list[str]:
        return [split for split in ("train", "test") if split in self.profile.num_samples]

    @property
    def num_classes(self) -> int:
        return len(self.profile.classes)

    def values(self, metric: str, split: str = "train", *, at_start: bool = False) -> pd.Series:
        """Return a metric by layer; NaN where it is undefined, was not measured, or where there is no such split."""
        source = self.initial if at_start else self.profile
        splits = {layer.name: layer.splits for layer in source.layers} if source else {}
        names = self.layers.names
        found = [
            splits[name][split].metrics.get(metric) if split in splits.get(name, {}) else None
            for name in names
        ]
        return pd.Series(found, index=pd.Index(names), dtype="float64")

    def usual(self, metric: str) -> list[Line]:
        return usual_lines(
            self.values(metric), self.values(metric, "test"), self.values(metric, at_start=True)
        )

    def metric(self, name: str, *, as_percent: bool = False, log: bool = False) -> Chart | Missing:
        """Chart one metric on train and test data."""
        title, text, y_title = _METRICS[name]
        told = self.layers.journey(self.values(name), self.values(name, "test"), as_percent=as_percent)
        return self.layers.chart(
            self.usual(name), id=name, title=title, text=f"{text} {told}", y_title=y_title, log=log, percent=as_percent,
            gaps=self.gaps(name),
        )  # fmt: skip

    def weight(self, name: str, title: str, text: str, y_title: str) -> Chart | Missing:
        """Chart a property of the weights alone, which is the same on every split."""
        values = self.values(name)
        own = Line("trained" if self.initial else "weight", values, Look(TRAIN))
        lines = [own, Line(_START, self.values(name, at_start=True), INITIALISATION)]
        text = f"{text} {self.layers.journey(values, head='Here it is')}"
        return self.layers.chart(
            lines, id=name, title=title, text=text, y_title=y_title, gaps=self.gaps(name)
        )

    def gaps(self, *metrics: str) -> str:
        """Say where these metrics have no value on train data, and why; empty if they have one everywhere."""
        reasons: dict[str, int] = {}
        for layer in self.profile.layers:
            missing = [name for name in metrics if layer.train.get(name) is None]
            if missing:
                reason = _reason(layer.scatter, missing)
                reasons[reason] = reasons.get(reason, 0) + 1
        total = len(self.layers.names)
        where = {
            reason: "any layer" if count == total else f"{count} of {total} layers"
            for reason, count in reasons.items()
        }
        return " ".join(f"No value at {place}: {reason}." for reason, place in where.items())


def _reason(scatter: str, metrics: Sequence[str]) -> str:
    lacks, words = _WITHOUT.get(scatter, (set(), ""))
    if any(BY_NAME[name].needs & lacks for name in metrics):
        return words
    if any("weight" in BY_NAME[name].needs for name in metrics):
        return "there is no weight to compare with, or the value is undefined there (see the warnings)"
    return "it was not measured, or is undefined there (see the warnings)"


# ---------------------------------------------------------------- parts of the page


def _sections(shown: _Shown) -> list[Section]:
    """Return all sections that have a chart, or a reason why they have none."""
    after = "After figure {} of Rangamani et al. 2023."
    metric = shown.metric
    nc4 = [metric("ncc_agreement", as_percent=True), metric("ncc_accuracy", as_percent=True)]
    more = [metric("vci"), metric("fuzziness", log=True), metric("cdnv", log=True), metric("cosine_similarity"),
            metric("class_separation"), _components(shown)]  # fmt: skip
    sections = [
        section(
            "nc1",
            "NC1: samples gather at their class mean",
            [_traces(shown), _shares(shown)],
            after.format(1),
        ),
        section(
            "nc2",
            "NC2: class means spread evenly",
            [metric("mean_cosine_gap"), _equal_angles(shown), metric("equinorm")],
            after.format(2),
        ),
        section("nc3", "NC3: weights line up with class means", _nc3(shown), after.format(3)),
        section("nc4", "NC4: the nearest class mean decides", nc4, after.format(4)),
        section("ranks", "Ranks of weights and features", _ranks(shown), after.format(5)),
        section("more", "Further measures", more),
    ]
    return [part for part in sections if part.charts or part.note]


def _summary(shown: _Shown) -> str:
    profile, names = shown.profile, shown.layers.names
    first = profile.first_collapsed_layer
    result = (
        f"Features have collapsed from {first} on"
        if first
        else f"Features have not collapsed at the last layer, {names[-1]}"
    )
    beside = " Dotted lines are the same network at initialisation." if shown.initial else ""
    return (
        f"{len(names)} layer{'s' if len(names) > 1 else ''}, each measured by what it reads. {result}. A layer counts as collapsed "
        f"where less than {number(profile.epsilon)} of the variance on train data lies within classes, there and at every later "
        f"layer.{beside}"
    )


def _facts(shown: _Shown) -> list[tuple[str, str]]:
    profile, splits = shown.profile, " / ".join(shown.splits)
    within = " / ".join(number(shown.values("normalized_within", split).iloc[-1]) for split in shown.splits)
    agreement = " / ".join(percent(shown.values("ncc_agreement", split).iloc[-1]) for split in shown.splits)
    return [
        ("first collapsed layer", profile.first_collapsed_layer or "none"),
        (f"{splits} samples", " / ".join(f"{profile.num_samples[split]:,}" for split in shown.splits)),
        ("classes", f"{shown.num_classes:,}"),
        (f"share within classes at the last layer (ε = {number(profile.epsilon)}), {splits}", within),
        (f"nearest-centre agreement at the last layer, {splits}", agreement),
    ]


def _numbers(shown: _Shown) -> list[tuple[str, pd.DataFrame]]:
    """Every metric that any layer has, layers as columns: a table per split, and as many at initialisation."""
    out = []
    for at_start in (False, True) if shown.initial else (False,):
        for split in shown.splits:
            rows = {name: shown.values(name, split, at_start=at_start) for name in BY_NAME}
            table = pd.DataFrame(
                [values.rename(name) for name, values in rows.items() if values.notna().any()]
            )
            title = f"Every metric on {split} data{' at initialisation' if at_start else ''}"
            out.append((title, table.reset_index(names="metric")))
    return [(title, table) for title, table in out if len(table)]


# ---------------------------------------------------------------- charts of several quantities


def _shares(shown: _Shown) -> Chart | Missing:
    within = {split: shown.values("normalized_within", split) for split in ("train", "test")}
    lines = []
    for split, look in (("train", Look(TRAIN)), ("test", Look(TEST, marker="square"))):
        lines.append(Line(f"within, {split}", within[split], look))
        lines.append(Line(f"between, {split}", 1 - within[split], Look(look.colour, "dash", look.marker)))
    start = shown.values("normalized_within", at_start=True)
    for name, values in (("within", start), ("between", 1 - start)):
        lines.append(Line(f"{name}, train, initialisation", values, INITIALISATION, _START))
    first, epsilon = shown.profile.first_collapsed_layer, number(shown.profile.epsilon)
    where = f"stays below {epsilon} from {first} on" if first else f"does not end below {epsilon}"
    return shown.layers.chart(
        lines,
        id="nc1-shares",
        title="Shares of the variance",
        text="Variance within classes and between them, as shares of all. On train data the share within classes "
        f"{where}. {shown.layers.journey(within['train'], within['test'], head='It is')}",
        y_title="share of the variance",
        level=(shown.profile.epsilon, f"ε = {epsilon}"),
        gaps=shown.gaps("normalized_within"),
    )


def _traces(shown: _Shown) -> Chart | Missing:
    """Traces of the covariances, a panel per split."""
    looks = {
        "within": Look(_WITHIN, marker="triangle"),
        "between": Look(_BETWEEN, "dash", "square"),
        "total": Look(_TOTAL),
    }
    panels, told = {}, []
    for split in shown.splits:
        values = {name: shown.values(f"{name}_trace", split) for name in looks}
        lines = [Line(name, values[name], look) for name, look in looks.items()]
        for name, look in looks.items():
            start = shown.values(f"{name}_trace", split, at_start=True)
            lines.append(
                Line(f"{name}, initialisation", start, Look(look.colour, "dot", look.marker), _START)
            )
        panels[f"{split} data"] = lines
        ends = [number(values[name].iloc[-1]) for name in ("within", "between")]
        told.append(f"{ends[0]} within and {ends[1]} between on {split} data")
    return shown.layers.chart(
        panels,
        id="nc1-traces",
        title="Variance",
        text="Traces of the covariance within classes, between class means, and of both. Where the last layer reads: "
        f"{', '.join(told)}.",
        y_title="trace of the covariance",
        log=True,
        gaps=shown.gaps("within_trace", "between_trace", "total_trace"),
    )


def _equal_angles(shown: _Shown) -> Chart | Missing:
    """Equiangularity over the size of its mean cosine."""
    simplex = 1 / (shown.num_classes - 1) if shown.num_classes > 1 else np.nan
    lines = []
    for spread, gap in zip(shown.usual("equiangularity"), shown.usual("mean_cosine_gap"), strict=True):
        mean = (gap.values - simplex).abs()
        lines.append(replace(spread, values=(spread.values / mean).where(mean > 0)))
    return shown.layers.chart(
        lines,
        id="relative_equiangularity",
        title="Equal angles",
        text="Standard deviation of these cosines over the size of their mean; 0 when all are equal. Drawn from equiangularity "
        f"and mean cosine gap, not a metric of its own. {shown.layers.journey(lines[0].values, lines[1].values)}",
        y_title="std / |mean| of cosines",
        gaps=shown.gaps("equiangularity", "mean_cosine_gap"),
    )


def _nc3(shown: _Shown) -> list[Chart | Missing]:
    train, _, start = shown.usual("alignment")
    random = Line(
        "two random subspaces", shown.values("alignment_random"), Look(_WITHIN, "dash", "diamond"), "random"
    )
    alignment = shown.layers.chart(
        [train, start, random],
        id="alignment",
        title="Class means and what the weight reads",
        text="Mean cosine of the angles between the span of the class means and the weight's leading input directions; 1 when they "
        f"are the same space. {shown.layers.journey(train.values)} Two random subspaces would have "
        f"{number(random.values.iloc[-1])} at the last layer.",
        y_title="mean cosine of principal angles",
        gaps=shown.gaps("alignment"),
    )
    full = number((shown.num_classes - 1) ** -0.5 if shown.num_classes > 1 else None)
    text = f"Standard deviation over mean of the C largest singular values of the weight. At full collapse C−1 are equal and the last is 0: {full}."
    return [alignment, shown.weight("weight_singular_spread", "Equal singular values", text, "std / mean")]


def _ranks(shown: _Shown) -> list[Chart | Missing]:
    text = f"Sum of the squared singular values over the largest; C−1 for a classifier that is a simplex, that is {shown.num_classes - 1}."
    weight = shown.weight("weight_stable_rank", "Stable rank of the weights", text, "stable rank")
    return [_weight_spectra(shown), weight, _stable_rank(shown), shown.metric("stable_rank_per_class")]


def _weight_spectra(shown: _Shown) -> Chart | Missing:
    title = "Singular values of the weights"
    columns = {
        layer.name: pd.Series(layer.weight_singular_values[:_MOST])
        for layer in shown.profile.layers
        if layer.weight_singular_values
    }
    if not columns:
        return Missing(title, "No layer has a weight whose singular values are known.")
    table = pd.DataFrame(columns)
    table.index = pd.RangeIndex(1, len(table) + 1)
    last = table.iloc[:, -1].dropna()
    at = min(shown.num_classes, len(last))
    text = (
        f"The largest {len(table)} of each layer's weight, relative to its largest. In collapsed layers about C−1 stand out, nearly "
        f"equal. In {table.columns[-1]} the largest is {number(last.iloc[0])}, number {at} is "
        f"{number(last.iloc[at - 1] / last.iloc[0] if last.iloc[0] > 0 else None)} of it."
    )
    return spectra_chart(table, id="weight-spectra", title=title, text=text, at=shown.num_classes)


def _stable_rank(shown: _Shown) -> Chart | Missing:
    lines = shown.usual("stable_rank")
    text = "Trace of the within-class covariance of all classes together, over its largest eigenvalue."
    text += f" {shown.layers.journey(lines[0].values, lines[1].values)}"
    for at, split in enumerate(("train", "test")):
        low, high = shown.values("stable_rank_low", split), shown.values("stable_rank_high", split)
        # Bounds that equal the value say nothing: there the scatter was kept whole.
        if (low < high).any():
            lines[at] = replace(lines[at], low=low, high=high)
    if any(line.low is not None for line in lines):
        text += " Where the scatter was sketched it is an estimate, and lies in the shaded band."
    return shown.layers.chart(lines, id="stable-rank", title="Stable rank of features within classes", text=text,
                              y_title="stable rank", gaps=shown.gaps("stable_rank"))  # fmt: skip


def _components(shown: _Shown) -> Chart | Missing:
    kinds: tuple[tuple[str, Dash, bool, str | None], ...] = (
        ("train", "solid", False, None),
        ("test", "dash", False, "test"),
        ("train", "dot", True, _START),
    )
    lines = []
    for split, dash, at_start, legend in kinds:
        for share, colour in _COMPONENTS.items():
            name = f"{share} %, {_START if at_start else split}"
            values = shown.values(f"components_{share}", split, at_start=at_start)
            lines.append(Line(name, values, Look(colour, dash), legend))
    return shown.layers.chart(
        lines,
        id="components",
        title="Principal components that hold the variance",
        text=f"How many hold 90, 95 and 99 % of the total variance; at full collapse at most C−1, here {shown.num_classes - 1}. "
        f"{shown.layers.journey(lines[2].values, lines[5].values, head='99 % on train data take')}",
        y_title="components",
        log=True,
        gaps=shown.gaps("components_99"),
    )
