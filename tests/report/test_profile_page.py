"""The page of a profile as text: what it says and draws, what it leaves out and why, the same bytes every time."""

import copy
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from collapselab.report import write_profile_report
from collapselab.report.figures import Chart, log_axis, new_figure
from collapselab.report.profile_data import ProfileData
from collapselab.report.profile_page import profile_sections, render_profile_report


class _Reader(HTMLParser):
    """Elements that could reach outside, ids, tables and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.tables = 0
        self.text = ""
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "srcset", "action"):
            target = values.get(name)
            if target and not target.startswith(("#", "data:")):
                self.outside.append(f"{tag} {name}={target}")
        if "id" in values:
            self.ids.append(values["id"] or "")
        self.tables += tag == "table"
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def _charts(profile: dict[str, Any], initial: dict[str, Any] | None = None) -> dict[str, Chart]:
    sections = profile_sections(ProfileData(profile, initial))
    return {chart.id: chart for section in sections for chart in section.charts}


def _traces(chart: Chart) -> dict[str, Any]:
    """Traces by what a readout calls them; grounds and colour bars are none."""
    traces: Any = chart.figure.data
    return {trace.meta["name"]: trace for trace in traces if trace.hoverinfo != "skip"}


def _shapes(chart: Chart) -> list[Any]:
    layout: Any = chart.figure.layout
    return list(layout.shapes)


@pytest.fixture(scope="module")
def charts(profiles: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Chart]:
    return _charts(*profiles)


def test_one_offline_file_with_a_table_for_every_chart(
    profiles: tuple[dict[str, Any], dict[str, Any]], charts: dict[str, Chart], tmp_path: Path
) -> None:
    end, start = profiles
    path = write_profile_report(tmp_path / "new" / "folder", end, start, {"command": "profile this"})
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    reader = _read(path.read_text(encoding="utf-8"))
    assert reader.outside == []
    assert len(reader.ids) == len(set(reader.ids))
    assert set(charts) <= set(reader.ids)
    assert (
        reader.tables == len(charts) + 4
    )  # all metrics, on train and test, at the end and at initialisation
    assert "profile this" in reader.text


def test_the_same_profile_gives_the_same_bytes(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    again = copy.deepcopy(profiles)
    assert render_profile_report(*profiles) == render_profile_report(*again)


def test_the_header_says_what_was_found(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    end, start = profiles
    text = " ".join(_read(render_profile_report(end, start)).text.split())
    last = end["layers"][-1]
    assert f"Neural collapse by layer: {end['model']}" in text
    assert f"collapsed from {end['first_collapsed_layer']} on" in text
    assert "300 / 200" in text
    assert f"{last['train']['normalized_within']:.3g} / {last['test']['normalized_within']:.3g}" in text
    assert "At initialisation" not in text
    assert "Dotted lines are the same network at initialisation." in text


def test_charts_draw_the_stored_numbers(
    profiles: tuple[dict[str, Any], dict[str, Any]], charts: dict[str, Chart]
) -> None:
    end, start = profiles
    for metric in (
        "mean_cosine_gap",
        "equinorm",
        "ncc_agreement",
        "ncc_accuracy",
        "vci",
        "cdnv",
        "fuzziness",
    ):
        traces = _traces(charts[metric])
        assert list(traces["train"].y) == [layer["train"][metric] for layer in end["layers"]]
        assert list(traces["test"].y) == [layer["test"][metric] for layer in end["layers"]]
        assert list(traces["train, initialisation"].y) == [
            layer["train"][metric] for layer in start["layers"]
        ]
        assert charts[metric].table["train"].tolist() == list(traces["train"].y)
    random = _traces(charts["alignment"])["two random subspaces"]
    assert random.line.dash == "dash"
    assert list(random.y) == [layer["train"]["alignment_random"] for layer in end["layers"]]


def test_equal_angles_are_relative_to_the_mean_cosine(
    profiles: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    end, _ = profiles
    drawn = _traces(_charts(end)["relative_equiangularity"])["train"].y
    for value, layer in zip(drawn, end["layers"], strict=True):
        mean = layer["train"]["mean_cosine_gap"] - 1 / (end["num_classes"] - 1)
        assert value == pytest.approx(layer["train"]["equiangularity"] / abs(mean))


def test_every_chart_over_depth_marks_the_first_collapsed_layer(
    profiles: tuple[dict[str, Any], dict[str, Any]], charts: dict[str, Chart]
) -> None:
    end, _ = profiles
    depth = next(layer["depth"] for layer in end["layers"] if layer["name"] == end["first_collapsed_layer"])
    for chart in charts.values():
        marks = [shape for shape in _shapes(chart) if shape.name == "first collapsed"]
        if chart.id != "weight-spectra":
            assert [mark.x0 for mark in marks] == [depth], chart.id
    open_end = end | {"first_collapsed_layer": None}
    assert "have not collapsed" in render_profile_report(open_end)
    assert not [
        s for chart in _charts(open_end).values() for s in _shapes(chart) if s.name == "first collapsed"
    ]


def test_captions_have_the_numbers_that_matter(charts: dict[str, Chart]) -> None:
    for chart in charts.values():
        assert len(re.findall(r"\d\.?\d*", chart.text)) >= 2, chart.text


def test_nulls_are_gaps_and_the_reason_is_said(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    sketched = copy.deepcopy(profiles[0])
    first = sketched["layers"][0]
    first["scatter"] = "sketch"
    for split in ("train", "test"):
        first[split] |= {"vci": None, "stable_rank_low": 2.0, "stable_rank": 3.0, "stable_rank_high": 4.0}
    charts = _charts(sketched)
    assert _traces(charts["vci"])["train"].y[0] is None
    assert charts["vci"].table["train"].isna().tolist() == [True, *[False] * (len(sketched["layers"]) - 1)]
    assert f"No value at 1 of {len(sketched['layers'])} layers: only a sketch" in charts["vci"].text
    rank = charts["stable-rank"]
    assert "shaded band" in rank.text
    assert rank.table["train, at most"][0] == 4.0
    assert "between 2 and 4" in _traces(rank)["train"].text[0]
    figure: Any = rank.figure.data
    assert [trace.fill for trace in figure if trace.hoverinfo == "skip"] == ["toself", "toself"]
    render_profile_report(sketched)


def test_a_chart_without_any_value_is_named_with_the_reason(
    profiles: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    sketched = copy.deepcopy(profiles[0])
    for layer in sketched["layers"]:
        layer["scatter"] = "trace"
        layer.pop("weight_singular_values", None)
        for split in ("train", "test"):
            layer[split]["fuzziness"] = None
            del layer[split]["class_separation"]
    charts = _charts(sketched)
    assert not {"fuzziness", "class_separation", "weight-spectra"} & set(charts)
    text = _read(render_profile_report(sketched)).text
    assert "“Fuzziness” is not drawn. No value at any layer: only the trace" in text
    assert "“Class separation” is not drawn. No value at any layer: it was not measured" in text
    assert "“Singular values of the weights” is not drawn." in text


def test_one_split_alone_and_no_start(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    alone = copy.deepcopy(profiles[0])
    del alone["num_samples"]["test"]
    for layer in alone["layers"]:
        del layer["test"]
    charts = _charts(alone)
    assert "nc1-traces-test" not in charts
    for chart in charts.values():
        assert "test" not in chart.table.columns
        assert "test data" not in chart.text
    reader = _read(render_profile_report(alone))
    assert reader.tables == len(charts) + 1
    assert "nan" not in reader.text.lower()
    assert "initialisation" not in reader.text


def test_text_from_the_profile_is_escaped(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    hostile = '</script><img src="https://example.org/x"><a href="https://example.org">&lt;%{y}'
    bad = copy.deepcopy(profiles[0])
    bad["model"] = hostile
    bad["warnings"] = [hostile]
    bad["first_collapsed_layer"] = bad["layers"][-1]["name"] = hostile
    page = render_profile_report(bad, bad, {"versions": {hostile: hostile}})
    assert hostile not in page
    reader = _read(page)
    assert reader.outside == []
    assert reader.text.count(hostile) > 10
    # In figures, too: plotly would make links of them.
    figures = page.split('id="figures">')[1].split("</script>")[0]
    assert "<a href" not in figures
    assert "<img" not in figures
    assert "&lt;img" in figures


def _deep(profile: dict[str, Any], count: int) -> dict[str, Any]:
    """The same layers over and over, with the long names that transformers have."""
    layers = [
        copy.deepcopy(profile["layers"][index % len(profile["layers"])])
        | {"name": f"encoder.layer.{index}.attention.output.dense", "depth": index}
        for index in range(count)
    ]
    return profile | {"layers": layers, "first_collapsed_layer": layers[-2]["name"]}


def test_many_layers_get_depths_at_the_axis_and_names_at_the_points(
    profiles: tuple[dict[str, Any], dict[str, Any]], charts: dict[str, Chart]
) -> None:
    deep = _charts(_deep(profiles[0], 54))
    axis: Any = deep["vci"].figure.layout
    assert axis.xaxis.ticktext is None
    assert len(axis.xaxis.tickvals) <= 12
    assert _traces(deep["vci"])["train"].text[53] == "encoder.layer.53.attention.output.dense, depth 53"
    spectra: Any = deep["weight-spectra"].figure
    lines = [trace for trace in spectra.data if trace.hoverinfo != "skip"]
    assert len({trace.line.color for trace in lines}) == 54
    assert spectra.layout.showlegend is False
    few: Any = charts["vci"].figure.layout
    assert list(few.xaxis.ticktext) == [layer["name"] for layer in profiles[0]["layers"]]


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.4), (2.0, 9.0), (1e-12, 1e3), (7.0, 7.0)])
def test_logarithmic_axes_have_ticks_whatever_they_span(low: float, high: float) -> None:
    figure = new_figure("", "")
    log_axis(figure, [low, high, 0.0, float("nan")])
    layout: Any = figure.layout
    shown = [tick for tick in layout.yaxis.tickvals if low / 1.5 <= tick <= high * 1.5]
    assert 1 <= len(shown) <= 9
    assert all(text and "e-" not in text for text in layout.yaxis.ticktext)


def test_what_cannot_be_drawn_is_refused(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    end, _ = profiles
    with pytest.raises(ValueError, match="no layers"):
        render_profile_report(end | {"layers": []})
    with pytest.raises(ValueError, match="of other layers"):
        render_profile_report(end, _deep(end, 3))


def test_a_single_layer_and_a_single_class(profiles: tuple[dict[str, Any], dict[str, Any]]) -> None:
    end, _ = profiles
    last = end["layers"][-1]
    one = end | {"layers": [last], "first_collapsed_layer": last["name"], "num_classes": 1}
    page = render_profile_report(one)
    assert html.escape(last["name"]) in page
    assert "relative_equiangularity" not in _charts(one)
