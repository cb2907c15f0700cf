"""What a `Measurement` shows: frames, items, dictionaries, HTML, spectra."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_measure import FEATURES, LABELS, WEIGHT

from collapselab import METRICS, Measurement, measure
from collapselab.metrics import BY_NAME
from helpers import assert_close
from oracles import Oracle


@pytest.fixture(scope="module")
def result() -> Measurement:
    return measure(FEATURES, LABELS, test=(FEATURES[::2], LABELS[::2]))


def test_frame_has_a_row_per_metric(result: Measurement) -> None:
    frame = result.to_frame()
    assert list(frame.index) == [metric.name for metric in METRICS]
    assert list(frame.columns) == ["family", "train", "test", "at_collapse"]


def test_frame_holds_the_values_and_nan_for_null(result: Measurement) -> None:
    frame = result.to_frame()
    assert frame.loc["vci", "train"] == result.splits["train"]["vci"]
    missing = frame.isna().to_dict()["train"]
    assert missing["alignment"]
    assert missing["strong_test_variance"]


def test_frame_has_the_value_at_collapse(result: Measurement) -> None:
    assert result.to_frame()["at_collapse"]["cosine_similarity"] == BY_NAME["cosine_similarity"].at_collapse


def test_items_are_train_values_or_those_of_test_where_only_it_has_them(result: Measurement) -> None:
    assert result["vci"] == result.splits["train"]["vci"]
    assert result["strong_test_variance"] == result.splits["test"]["strong_test_variance"]
    with pytest.raises(KeyError):
        result["vcii"]


def test_dict_is_json(result: Measurement) -> None:
    loaded = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(loaded) == [
        "num_samples",
        "num_classes",
        "dim",
        "weighting",
        "warnings",
        "splits",
        "class_details",
    ]
    assert loaded["splits"]["train"]["vci"] == result["vci"]
    assert isinstance(loaded["splits"]["train"]["components_90"], int)


def test_html_is_a_table(result: Measurement) -> None:
    shown = result._repr_html_()
    assert shown.count("<table") == 1
    assert "76 samples, 3 classes, 5 features, balanced weighting" in shown
    assert all(metric.name in shown for metric in METRICS)


def test_html_escapes_what_it_shows() -> None:
    wild = Measurement(1, 2, 3, "balanced", ("<script>alert(1)</script> & more",), {"<b>": {"vci": 0.5}}, {})
    shown = wild._repr_html_()
    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown


def test_spectra() -> None:
    result = measure(FEATURES, LABELS, weight=WEIGHT, metrics=["vci"], spectra=True)
    oracle = Oracle(FEATURES, LABELS)
    for name, matrix in (("within", oracle.sigma_w), ("between", oracle.sigma_b), ("total", oracle.sigma_t)):
        expected = np.linalg.eigvalsh(matrix)[::-1]
        assert_close(
            result.spectra["train"][f"{name}_eigenvalues"], expected, rel=1e-12, why="float64, p = 5"
        )
    assert result.spectra["train"]["weight_singular_values"] == pytest.approx(
        np.linalg.svd(WEIGHT, compute_uv=False)
    )


def test_no_spectra_unless_asked_for(result: Measurement) -> None:
    assert result.spectra == {}
    assert "spectra" not in result.to_dict()
