"""The page of a profile: every property of neural collapse by layer, of one network as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapselab.report.figures import Chart
from collapselab.report.layer_chart import Missing
from collapselab.report.metric_charts import spoken
from collapselab.report.nc_charts import nc1, nc2, nc3, nc4
from collapselab.report.profile_data import ProfileData
from collapselab.report.rank_charts import more, ranks
from collapselab.report.rendering import Page, Section, cells, render
from collapselab.storage import replace_text


def write_profile_report(
    folder: Path,
    profile: dict[str, Any],
    initial: dict[str, Any] | None = None,
    made: dict[str, Any] | None = None,
) -> Path:
    """Write `report.html`, one page that needs no network, into a folder that exists or is made.

    Args:
        folder: where to.
        profile: as `Profile.to_dict` gives it.
        initial: the same of the network at initialisation, drawn beside.
        made: how the numbers came to be (command, versions, hardware, seconds), shown at the end as it is.

    Returns:
        The path of the page.

    Raises:
        ValueError: a profile without layers, or an initial one of other layers.
    """
    text = render_profile_report(profile, initial, made)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    replace_text(path, text)
    return path


def render_profile_report(
    profile: dict[str, Any], initial: dict[str, Any] | None = None, made: dict[str, Any] | None = None
) -> str:
    """The page as one HTML text; the same profiles give the same bytes.

    Args:
        profile, initial, made: as for `write_profile_report`.

    Raises:
        ValueError: a profile without layers, or an initial one of other layers.
    """
    data = ProfileData(profile, initial)
    data.check()
    return render(
        Page(
            title=f"Neural collapse by layer: {profile['model']}",
            summary=_summary(data),
            facts=_facts(data),
            sections=profile_sections(data),
            numbers_title="All numbers",
            numbers=_tables(data),
            warnings=profile["warnings"],
            warnings_of="of the measurement",
            made=_pairs(
                {"weighting": profile["weighting"], "reduction": profile["reduction"]} | (made or {})
            ),
        )
    )


def profile_sections(data: ProfileData) -> list[Section]:
    """All sections that have a chart; what could not be drawn is named before the charts, with the reason."""
    sections = [
        _section("nc1", "NC1: samples gather at their class mean", nc1(data), figure=1),
        _section("nc2", "NC2: class means spread evenly", nc2(data), figure=2),
        _section("nc3", "NC3: weights line up with class means", nc3(data), figure=3),
        _section("nc4", "NC4: the nearest class mean decides", nc4(data), figure=4),
        _section("ranks", "Ranks of weights and features", ranks(data), figure=5),
        _section("more", "Further measures", more(data)),
    ]
    return [section for section in sections if section.charts or section.note]


def _section(id: str, title: str, parts: Sequence[Chart | Missing], *, figure: int | None = None) -> Section:
    charts = [part for part in parts if isinstance(part, Chart)]
    missing = [part for part in parts if isinstance(part, Missing)]
    said = [f"After figure {figure} of Rangamani et al. 2023."] if figure and charts else []
    said += [f"“{part.title}” is not drawn. {part.why}".strip() for part in missing]
    return Section(id, title, charts, " ".join(said))


def _summary(data: ProfileData) -> str:
    last = data.layers[-1]
    if data.first_collapsed:
        result = f"Features have collapsed from {data.first_collapsed} on"
    else:
        result = f"Features have not collapsed at the last layer, {last}"
    beside = " Dotted lines are the same network at initialisation." if data.initial else ""
    return (
        f"{len(data.layers)} layer{'s' if len(data.layers) > 1 else ''}, each measured by what it reads. {result}. A layer "
        f"counts as collapsed where less than {data.epsilon:g} of the variance on train data lies within classes, there "
        f"and at every later layer.{beside}"
    )


def _facts(data: ProfileData) -> list[tuple[str, str]]:
    splits = " / ".join(data.splits)

    def last(metric: str, percent: bool = False) -> str:
        return " / ".join(spoken(data.values(metric, split).iloc[-1], percent) for split in data.splits)

    return [
        ("first collapsed layer", data.first_collapsed or "none"),
        (f"{splits} samples", " / ".join(f"{data.profile['num_samples'][split]:,}" for split in data.splits)),
        ("classes", f"{data.num_classes:,}"),
        (
            f"share within classes at the last layer (ε = {data.epsilon:g}), {splits}",
            last("normalized_within"),
        ),
        (f"nearest-centre agreement at the last layer, {splits}", last("ncc_agreement", percent=True)),
    ]


def _tables(data: ProfileData) -> list[tuple[str, dict[str, Any]]]:
    """Every metric, layers as columns: one table per split, and as many at initialisation."""
    out = [(f"{split} data", data.numbers(split)) for split in data.splits]
    if data.initial:
        out += [
            (f"{split} data at initialisation", data.numbers(split, at_start=True)) for split in data.splits
        ]
    return [(of, cells(table)) for of, table in out if len(table)]


def _pairs(made: dict[str, Any], inside: str = "") -> list[tuple[str, str]]:
    """Name and value of everything, what is nested (versions, hardware) by both its names."""
    out = []
    for name, value in made.items():
        words = f"{inside} {name}".strip().replace("_", " ")
        if isinstance(value, dict):
            out += _pairs(value, words)
        else:
            out.append((words, "none" if value is None else str(value)))
    return out
