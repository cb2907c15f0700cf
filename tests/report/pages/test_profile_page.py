"""The page of a profile: what it says and draws, what it leaves out and why, the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reading import HOSTILE, check_page, read

from collapselab.probes import Profile
from collapselab.probes.results import LayerProfile
from collapselab.records.profile import ProfileMade
from collapselab.report.chart import Chart, Mark
from collapselab.report.layout import Stroke, lay_out
from collapselab.report.pages.profile import profile_page, write_profile_page
from collapselab.storage import provenance

Profiles = tuple[Profile, Profile]


def drawn(profile: Profile, initial: Profile | None = None) -> dict[str, Chart]:
    return {chart.id: chart for section in profile_page(profile, initial).sections for chart in section.drawn}


def strokes(chart: Chart, at: int = 0) -> dict[str, Stroke]:
    return {stroke.name: stroke for stroke in lay_out(chart).panels[at].strokes}


def changed(
    profile: Profile, change: Callable[[LayerProfile], LayerProfile], first_only: bool = False
) -> Profile:
    layers = [
        change(layer) if at == 0 or not first_only else layer for at, layer in enumerate(profile.layers)
    ]
    return replace(profile, layers=tuple(layers))


def with_metrics(layer: LayerProfile, **metrics: Any) -> LayerProfile:
    splits = {
        name: replace(split, metrics={**split.metrics, **metrics}) for name, split in layer.splits.items()
    }
    return replace(layer, splits=splits)


@pytest.fixture(scope="module")
def charts(profiles: Profiles) -> dict[str, Chart]:
    return drawn(*profiles)


def test_one_offline_file_with_a_table_for_every_chart(profiles: Profiles, tmp_path: Path) -> None:
    made = ProfileMade.model_validate({**provenance(), "options": {"model": "mlp"}})
    reader = check_page(profile_page(*profiles, made))
    assert "torch" in reader.words
    path = write_profile_page(tmp_path / "new" / "folder", *profiles, made)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == reader.html


def test_what_was_used_is_told_once_even_where_it_differs_from_the_options(profiles: Profiles) -> None:
    end = replace(profiles[0], weighting="sample")
    options = {"weighting": "balanced", "reduce": end.reduction, "seed": 0}
    made = profile_page(end, made=ProfileMade.model_validate({**provenance(), "options": options})).made
    told = [entry for entry in made if entry[0] in ("weighting", "reduce", "reduction", "seed")]
    assert told == [("weighting", "sample"), ("reduce", end.reduction), ("seed", "0")]


def test_the_header_says_what_was_found(profiles: Profiles) -> None:
    end, start = profiles
    words = read(profile_page(end, start)).words
    last = end.layers[-1]
    assert f"Neural collapse by layer: {end.model}" in words
    assert (
        f"The first collapsed layer is {end.first_collapsed_layer}: this layer and all later layers" in words
    )
    assert "300 / 200" in words
    assert f"{last.train['normalized_within']:.3g} / {last.test['normalized_within']:.3g}" in words
    assert "Dotted lines show the same network at initialisation." in words
    assert "initialisation" not in read(profile_page(end)).words


def test_charts_draw_the_stored_numbers(profiles: Profiles, charts: dict[str, Chart]) -> None:
    end, start = profiles
    for metric in (
        "mean_cosine_gap",
        "equinorm",
        "ncc_agreement",
        "ncc_accuracy",
        "vci",
        "vci_adjusted",
        "cdnv",
        "fuzziness",
    ):
        lines = strokes(charts[metric.replace("_", "-")])
        assert list(lines["train"].values) == [layer.train[metric] for layer in end.layers]
        assert list(lines["test"].values) == [layer.test[metric] for layer in end.layers]
        assert list(lines["train, initialisation"].values) == [layer.train[metric] for layer in start.layers]
    random = strokes(charts["alignment"])["two random subspaces"]
    assert random.look.dash == "dash"
    assert list(random.values) == [layer.train["alignment_random"] for layer in end.layers]
    traces = [strokes(charts["nc1-traces"], at)["within"].values for at in (0, 1)]
    assert traces[1] == tuple(layer.test["within_trace"] for layer in end.layers)


def test_equal_angles_are_relative_to_the_mean_cosine(profiles: Profiles) -> None:
    end, _ = profiles
    values = strokes(drawn(end)["relative-equiangularity"])["train"].values
    for value, layer in zip(values, end.layers, strict=True):
        gap, spread = layer.train["mean_cosine_gap"], layer.train["equiangularity"]
        assert gap is not None
        assert spread is not None
        assert value == pytest.approx(spread / abs(gap - 1 / (len(end.classes) - 1)))


def test_every_chart_over_depth_marks_the_first_collapsed_layer(
    profiles: Profiles, charts: dict[str, Chart]
) -> None:
    end, _ = profiles
    at = [layer.name for layer in end.layers].index(end.first_collapsed_layer or "")

    def first(chart: Chart) -> list[Mark]:
        return [
            mark for panel in chart.panels for mark in panel.marks if mark.label == "first collapsed layer"
        ]

    for chart in charts.values():
        if chart.id != "weight-spectra":
            assert {mark.at for mark in first(chart)} == {at}, chart.id
    open_end = replace(end, first_collapsed_layer=None)
    assert "There is no first collapsed layer" in read(profile_page(open_end)).words
    assert not [mark for chart in drawn(open_end).values() for mark in first(chart)]


def test_captions_have_the_numbers_that_matter(charts: dict[str, Chart]) -> None:
    for chart in charts.values():
        assert len(re.findall(r"\d\.?\d*", chart.text)) >= 2, chart.text
        assert "{" not in chart.text


def test_nulls_are_gaps_and_the_reason_is_said(profiles: Profiles) -> None:
    bounds = {"stable_rank_low": 2.0, "stable_rank": 3.0, "stable_rank_high": 4.0}
    sketched = changed(
        profiles[0],
        lambda layer: replace(with_metrics(layer, vci=None, **bounds), scatter="sketch"),
        first_only=True,
    )
    charts = drawn(sketched)
    vci = strokes(charts["vci"])["train"].values
    assert [value != value for value in vci] == [True, *[False] * (len(sketched.layers) - 1)]
    assert f"No value at 1 of {len(sketched.layers)} layers: only a sketch" in charts["vci"].text
    rank = charts["stable-rank"]
    assert "shaded band" in rank.text
    train = strokes(rank)["train"]
    assert train.bounds[0] == (2.0, 4.0)
    assert "between 2 and 4" in train.points[0]
    check_page(profile_page(sketched))


def test_a_chart_without_any_value_is_named_with_the_reason(profiles: Profiles) -> None:
    def strip(layer: LayerProfile) -> LayerProfile:
        bare = replace(with_metrics(layer, fuzziness=None, class_separation=None), scatter="trace")
        return replace(bare, weight_singular_values=())

    bare = changed(profiles[0], strip)
    assert not {"fuzziness", "class-separation", "weight-spectra"} & set(drawn(bare))
    words = read(profile_page(bare)).words
    assert "“Fuzziness” is not drawn. No value at any layer: only the trace" in words
    assert "“Class separation” is not drawn. No value at any layer: it is undefined" in words
    assert "“Singular values of the weights” is not drawn. No layer has a weight" in words


def test_what_was_not_asked_for_is_not_missing(profiles: Profiles) -> None:
    few = ("normalized_within", "cdnv")

    def strip(layer: LayerProfile) -> LayerProfile:
        splits = {
            name: replace(split, metrics={metric: split.metrics[metric] for metric in few})
            for name, split in layer.splits.items()
        }
        return replace(layer, splits=splits, weight_singular_values=())

    page = profile_page(changed(profiles[0], strip))
    assert [section.id for section in page.sections] == ["nc1", "more"]
    assert "is not drawn" not in read(page).words
    names = [name for name, _ in page.facts]
    assert any(name.startswith("within-class share") for name in names)
    assert not any(name.startswith(("law of separation", "nearest class mean")) for name in names)


def test_one_split_alone_and_no_start(profiles: Profiles) -> None:
    alone = changed(profiles[0], lambda layer: replace(layer, splits={"train": layer.splits["train"]}))
    alone = replace(alone, num_samples={"train": 300})
    charts = drawn(alone)
    assert [panel.title for panel in charts["nc1-traces"].panels] == ["train data"]
    for chart in charts.values():
        assert "test data" not in chart.text
        assert not [line for panel in chart.panels for line in panel.series if line.name == "test"]
    assert "initialisation" not in check_page(profile_page(alone)).words


def test_text_from_the_profile_is_text_on_the_page(profiles: Profiles) -> None:
    bad = changed(profiles[0], lambda layer: replace(layer, name=f"{HOSTILE}{layer.depth}"))
    bad = replace(bad, model=HOSTILE, warnings=(HOSTILE,), first_collapsed_layer=bad.layers[-1].name)
    reader = check_page(profile_page(bad, bad))
    assert reader.text.count(HOSTILE) > 10


def test_warnings_of_layers_that_differ_in_numbers_are_one(profiles: Profiles) -> None:
    lost = tuple(f"train layers.{depth}: vci ignores {depth + 1} of 9 eigenvalues" for depth in range(3))
    words = read(profile_page(replace(profiles[0], warnings=(*lost, "test: another")))).words
    assert "3 warnings" in words  # with that of VCI, see below
    assert "train layers.0: vci ignores 1 of 9 eigenvalues. Similar: train layers.1, train layers.2" in words


def test_layers_where_vci_and_its_adjusted_form_part_are_a_warning(profiles: Profiles) -> None:
    """200 test samples of 64 features: VCI is a third too small."""
    words = read(profile_page(profiles[0])).words
    first = profiles[0].layers[0].test
    assert (first["vci_adjusted"] or 0) - (first["vci"] or 0) > 0.05
    assert "vci and vci_adjusted differ by more than 0.05" in words
    same = changed(profiles[0], lambda layer: with_metrics(layer, vci=0.3, vci_adjusted=0.32))
    assert "vci and vci_adjusted differ" not in read(profile_page(same)).words


def test_the_law_of_separation_is_drawn_and_said(profiles: Profiles) -> None:
    end, _ = profiles
    law = end.law_of_separation()
    chart = drawn(end)["fuzziness"]
    assert f"Fit on train data: {law}." in chart.text
    assert str(law) in read(profile_page(end)).words
    line = strokes(chart)["train, law of separation"].values
    assert line == pytest.approx([law.fitted(depth) for depth in range(len(end.layers))], rel=1e-12)
    none = changed(end, lambda layer: with_metrics(layer, fuzziness=None))
    assert "undefined: 0 of 4 layers have a positive fuzziness" in read(profile_page(none)).words


def deep(profile: Profile, count: int) -> Profile:
    """The same layers over and over, with the long names that transformers have."""
    layers = [
        replace(
            profile.layers[at % len(profile.layers)],
            name=f"encoder.layer.{at}.attention.output.dense",
            depth=at,
        )
        for at in range(count)
    ]
    return replace(profile, layers=tuple(layers), first_collapsed_layer=layers[-2].name)


def test_many_layers_get_depths_at_the_axis_and_names_at_the_points(
    profiles: Profiles, charts: dict[str, Chart]
) -> None:
    many = drawn(deep(profiles[0], 54))
    axis = lay_out(many["vci"]).panels[0]
    assert axis.panel.x.title == "depth of the layer"
    assert [text for _, text in axis.x.ticks][:2] == ["0", "6"]
    assert strokes(many["vci"])["train"].points[53] == "encoder.layer.53.attention.output.dense, depth 53"
    assert len({stroke.look.colour for stroke in strokes(many["weight-spectra"]).values()}) == 54
    few = lay_out(charts["vci"]).panels[0].x.ticks
    assert [text for _, text in few] == [layer.name for layer in profiles[0].layers]


def test_what_cannot_be_drawn_is_refused(profiles: Profiles) -> None:
    end, _ = profiles
    with pytest.raises(ValueError, match="no layers"):
        profile_page(replace(end, layers=()))
    with pytest.raises(ValueError, match="none of these layers"):
        profile_page(end, deep(end, 3))


def test_a_single_layer_and_a_single_class(profiles: Profiles) -> None:
    end, _ = profiles
    one = replace(end, layers=end.layers[-1:], first_collapsed_layer=end.layers[-1].name, classes=(0,))
    check_page(profile_page(one))
    assert "relative-equiangularity" not in drawn(one)
