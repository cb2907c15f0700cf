"""`plot` of results: the axes show the numbers of the result, in the style of the papers' figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from collapselab import InputError, Measurement, Profile, measure, read_profile, read_run
from collapselab.frames import rows_where
from collapselab.report.pages.profile import profile_page
from collapselab.text import words
from collapselab.views.charts import layer_chart

matplotlib = pytest.importorskip("matplotlib", reason="figures need matplotlib")


@pytest.fixture(autouse=True)
def no_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "_backend_mod", None)
    matplotlib.use("Agg", force=True)
    yield
    pyplot.close("all")


@pytest.fixture
def profile(profile_folders: tuple[Path, Path]) -> Profile:
    return read_profile(profile_folders[1])


@pytest.fixture
def measurement() -> Measurement:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(12) * 2
    features = torch.eye(5, 7)[labels // 2] + 0.1 * torch.randn(60, 7, generator=generator)
    return measure(features, labels, test=(features[::2], labels[::2]), spectra=True)


def _drawn(axes: object) -> list[list[float]]:
    """Positions along y of the lines with markers, from the top one down."""
    return [
        [float(value) for value in line.get_ydata()]
        for line in reversed(axes.get_lines())  # type: ignore[attr-defined]
        if len(line.get_xdata()) > 2
    ]


def test_a_profile_shows_the_four_properties_by_layer(profile: Profile) -> None:
    axes = profile.plot()
    names = ("normalized_within", "equiangularity", "alignment", "ncc_agreement")
    assert [one.get_title() for one in axes] == [words(name) for name in names]
    for one, name in zip(axes, names, strict=True):
        train = [layer.train[name] for layer in profile.layers]
        assert _drawn(one)[0] == pytest.approx(train, rel=1e-6)


def test_a_line_passes_by_layers_of_another_branch(profile: Profile) -> None:
    shown = layer_chart({"": profile}, ["normalized_within"]).panels[0].series
    assert {line.apart for line in shown} == {frozenset()}
    beside = replace(profile.layers[1], same_features_as=profile.layers[0].name)
    branched = replace(profile, layers=(profile.layers[0], beside, *profile.layers[2:]))
    shown = layer_chart({"": branched}, ["normalized_within"]).panels[0].series
    assert {line.apart for line in shown} == {frozenset({1})}
    charts = [chart for section in profile_page(branched).sections for chart in section.charts]
    (share,) = (chart for chart in charts if chart.id == "ncc-agreement")
    assert {line.apart for line in share.panels[0].series} == {frozenset({1})}


def test_named_metrics_are_drawn_alone(profile: Profile) -> None:
    (axes,) = profile.plot("cdnv")
    # A panel that spans a decade or more is logarithmic: positions are decades.
    values = rows_where(profile.to_frame(), split="train")["cdnv"].tolist()
    drawn = _drawn(axes)[0]
    assert drawn == pytest.approx(values, rel=1e-6) or drawn == pytest.approx(np.log10(values), rel=1e-6)


def test_a_run_shows_the_last_layer_over_training(run_folders: tuple[Path, Path]) -> None:
    run = read_run(run_folders[0])
    axes = run.plot()
    assert [one.get_title() for one in axes] == ["normalized within", "loss", "accuracy"]
    last = rows_where(run.rows, layer=run.layers[-1], split="train")
    train = last.sort_values("step")["loss"].tolist()
    drawn = _drawn(axes[1])[0]
    assert drawn == pytest.approx(train, rel=1e-6) or drawn == pytest.approx(np.log10(train), rel=1e-6)


def test_a_measurement_shows_every_class_and_the_spectra(measurement: Measurement) -> None:
    axes = measurement.plot()
    assert len(axes) == 2 + len({name for lists in measurement.spectra.values() for name in lists})
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["0", "2", "4", "6", "8"]
    shares = measurement.class_details["train"]["relative_variance"].tolist()
    drawn = _drawn(axes[0])[0]
    assert drawn == pytest.approx(shares, rel=1e-6) or drawn == pytest.approx(np.log10(shares), rel=1e-6)
    (alone,) = measurement.plot("num_samples")
    assert alone.get_title() == "Samples"


def test_a_figure_can_be_saved(profile: Profile, tmp_path: Path) -> None:
    profile.plot("vci")[0].figure.savefig(tmp_path / "layers.pdf")
    assert (tmp_path / "layers.pdf").read_bytes().startswith(b"%PDF")


def test_unknown_names_are_refused(
    profile: Profile, measurement: Measurement, run_folders: tuple[Path, Path]
) -> None:
    with pytest.raises(InputError, match="unknown metric 'vcx'; did you mean 'vci'"):
        profile.plot("vcx")
    with pytest.raises(InputError, match="unknown value of a class 'vci'"):
        measurement.plot("vci")
    with pytest.raises(InputError, match="unknown measured quantity 'vci'"):
        read_run(run_folders[0]).plot("vci")


def test_what_was_not_measured_is_said(profile: Profile) -> None:
    with pytest.raises(InputError, match="nothing to draw: Not measured: weak test variance"):
        profile.plot("weak_test_variance")
