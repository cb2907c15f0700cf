"""`collapselab measure`: what it prints, where, and what it says when it is used wrongly."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from cli_runner import assert_refused, example, run, save
from collapselab import InputError, measure
from collapselab.cli.output import write_text
from collapselab.metrics import METRICS
from collapselab.tables import measurement_table


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return save(tmp_path / "train.npz")


@pytest.fixture
def test(tmp_path: Path) -> Path:
    return save(tmp_path / "test.npz", {name: example(1)[name] for name in ("features", "labels")})


# -------------------------------------------------------------------- JSON


def test_json_is_exactly_the_documented_object(train: Path, test: Path) -> None:
    outcome = run("measure", train, "--test", test, "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    names = ["num_samples", "num_classes", "dim", "weighting", "warnings", "splits", "class_details"]
    assert list(found) == names
    assert (found["num_samples"], found["num_classes"], found["dim"]) == (24, 3, 5)
    assert found["weighting"] == "balanced"
    assert list(found["splits"]) == ["train", "test"]
    for split, values in found["splits"].items():
        assert list(values) == [metric.name for metric in METRICS if split in metric.splits]
        assert all(value is None or isinstance(value, (int, float)) for value in values.values())
    assert found["class_details"]["test"]["label"] == found["class_details"]["train"]["label"] == [0, 1, 2]
    assert "train_variance" in found["splits"]["train"]
    assert {"strong_test_variance", "weak_test_variance"} <= set(found["splits"]["test"])


def test_json_holds_what_measure_returns(train: Path, test: Path) -> None:
    given, other = example(), example(1)
    wanted = measure(**given, test=(other["features"], other["labels"]), weighting="sample", spectra=True)
    outcome = run(
        "measure", train, "--test", test, "--format", "json", "--weighting", "sample", "--spectra"
    )  # fmt: skip
    found = json.loads(outcome.out)
    assert found == json.loads(json.dumps(wanted.to_dict()))
    assert set(found["spectra"]) == {"train", "test"}
    lengths = {name: len(values) for name, values in found["spectra"]["train"].items()}
    assert lengths == {
        "within_eigenvalues": 5, "between_eigenvalues": 5, "total_eigenvalues": 5, "weight_singular_values": 3
    }  # fmt: skip


def test_metrics_whose_input_is_missing_are_null(tmp_path: Path) -> None:
    outcome = run("measure", save(tmp_path / "a.npz", weight=None, bias=None), "--format", "json")
    values = json.loads(outcome.out)["splits"]["train"]
    missing = {name for name, value in values.items() if value is None}
    assert {"self_duality", "alignment", "weight_stable_rank", "ncc_agreement", "ncc_mismatch"} <= missing
    assert "ncc_accuracy" not in missing


def test_named_metrics_whose_input_is_missing_are_told(tmp_path: Path) -> None:
    """Without names no warning: nobody asked for these metrics."""
    bare = save(tmp_path / "a.npz", weight=None, bias=None)
    named = run("measure", bare, "--format", "csv", "--metrics", "cdnv,alignment,ncc_agreement,ncc_mismatch")
    assert named.err.splitlines() == [
        "warning: train: no value for alignment, because the data contain no weight; add it",
        "warning: train: no value for ncc_agreement, ncc_mismatch, because the data contain neither weight nor "
        "predictions; add one of them",
    ]
    assert "no value for" not in run("measure", bare, "--format", "csv").err
    decided = save(tmp_path / "b.npz", weight=None, bias=None, predictions=example()["labels"])
    assert "no value for" not in run("measure", decided, "--format", "csv", "--metrics", "ncc_agreement").err


def test_an_unknown_metric_is_refused_with_where_names_are_listed(train: Path) -> None:
    outcome = run("measure", train, "--metrics", "vcl")
    assert outcome.code == 2
    assert "'vcl'; did you mean 'vci'? All names: collapselab metrics" in outcome.err


@pytest.mark.parametrize("given", [("vci,cdnv",), ("vci, cdnv,",), ("vci", "cdnv")])
def test_only_the_named_metrics(train: Path, test: Path, given: tuple[str, ...]) -> None:
    options = [part for names in given for part in ("--metrics", names)]
    outcome = run("measure", train, "--test", test, "--format", "json", *options)
    assert {split: set(values) for split, values in json.loads(outcome.out)["splits"].items()} == {
        "train": {"vci", "cdnv"},
        "test": {"vci", "cdnv"},
    }


def test_rcond_reaches_the_pseudo_inverses(train: Path) -> None:
    outcome = run("measure", train, "--format", "json", "--rcond", "0.9", "--metrics", "vci,fuzziness")
    (warning,) = (text for text in json.loads(outcome.out)["warnings"] if "vci is computed" in text)
    assert re.search(
        r"Number of eigenvalues below 0\.9 times the largest one: \d+\. vci is computed without them$",
        warning,
    )


# -------------------------------------------------------------------- unusual, but no error


def strict_json(path: Path, *options: object) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    outcome = run("measure", path, "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out, parse_constant=refuse)


def warnings_of(path: Path, *options: object) -> str:
    return "\n".join(strict_json(path, *options)["warnings"])  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_labels_need_not_be_contiguous(tmp_path: Path, train: Path) -> None:
    names = np.array([7, 10_000_000_000, 12])[example()["labels"]]
    order = np.argsort([7, 10_000_000_000, 12])
    other = save(
        tmp_path / "b.npz", labels=names, weight=example()["weight"][order], predictions=names[::-1].copy()
    )  # fmt: skip
    assert strict_json(other, "--metrics", "vci,cdnv")["num_classes"] == 3
    assert strict_json(other)["splits"]["train"]["ncc_agreement"] < 1  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(("num_classes", "per_class", "dim"), [(2, 5, 3), (9, 4, 3), (6, 1, 4), (5, 2, 1)])
def test_shapes_at_the_edge(tmp_path: Path, num_classes: int, per_class: int, dim: int) -> None:
    path = save(tmp_path / "a.npz", example(0, num_classes, per_class, dim))
    found = strict_json(path, "--test", path, "--spectra")
    assert found["num_classes"] == num_classes


def test_single_sample_classes_are_a_warning(tmp_path: Path) -> None:
    assert "6 classes have one sample" in warnings_of(save(tmp_path / "a.npz", example(0, 6, 1, 4)))


def test_more_features_than_samples_is_a_warning(tmp_path: Path) -> None:
    found = warnings_of(save(tmp_path / "a.npz", example(0, 3, 4, 12)))
    assert "Sigma_T has rank 11, the largest possible with 12 samples" in found


def test_constant_features_are_null_with_warnings(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", features=np.ones((24, 5)))
    found = strict_json(path, "--test", path, "--spectra")
    for name in ("vci", "fuzziness", "cdnv", "etf_distance", "squared_distance", "train_variance"):
        assert found["splits"]["train"][name] is None, name  # pyright: ignore[reportIndexIssue]
        assert name in warnings_of(path) or name == "etf_distance", name


def test_zero_rows_are_a_warning(tmp_path: Path) -> None:
    features = example()["features"]
    features[3] = 0
    assert "norm zero" in warnings_of(save(tmp_path / "a.npz", features=features))


def test_a_class_that_test_lacks_is_a_warning(tmp_path: Path, train: Path) -> None:
    other, keep = example(1), example(1)["labels"] != 1
    path = save(tmp_path / "b.npz", {"features": other["features"][keep], "labels": other["labels"][keep]})
    assert "test: 1 of the training classes have no samples here, the first is 1" in warnings_of(
        train, "--test", path
    )


# -------------------------------------------------------------------- CSV and table


def test_csv_has_a_row_per_metric_and_split(tmp_path: Path, test: Path) -> None:
    path = save(tmp_path / "a.npz", example(0, 3, 2, 9))
    plain = run("measure", path, "--test", test.with_name("a.npz"), "--format", "csv", "--spectra")
    rows = list(csv.DictReader(io.StringIO(plain.out)))
    found = strict_json(path, "--test", path, "--spectra")
    values = {(row["split"], row["name"]): row["value"] for row in rows}
    for split, wanted in found["splits"].items():  # pyright: ignore[reportAttributeAccessIssue]
        for name, value in wanted.items():
            assert values[split, name] == ("" if value is None else repr(value)), name
    assert values["test", "within_eigenvalues[8]"]
    # On stderr, warnings of both splits that differ only in their numbers are one line; JSON has all.
    notes = plain.err.splitlines()
    assert all(note.startswith("warning: train: ") and note.endswith(". Similar: test") for note in notes)
    assert 2 * len(notes) == len(found["warnings"]) > 0  # pyright: ignore[reportArgumentType]


def test_table_shows_every_metric_by_family_within_80_columns(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", example(0, 3, 2, 9))
    outcome = run("measure", path, "--test", path, "--spectra")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in outcome.out
    assert "…" not in outcome.out.replace(", … (", "")
    body = "\n".join(lines)
    for metric in METRICS:
        assert f"\n  {metric.name} " in body
        assert f"\n{metric.family}\n" in body
    assert "warning: train: Sigma_T has rank 5, the largest possible with 6 samples" in " ".join(body.split())
    assert "test within_eigenvalues: " in body
    assert "(9 in all)" in body


def test_table_of_many_digits_is_not_cut(train: Path, test: Path) -> None:
    given = example()
    result = measure(
        given["features"] * -1e-30, given["labels"], test=(given["features"] * 1e40, given["labels"])
    )
    for width in (10, 60, 200):
        table = measurement_table(result, width=width)
        assert "within_off_weight_space" in table
        assert re.search(r"\de-6\d", table)
        assert re.search(r"\de\+8\d", table)
        assert max(map(len, table.splitlines())) <= max(72, min(width, 100))


def test_table_has_colours_only_where_asked(train: Path) -> None:
    given = example()
    result = measure(given["features"], given["labels"])
    assert "\x1b[" in measurement_table(result, width=80, colour=True)
    assert "\x1b" not in measurement_table(result, width=80)


# -------------------------------------------------------------------- --output


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_output_gets_what_stdout_would(train: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    target.chmod(0o640)
    outcome = run("measure", train, "--format", form, "--output", target)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"wrote {target}\n"
    assert target.read_text(encoding="utf-8") == run("measure", train, "--format", form).out
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.txt", "train.npz"]


def test_output_that_cannot_be_written_is_refused_before_measuring(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.features.sources.open_source", lambda path: pytest.fail("was read"))
    assert_refused(run("measure", train, "--output", tmp_path), "--output", tmp_path, "folder")
    assert_refused(run("measure", train, "--output", tmp_path / "no" / "a"), "no folder", "create it first")
    assert_refused(run("measure", train, "--output", train / "a"), "--output")
    assert_refused(run("measure", train, "--output", train), "one of the files to measure")
    assert_refused(run("measure", train, "--output", "a\0b"), "--output")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(run("measure", train, "--output", tmp_path / "a"), "no permission to write")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_text(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_output_follows_links_and_leaves_devices(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write_text(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "text"
    write_text(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()
