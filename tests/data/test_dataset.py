"""A data set that is open: found once, its labels read once, one label space for all splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from collapselab import InputError
from collapselab.data import DataSet, open_data, open_data_set
from collapselab.data.arrays import NpzStore
from collapselab.data.memory import load_splits
from collapselab.data.recipe import DataSpec


@pytest.fixture
def arrays(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "arrays.npz"
    inputs, test = rng.normal(size=(12, 4)), rng.normal(size=(6, 4))
    np.savez(
        path, inputs=inputs, labels=np.arange(12) % 3 * 2, test_inputs=test, test_labels=[0, 2, 4, 6, 6, 0]
    )
    return path


def test_splits_labels_and_classes(arrays: Path) -> None:
    data = open_data_set(arrays)
    assert (data.name, data.splits) == ("arrays.npz", ("train", "test"))
    assert (data.num_classes, data.class_names) == (4, ("0", "2", "4", "6"))
    assert data.labels("test").tolist() == [0, 1, 2, 3, 3, 0]
    for split in data.splits:
        whole = open_data(arrays, split=split)
        assert torch.equal(data.open(split).labels, whole.labels)
        assert torch.equal(next(iter(data.open(split).batches(9)))[0], next(iter(whole.batches(9)))[0])
    with pytest.raises(InputError, match=r"arrays\.npz: no split 'val'; it has train, test"):
        data.labels("val")


def test_a_recipe_opens_its_data_set_once(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = [], []

    class Counting(NpzStore):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

        def labels(self, split: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            read.append(split)
            return super().labels(split)

    monkeypatch.setattr("collapselab.data.opening.NpzStore", Counting)
    data = load_splits(DataSpec(name=str(arrays)), 0)
    assert (len(data.train), len(data.test), data.num_classes) == (12, 6, 4)
    assert opened == [arrays]
    assert sorted(read) == ["test", "train"]


# ---------------------------------------------------------------- folders of images


def write(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 2), grey).save(path)


def greys(data: DataSet, split: str) -> list[int]:
    batches = data.open(split, standardize="none").batches(5)
    return [round(float(image.mean()) * 255) for inputs, _ in batches for image in inputs]


def test_classes_of_all_splits_make_one_label_space(tmp_path: Path) -> None:
    for name, grey in (
        ("train/dog/a.png", 1),
        ("train/cat/b.PNG", 2),
        ("test/emu/c.bmp", 3),
        ("val/cat/d.png", 4),
    ):
        write(tmp_path / name, grey)
    data = open_data_set(tmp_path)
    assert data.splits == ("train", "test", "val")
    assert data.class_names == ("cat", "dog", "emu")
    assert [data.labels(split).tolist() for split in data.splits] == [[0, 1], [2], [0]]
    assert [greys(data, split) for split in data.splits] == [[2, 1], [3], [4]]


def test_folders_inside_a_class_belong_to_it_and_hidden_ones_to_nobody(tmp_path: Path) -> None:
    """The layout of Tiny ImageNet, with what editors and operating systems leave behind."""
    for name, grey in (
        ("train/n1/images/n1_2.png", 2), ("train/n1/images/n1_10.png", 1), ("train/n1/z.png", 3),
        ("train/n2/images/a.png", 4), ("train/n1/.thumbnails/x.png", 9), ("train/n2/.a.png", 9),
        ("train/.git/x.png", 9), ("train/__MACOSX/x.png", 9),
    ):  # fmt: skip
        write(tmp_path / name, grey)
    (tmp_path / "train" / "n1" / "n1_boxes.txt").write_text("0 0 64 64")
    data = open_data_set(tmp_path)
    assert data.class_names == ("n1", "n2")
    assert greys(data, "train") == [1, 2, 3, 4]  # sorted by path
    assert data.labels("train").tolist() == [0, 0, 0, 1]


def test_a_split_without_class_folders_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat" / "0.png", 1)
    write(tmp_path / "test" / "0.png", 1)
    with pytest.raises(InputError, match="test: no class folders; put the images of each class in a folder"):
        open_data_set(tmp_path).open("test")
