"""Validation splits: the test split where there is no other, and always said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "dev", "val"), ("train", "val", "test")])
def test_copies_of_named_data_sets_are_tested_on_the_same_split_as_any_folder(
    tmp_path: Path, splits: tuple[str, ...]
) -> None:
    """Named data sets have a test split on the hub; a copy may have only a validation split."""
    folder = write(tmp_path / "set", dict(zip(splits, (10, 20, 30), strict=False)), classes=10)
    named = open_data_set("cifar10", {"cifar10": folder})
    plain = open_data_set(folder)
    assert named.notes == tuple(note.replace("set: ", "cifar10: ", 1) for note in plain.notes)
    assert len(named.notes) > 0
    inputs, _ = next(iter(named.open("test", standardize="none").batches(1)))
    assert round(float(inputs.mean()) * 255) == grey(folder, "test")


@pytest.mark.parametrize("train", ["", "train_"])
def test_arrays_of_a_validation_split(tmp_path: Path, train: str) -> None:
    """As MedMNIST stores them: every array has the name of its split in front."""
    arrays = {f"{train}images": 10, "val_images": 20}
    stored: dict[str, Any] = {name: np.full((3, 4, 4), value, np.uint8) for name, value in arrays.items()}
    stored |= {f"{train}labels": np.arange(3), "val_labels": np.arange(3)}
    np.savez(tmp_path / "set.npz", **stored)
    data = open_data_set(tmp_path / "set.npz")
    assert data.splits == ("train", "test", "val")
    assert data.notes == ("set.npz: there is no test split; val is used as the test split",)
    assert (grey(tmp_path / "set.npz", "train"), grey(tmp_path / "set.npz", "test")) == (10, 20)


def test_profile_says_where_nothing_or_training_data_are_tested_on(tmp_path: Path) -> None:
    alone, other = write(tmp_path / "set", {"train": 10}), write(tmp_path / "other", {"train": 30})
    command = ("profile", "convnet", "--dataset", alone, "--layers", "classifier", "--format", "json")
    found = json.loads(run(*command).out)
    assert found["num_samples"] == {"train": 3}
    assert any("set: there is no test split; only train is measured" in text for text in found["warnings"])
    found = json.loads(run(*command, "--test-dataset", other).out)
    assert found["num_samples"] == {"train": 3, "test": 3}
    assert "other: there is no test split; train is used as the test split" in found["warnings"]
