"""The page of a profile: every property of neural collapse by layer, for one network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from collapselab.report.chart import NEUTRAL, TEST, TRAIN, Chart, Look, Mark, Number, Panel
from collapselab.report.layers import INITIALISATION, NOT_MEASURED, Layers, chart_of, spectra_chart
from collapselab.report.pages.rendering import Page, Section, write_page
from collapselab.text import counted, number, percent

if TYPE_CHECKING:
    from collapselab.probes import Profile
    from collapselab.records.profile import ProfileMade

_MOST = 20  # singular values
_TRACES = {
    "within": Look("#d946ef", marker="triangle"),
    "between": Look("#06b6d4", "dash", "square"),
    "total": Look(NEUTRAL),
}
_DECISIONS = ("ncc_agreement", "ncc_accuracy")
_COMPONENTS = {90: "#8b5cf6", 95: "#d946ef", 99: "#f59e0b"}


def write_profile_page(
    folder: Path, profile: Profile, initial: Profile | None = None, made: ProfileMade | None = None
) -> Path:
    """Write the page of a profile as `report.html` into a folder that exists or is made; return its path.

    Raises:
        ValueError: a profile without layers, or an initial profile of other layers.
        OSError: it cannot be written.
    """
    path = folder / "report.html"
    write_page(path, profile_page(profile, initial, made))
    return path


def profile_page(profile: Profile, initial: Profile | None = None, made: ProfileMade | None = None) -> Page:
    """Return the content of the page of a profile: one file that works offline.

    Args:
        profile: the profile to show.
        initial: profile of the same network at initialisation, drawn for comparison.
        made: how the numbers were computed.

    Raises:
        ValueError: a profile without layers, or an initial profile of other layers.
    """
    if not profile.layers:
        raise ValueError("the profile has no layers")
    if initial and not {layer.name for layer in initial.layers} & {layer.name for layer in profile.layers}:
        raise ValueError("the profile at initialisation has none of these layers")
    end = _with_shares(profile)
    start = _with_shares(initial) if initial else end.head(0)
    shown = _Shown(end, start, profile.first_collapsed_layer, profile.layers_beside, profile)
    used = {"weighting": profile.weighting, "reduce": profile.reduction}  # can differ from the options
    how = dict(made.how_made()) if made else {}
    return Page(
        f"Neural collapse by layer: {profile.model}",
        _summary(shown),
        facts=_facts(shown),
        sections=_sections(shown),
        numbers=_numbers(shown),
        warnings=(*profile.warnings, *profile.vci_warnings()),
        made=list((how | used).items()),
    )


def _with_shares(profile: Profile) -> pd.DataFrame:
    """Return the metrics of a profile with three that only this page has."""
    metrics, classes = profile.to_frame(), len(profile.classes)
    used = ["normalized_within", "equiangularity", "mean_cosine_gap"]
    within, spread, gap = (values for _, values in metrics.reindex(columns=used).items())
    mean = (gap - (1 / (classes - 1) if classes > 1 else np.nan)).abs()
    relative = (spread / mean).where(mean > 0)
    law = metrics["depth"].map(profile.law_of_separation().fitted)
    return metrics.assign(between_share=1 - within, relative_equiangularity=relative, law_of_separation=law)


@dataclass(frozen=True, eq=False)
class _Shown(Layers):
    """The layers of a profile, and why some of their values are missing."""

    profile: Profile

    @property
    def has_start(self) -> bool:
        return not self.start.empty

    @property
    def splits(self) -> list[str]:
        return [split for split in ("train", "test") if split in self.profile.num_samples]

    @property
    def num_classes(self) -> int:
        return len(self.profile.classes)

    def weight(self, name: str, full: Number | None) -> Chart:
        """Chart a property of the weights alone, which is the same on every split."""
        lines = [
            self.line("trained" if self.has_start else "weight", name, Look(TRAIN)),
            self.line("", name, INITIALISATION, at_start=True),
        ]
        return self.chart(name, lines, name, head="Here it is", on_test=False, full=number(full))

    def gaps(self, *metrics: str) -> str:
        """Return at how many layers these metrics, if they were asked for, have no value on train data, and why."""
        layers = self.profile.layers
        asked = [name for name in metrics if any(name in layer.train for layer in layers)]
        reasons = Counter(filter(None, (layer.why_missing(asked) for layer in layers)))
        return " ".join(
            f"No value at {'any layer' if count == len(layers) else f'{count} of {len(layers)} layers'}: {reason}."
            for reason, count in reasons.items()
        )


# ---------------------------------------------------------------- parts of the page


def _sections(shown: _Shown) -> list[Section]:
    metric, classes = shown.metric, shown.num_classes
    weights = shown.weight("weight_singular_spread", (classes - 1) ** -0.5 if classes > 1 else None)
    ranks = [_weight_spectra(shown), shown.weight("weight_stable_rank", classes - 1), _stable_rank(shown)]
    ranks += [metric("stable_rank_per_class")]
    more = [metric(name) for name in ("vci", "vci_adjusted", "cdnv", "cosine_similarity", "class_separation")]
    equal_angles = metric("relative_equiangularity", of=["equiangularity", "mean_cosine_gap"])
    angles = [metric("mean_cosine_gap"), equal_angles, metric("equinorm")]
    after = "See figure {} of Rangamani et al. (2023).".format
    sections = [
        Section("nc1", "NC1: samples gather at their class mean", [_traces(shown), _shares(shown)], after(1)),
        Section("nc2", "NC2: class means spread evenly", angles, after(2)),
        Section("nc3", "NC3: weights line up with class means", [_alignment(shown), weights], after(3)),
        Section("nc4", "NC4: the nearest class mean decides", list(map(metric, _DECISIONS)), after(4)),
        Section("ranks", "Ranks of weights and features", ranks, after(5)),
        Section("more", "Further measures", [*more, _fuzziness(shown), _components(shown)]),
    ]
    asked = [[one for one in part.charts if one.panels or one.text != NOT_MEASURED] for part in sections]
    return [replace(part, charts=charts) for part, charts in zip(sections, asked, strict=True) if charts]


def _summary(shown: _Shown) -> str:
    profile, names, first = shown.profile, shown.names, shown.first_collapsed
    found = f"The first collapsed layer is {first}: this layer and all later layers are collapsed."
    none = f"There is no first collapsed layer, because the last layer, {names[-1]}, is not collapsed."
    start = " Dotted lines show the same network at initialisation." if shown.has_start else ""
    return (
        f"{counted(len(names), 'layer')}; the features of a layer are its inputs. A layer is collapsed if the within-class "
        f"share of its variance on train data is below {number(profile.epsilon)}. {found if first else none}{start}{shown.passed_by}"
    )


def _facts(shown: _Shown) -> list[tuple[str, str]]:
    profile, splits = shown.profile, " / ".join(shown.splits)
    loss, accuracy = profile.loss.values(), profile.accuracy.values()
    network = [
        (f"accuracy of the network, {splits}", " / ".join(map(percent, accuracy))),
        (f"cross-entropy of the network, {splits}", " / ".join(map(number, loss))),
    ]
    within = " / ".join(number(shown.last("normalized_within", split)) for split in shown.splits)
    agreement = " / ".join(percent(shown.last("ncc_agreement", split)) for split in shown.splits)
    of_metrics = {
        "normalized_within": (f"within-class share of the variance, last layer, {splits}", within),
        "ncc_agreement": (f"nearest class mean agrees with the network, last layer, {splits}", agreement),
        "fuzziness": ("law of separation, train", str(profile.law_of_separation())),
    }
    return [
        ("first collapsed layer", profile.first_collapsed_layer or "none"),
        *(network if profile.accuracy else ()),
        (f"{splits} samples", " / ".join(f"{profile.num_samples[split]:,}" for split in shown.splits)),
        ("classes", f"{shown.num_classes:,}"),
        *(fact for metric, fact in of_metrics.items() if metric in profile.layers[-1].train),
    ]


def _numbers(shown: _Shown) -> list[tuple[str, pd.DataFrame]]:
    tables = [
        (f"Every metric on {split} data{' at initialisation' * start}", shown.table(split, at_start=start))
        for start, split in product((False, True), shown.splits)
    ]
    return [(title, table) for title, table in tables if len(table)]


# ---------------------------------------------------------------- charts of several quantities


def _shares(shown: _Shown) -> Chart:
    metrics = {"within": "normalized_within", "between": "between_share"}
    lines = [
        shown.line(
            f"{name}, {split}", metric, replace(look, dash="dash" if name == "between" else "solid"), split
        )
        for split, look in (("train", Look(TRAIN)), ("test", Look(TEST, marker="square")))
        for name, metric in metrics.items()
    ]
    lines += [shown.line(f"{name}, train", metrics[name], INITIALISATION, at_start=True) for name in metrics]
    first, epsilon = shown.profile.first_collapsed_layer, number(shown.profile.epsilon)
    where = f"is below {epsilon} from {first} on" if first else f"is not below {epsilon} at the last layer"
    level = [Mark("y", shown.profile.epsilon, f"ε = {epsilon}")]
    return shown.chart("nc1-shares", lines, "normalized_within", marks=level, head="It is", where=where)


def _traces(shown: _Shown) -> Chart:
    panels: list[Panel] = []
    ends = []
    for split in shown.splits:
        lines = [shown.line(name, f"{name}_trace", look, split) for name, look in _TRACES.items()]
        for name, look in _TRACES.items():
            lines.append(shown.line(name, f"{name}_trace", replace(look, dash="dot"), split, at_start=True))
        panels.append(shown.panel("nc1-traces", lines, f"{split} data", column=len(panels)))
        within, between = (number(shown.last(f"{name}_trace", split)) for name in ("within", "between"))
        ends.append(f"on {split} data, {within} (within) and {between} (between)")
    gaps = shown.gaps(*(f"{name}_trace" for name in _TRACES))
    return chart_of("nc1-traces", [one for one in panels if one.series], gaps, ends="; ".join(ends))


def _alignment(shown: _Shown) -> Chart:
    train, _, start = shown.usual("alignment")
    random = shown.line("two random subspaces", "alignment_random", Look("#d946ef", "dash", "diamond"))
    lines = [train, start, replace(random, legend="random")]
    last = number(shown.last("alignment_random"))
    return shown.chart("alignment", lines, "alignment", on_test=False, random=last)


def _weight_spectra(shown: _Shown) -> Chart:
    known = {layer.name: layer.weight_singular_values[:_MOST] for layer in shown.profile.layers}
    table = pd.DataFrame({name: pd.Series(values) for name, values in known.items() if values})
    if table.empty:
        asked = any("weight_stable_rank" in layer.train for layer in shown.profile.layers)
        return chart_of("weight-spectra", [], "No layer has a weight with known singular values." * asked)
    count, table.index = shown.num_classes, pd.RangeIndex(1, len(table) + 1)
    last = table.iloc[:, -1].dropna()
    at = min(count, len(last))
    share = number(last.iloc[at - 1] / last.iloc[0] if last.iloc[0] > 0 else None)
    marks = [Mark("x", count, f"C = {count}")] if count <= len(table) else []
    layer, largest = table.columns[-1], number(last.iloc[0])
    return spectra_chart(
        "weight-spectra", table, marks, most=len(table), layer=layer, largest=largest, at=at, share=share
    )


def _stable_rank(shown: _Shown) -> Chart:
    lines, sketched = shown.usual("stable_rank"), ""
    for at, split in enumerate(("train", "test")):
        low, high = (shown.values(f"stable_rank_{end}", split).to_numpy() for end in ("low", "high"))
        # Bounds are equal if the full scatter was stored: nothing to draw.
        if (low < high).any():
            lines[at] = replace(lines[at], points=lines[at].points.assign(low=low, high=high))
            sketched = " Where the scatter was sketched, it is an estimate, with guaranteed bounds shown as a shaded band."
    return shown.chart("stable_rank", lines, "stable_rank", sketched=sketched)


def _fuzziness(shown: _Shown) -> Chart:
    law = shown.line("train, law of separation", "law_of_separation", Look(NEUTRAL, "dash", "none"))
    lines = [*shown.usual("fuzziness"), law]
    return shown.chart("fuzziness", lines, "fuzziness", law=shown.profile.law_of_separation())


def _components(shown: _Shown) -> Chart:
    metrics = [(share, f"components_{share}", colour) for share, colour in _COMPONENTS.items()]
    lines = [shown.line(f"{at}%, train", name, Look(colour)) for at, name, colour in metrics]
    tests = [shown.line(f"{at}%, test", name, Look(colour, "dash"), "test") for at, name, colour in metrics]
    lines += [replace(line, legend="test") for line in tests]
    lines += [shown.line(f"{at}%", name, Look(colour, "dot"), at_start=True) for at, name, colour in metrics]
    head = "For 99% on train data, the number is"
    return shown.chart("components", lines, "components_99", head=head, full=shown.num_classes - 1)
