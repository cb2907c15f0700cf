"""Validation splits: the test split where there is no other, and always said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cli_runner import run
from collapselab import InputError
from collapselab.data import open_data_set


def write(folder: Path, splits: dict[str, int], classes: int = 3) -> Path:
    """Grey images by split; their grey tells which split they are of."""
    for split, grey in splits.items():
        for number in range(classes):
            path = folder / split / f"c{number}" / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), grey).save(path)
    return folder


def grey(folder: Path, split: str) -> int:
    inputs, _ = next(iter(open_data_set(folder).open(split, standardize="none").batches(1)))
    return round(float(inputs.mean()) * 255)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "eval", "Val", "VALIDATION"])
def test_the_validation_split_is_tested_on_where_there_is_no_other(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "set", {"train": 10, name: 20})
    data = open_data_set(folder)
    assert data.splits == ("train", "test", name.lower())
    assert data.notes == (f"set: there is no test split; {name.lower()} is used as the test split",)
    assert grey(folder, "test") == grey(folder, name.lower()) == 20


def test_a_test_split_comes_first(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {"train": 10, "val": 20, "dev": 25, "Test": 30})
    assert open_data_set(folder).notes == ("set: val, dev are not used; test is the test split",)
    assert (grey(folder, "train"), grey(folder, "test")) == (10, 30)


def test_of_two_validation_splits_one_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {"train": 10, "val": 20, "validation": 25})
    assert open_data_set(folder).notes == (
        "set: there is no test split; validation is used as the test split",
        "set: val is not used; validation is the test split",
    )
    assert grey(folder, "test") == 25


def test_images_without_classes_are_no_test_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {"training": 10, "val": 20})
    (folder / "test").mkdir()
    Image.new("L", (4, 4), 99).save(folder / "test" / "0.png")
    data = open_data_set(folder)
    assert data.splits == ("train", "test", "val")
    assert data.notes == (
        "set: test is not used: it has no class folders",
        "set: there is no test split; val is used as the test split",
    )
    assert grey(folder, "test") == 20
    with pytest.raises(InputError, match="no split 'dev'; it has train, test, val"):
        data.labels("dev")


def test_train_and_test_alone_need_no_note(tmp_path: Path) -> None:
    assert open_data_set(write(tmp_path / "set", {"train": 10, "testing": 20})).notes == ()
    assert open_data_set("digits").notes == ()


def test_profile_says_what_it_tests_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", {"train": 10, "val": 20})
    outcome = run("profile", "convnet", "--dataset", folder, "--layers", "classifier", "--format", "json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["num_samples"] == {"train": 3, "test": 3}
    assert "set: there is no test split; val is used as the test split" in found["warnings"]
