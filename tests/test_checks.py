"""Validation of what a caller passes, function by function."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collapselab import InputError
from collapselab.checks import (
    as_features,
    check_classifier,
    check_finite,
    check_labels,
    check_predictions,
    features_dtype,
)
from collapselab.errors import encodable, in_strings, one_line, printable
from collapselab.names import check_names, near_matches


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.isprintable()


def test_one_line_keeps_words_and_shows_control_characters() -> None:
    assert one_line("a\n  b\tc – µ") == "a b c – µ"
    assert one_line("\x1b[31m\udcff") == "\\x1b[31m\\udcff"


def test_near_matches() -> None:
    known = ["vci", "cdnv", "stable_rank", "stable_rank_per_class", "weight_stable_rank"]
    assert near_matches("vcl", known) == "did you mean 'vci'?"
    assert "'stable_rank_per_class'" in near_matches("per_class", known)
    assert near_matches("", ["b", "a"]) == near_matches("qqqq", ["b", "a"]) == "known: a, b"
    with pytest.raises(InputError, match=r"^unknown metric 'vcl'; did you mean 'vci'\?$"):
        check_names(["cdnv", "vcl", "zzz"], known, "metric")
    check_names([], known, "metric")


DTYPES = [
    (np.float16, torch.float16), (np.float32, torch.float32), (np.float64, torch.float64),
    (np.longdouble, torch.float64), (np.int8, torch.float32), (np.uint16, torch.float32), (np.bool_, torch.float32),
    (np.int32, torch.float64), (np.uint64, torch.float64),
]  # fmt: skip


@pytest.mark.parametrize(("given_dtype", "wanted"), DTYPES)
def test_features_keep_every_value(given_dtype: type[np.generic], wanted: torch.dtype) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(given_dtype)
    features = as_features(array, "here")
    assert features.dtype == wanted == features_dtype(array.dtype)
    assert features.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [
        (torch.bfloat16, torch.bfloat16), (torch.float8_e4m3fn, torch.float32), (torch.int16, torch.float32),
        (torch.bool, torch.float32), (torch.int64, torch.float64),
    ],
)  # fmt: skip
def test_tensor_features_keep_every_value(given_dtype: torch.dtype, wanted: torch.dtype) -> None:
    tensor = torch.tensor([[0.0, 1.0]]).to(given_dtype)
    assert as_features(tensor, "here").dtype == wanted


def test_features_share_memory_where_they_can() -> None:
    array = np.ones((3, 2), np.float32)
    assert as_features(array, "here").data_ptr() == array.ctypes.data
    tensor = torch.ones(3, 2, requires_grad=True)
    assert as_features(tensor, "here").data_ptr() == tensor.data_ptr()
    assert not as_features(tensor, "here").requires_grad
    array.flags.writeable = False
    as_features(array, "here").zero_()
    assert array.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_counted(dtype: torch.dtype, value: float) -> None:
    features = torch.ones(1000, 3, dtype=dtype)
    check_finite(features, "here")
    features[[700, 900], 1] = value
    with pytest.raises(
        InputError, match=r"^here: 2 feature values are NaN.* the first in row 1700 \(counting from 0\); "
    ):
        check_finite(features, "here", first_row=1000)


def test_what_is_not_finite_is_counted_over_pieces() -> None:
    features = torch.ones(6, 2**21)
    features[1, 5], features[5, :3] = float("nan"), float("inf")
    with pytest.raises(InputError, match=r"4 feature values .* row 1 "):
        check_finite(features, "here")


def test_values_whose_squares_overflow_are_refused() -> None:
    with pytest.raises(InputError, match=re.escape("beyond 1e+130")):
        check_finite(torch.full((2, 2), -1e200, dtype=torch.float64), "here")


@given(st.lists(st.integers(0, 2**63 - 2), min_size=1, max_size=5), st.sampled_from(["u8", "i8", ">i8"]))
def test_labels_keep_every_value(values: list[int], dtype: str) -> None:
    labels = check_labels(np.array(values, dtype=dtype), len(values), "here")
    assert labels.dtype == np.int64
    assert labels.tolist() == values


@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from(["f2", "f4", "f8"]))
def test_float_labels_are_whole_or_refused(value: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        labels = np.array([0, value]).astype(dtype)
    stored = float(labels[1])
    if stored >= 0 and stored.is_integer() and stored < 2**63 - 1:
        assert check_labels(labels, 2, "here").tolist() == [0, int(stored)]
    else:
        with pytest.raises(InputError, match=r"^here: (1 of the labels are (not|negative)|labels go up to)"):
            check_labels(labels, 2, "here")


def test_labels_may_be_empty_only_without_rows() -> None:
    assert check_labels(np.zeros(0, int), 0, "here").shape == (0,)
    with pytest.raises(InputError, match="0 predictions for 3 rows"):
        check_labels(np.zeros(0, int), 3, "here", "predictions")


def test_predictions_must_be_classes() -> None:
    classes = np.array([2, 5, 9])
    check_predictions(np.array([9, 2, 2]), classes, "here")
    with pytest.raises(InputError, match=r"2 predictions .* the first is 3 in row 1 "):
        check_predictions(np.array([9, 3, 4]), classes, "here")


def test_classifier_shapes() -> None:
    check_classifier(None, None, num_classes=2, dim=3, where="here")
    check_classifier(np.ones((2, 3)), np.ones(2), num_classes=2, dim=3, where="here")
    with pytest.raises(
        InputError, match=r"weight has shape \(3, 2\) but 2 classes and 3 features need \(2, 3\)"
    ):
        check_classifier(np.ones((3, 2)), None, num_classes=2, dim=3, where="here")
    with pytest.raises(InputError, match="bias has 1 NaN or infinite"):
        check_classifier(np.ones((2, 3)), np.array([0, np.inf]), num_classes=2, dim=3, where="here")


# ---------------------------------------------------------------- messages

FRAGMENTS = st.lists(
    st.one_of(
        st.text(max_size=400),
        st.sampled_from(
            ["/folder/" + "x" * 300, "(reason " + "why " * 90 + ")", "; do this", "known: " + "name, " * 90]
        ),
    ),
    max_size=4,
)


@given(FRAGMENTS)
def test_every_refusal_is_one_printable_line_of_at_most_300_characters(parts: list[str]) -> None:
    message = str(InputError(": ".join(parts)))
    assert len(message) <= 300
    assert message.isprintable()


def test_a_long_refusal_keeps_what_is_wrong_where_and_what_to_do() -> None:
    path = "/data/" + "deep/" * 100 + "train.npz"
    message = str(InputError(f"{path}: labels are negative ({'because ' * 60}of this); use class numbers"))
    assert message.startswith("/data/deep/")
    assert "/train.npz: labels are negative (because because" in message
    assert message.endswith("of this); use class numbers")
    names = ", ".join(f"layer{number}" for number in range(300))
    assert str(InputError(f"no layer 'x'; known: {names}")).startswith(
        "no layer 'x'; known: layer0, layer1, "
    )


def test_a_refusal_that_fits_is_not_changed() -> None:
    message = f"a: {'b' * 140} ({'c' * 100}); d"
    assert str(InputError(message)) == message


@given(st.text())
def test_printable_text_shows_every_character_or_its_escape(text: str) -> None:
    shown = printable(text)
    assert all(char.isprintable() or char.isspace() for char in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("layer1.conv", "layer1.conv"),
        ("é 中文 👩", "é 中文 👩"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x9b1m", "\\x9b1m"),
        ("\u202eexe.txt", "\\u202eexe.txt"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("z\u200bw\ufeff", "z\\u200bw\\ufeff"),
        ("\udce9\ud800", "\\udce9\\ud800"),
    ],
)
def test_printable_escapes_what_a_terminal_would_obey(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_strings_in_nested_values_are_changed_names_included() -> None:
    values = {"a\x00": [1, None, ("\ud800", {"b": "c\x07"})]}
    assert in_strings(printable, values) == {"a\\x00": [1, None, ["\\ud800", {"b": "c\\x07"}]]}
    assert encodable("a\x1b\ud800é") == "a\x1b\\ud800é"


def test_the_longest_text_in_brackets_loses_its_middle_and_all_else_stays() -> None:
    reason = "mat1 (8x3) and mat2 (4x5) " * 12
    shown = str(
        InputError(f"batch 0: the model (Net) raised TypeError ({reason}) on inputs (8, 3); check it")
    )
    assert len(shown) <= 300
    assert shown.startswith("batch 0: the model (Net) raised TypeError (mat1")
    assert shown.endswith(") on inputs (8, 3); check it")


def test_what_is_between_two_texts_in_brackets_stays() -> None:
    text = "row 12 of 40 has the value 3.5 where every other number of this column was said to be whole in the header of the "
    text += "same file, line 3 (labels); correct it"
    shown = str(InputError(f"split (train): /folder{'/deep' * 60}/a.npz: {text}"))
    assert len(shown) <= 300
    assert shown.startswith("split (train): /folder/deep")
    assert shown.endswith(f"/a.npz: {text}")
