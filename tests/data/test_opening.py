"""Data sets opened by name and by path, in every form they are stored in."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from collapselab.data import LabelledData, available_splits, load_digits, open_data
from collapselab.data import pixels as pixels_module
from collapselab.errors import InputError, InputNote

Writer = Callable[[Path, np.ndarray[Any, Any], np.ndarray[Any, Any], str], None]
NAMES = ("cat", "dog", "owl")


def write_parquet(
    folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], split: str
) -> None:
    import datasets

    folder.mkdir(exist_ok=True)
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "id": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=list(NAMES)),
        }
    )
    halves = np.array_split(np.arange(len(labels)), 2)
    for shard, rows in enumerate(halves):
        columns = {
            "img": [{"bytes": png(images[row]), "path": None} for row in rows],
            "id": rows.tolist(),
            "label": labels[rows].tolist(),
        }
        data = datasets.Dataset.from_dict(columns, features=features)
        data.to_parquet(str(folder / f"{split}-{shard:05}-of-00002.parquet"), batch_size=3)


def write_folders(
    folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], split: str
) -> None:
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / split / NAMES[label] / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))


def write_npz(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], split: str) -> None:
    path = folder / "data.npz"
    folder.mkdir(exist_ok=True)
    held = dict(np.load(path)) if path.exists() else {}
    prefix = "" if split == "train" else "test_"
    np.savez(path, **{**held, f"{prefix}images": images, f"{prefix}labels": labels})


def png(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def inputs_of(data: LabelledData, batch_size: int = 4) -> Tensor:
    return torch.cat([inputs for inputs, _ in data.batches(batch_size)])


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.integers(0, 256, (14, 6, 5, 3), dtype=np.uint8)


LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
TEST_LABELS = np.array([0, 1, 2, 2])


@pytest.mark.parametrize("write", [write_parquet, write_folders, write_npz])
def test_every_form_gives_the_same_data(write: Writer, images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder, images[:10], LABELS, "train")
    write(folder, images[10:], TEST_LABELS, "test")
    source = folder / "data.npz" if write is write_npz else folder
    assert available_splits(source) == ("train", "test")
    train = open_data(str(source))
    test = open_data(source, split="test", reference=train)
    assert (len(train), len(test), train.num_classes, test.num_classes) == (10, 4, 3, 3)
    assert train.labels.tolist() == LABELS.tolist()
    assert train.class_counts.tolist() == [4, 3, 3]
    assert train.class_names == (None if write is write_npz else NAMES)
    assert train.input_shape == test.input_shape == (3, 6, 5)
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    mean = scaled[:10].mean(dim=(0, 2, 3), keepdim=True)
    deviation = scaled[:10].std(dim=(0, 2, 3), keepdim=True, correction=0)
    expected = ((scaled - mean) / deviation).float()
    torch.testing.assert_close(inputs_of(train), expected[:10])
    torch.testing.assert_close(inputs_of(test), expected[10:])
    torch.testing.assert_close(inputs_of(open_data(source, split="test")), expected[10:])


@pytest.mark.parametrize("write", [write_parquet, write_folders, write_npz])
def test_shares_are_disjoint_and_the_same_when_decoded_lazily(
    write: Writer, images: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data", images[:10], LABELS, "train")
    source = tmp_path / "data" / "data.npz" if write is write_npz else tmp_path / "data"
    in_memory = inputs_of(open_data(source))
    monkeypatch.setattr(pixels_module, "MEMORY_BYTES", 0)
    lazy = open_data(source)
    shares = [lazy.batches(2, rank=rank, world=3) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 2, 2]  # of five batches
    for _ in range(2):  # can be iterated over again
        batches = [batch for share in shares for batch in share]
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), in_memory)
        assert torch.cat([labels for _, labels in batches]).tolist() == LABELS.tolist()
    assert (
        sum(
            len(labels)
            for share in (lazy.batches(2, rank=r, world=16) for r in range(16))
            for _, labels in share
        )
        == 10
    )


def test_pixel_wise_statistics_leave_constant_pixels_alone(
    images: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    images[:, 0, 0] = 77
    write_npz(tmp_path, images[:10], LABELS, "train")
    inputs = inputs_of(open_data(tmp_path / "data.npz", standardize="pixel"))
    assert (inputs[:, :, 0, 0] == 0).all()
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(3, 6, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs.std(dim=0, correction=0)[:, 1:], torch.ones(3, 5, 5))
    plain = inputs_of(open_data(tmp_path / "data.npz", standardize="none"))
    assert torch.equal(plain, torch.from_numpy(images[:10]).permute(0, 3, 1, 2) / 255)


def test_channels_and_sizes(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_npz(tmp_path, images[:10, :, :, 0], LABELS, "train")
    grey = open_data(tmp_path / "data.npz")
    colour = open_data(tmp_path / "data.npz", channels=3, image_size=(8, 4))
    assert (grey.input_shape, colour.input_shape) == ((1, 6, 5), (3, 8, 4))
    inputs = inputs_of(colour)
    assert torch.equal(inputs[:, 0], inputs[:, 2])
    write_npz(tmp_path, images[:10].transpose(0, 3, 1, 2), LABELS, "train")
    assert open_data(tmp_path / "data.npz").input_shape == (3, 6, 5)
    assert open_data(tmp_path / "data.npz", channels=1).input_shape == (1, 6, 5)


def test_one_image_of_colour_makes_all_of_three_channels(
    images: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    write_folders(tmp_path, images[:4, :, :, 0], np.array([0, 0, 1, 1]), "train")
    assert open_data(tmp_path).input_shape == (1, 6, 5)
    (tmp_path / "train" / "dog" / "003.png").write_bytes(png(images[3]))
    assert open_data(tmp_path).input_shape == (3, 6, 5)


def test_sixteen_bits_palettes_and_alpha(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    deep = np.full((4, 4), 65535, dtype=np.uint16)
    deep[0] = 257
    Image.fromarray(deep).save(tmp_path / "cat" / "deep.png")
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "cat" / "alpha.png")
    Image.new("P", (4, 4)).save(tmp_path / "cat" / "palette.gif")
    inputs = inputs_of(open_data(tmp_path, standardize="none", channels=1))
    assert inputs[0].unique().tolist() == [1]  # alpha
    assert inputs[1].unique().tolist() == [pytest.approx(1 / 255), 1]
    assert inputs[2].unique().tolist() == [0]


def test_limit_is_a_fixed_random_subset_in_order(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", images[:10], LABELS, "train")
    whole, part = (
        open_data(tmp_path / "data", standardize="none"),
        open_data(tmp_path / "data", limit=6, standardize="none"),
    )
    again = open_data(tmp_path / "data", limit=6, standardize="none")
    assert len(part) == 6
    assert torch.equal(inputs_of(part), inputs_of(again))
    assert torch.equal(part.labels.unique(), whole.labels.unique())
    rows = [int((inputs_of(whole) == row).flatten(1).all(dim=1).nonzero()) for row in inputs_of(part)]
    assert rows == sorted(rows)
    assert torch.equal(whole.labels[rows], part.labels)
    assert len(open_data(tmp_path / "data", limit=99)) == 10


def test_digits_are_as_they_are() -> None:
    digits = load_digits()
    assert available_splits("digits") == ("train", "test")
    test = open_data("digits", split="test")
    assert torch.equal(inputs_of(test, 100), digits.test.inputs)
    assert (test.name, test.num_classes, test.input_shape) == ("digits", 10, (64,))
    assert len(open_data("digits", limit=50)) == 50


def test_features_and_labels_with_gaps(tmp_path: Path, rng: np.random.Generator) -> None:
    features = rng.standard_normal((4, 7))
    np.savez(
        tmp_path / "f.npz",
        features=features,
        labels=[5, 2, 5, 2],
        test_features=features,
        test_labels=[9, 9, 2, 5],
    )
    train, test = open_data(tmp_path / "f.npz"), open_data(tmp_path / "f.npz", split="test")
    assert torch.equal(inputs_of(train), torch.from_numpy(features).float())
    assert train.labels.tolist() == [1, 0, 1, 0]
    assert test.labels.tolist() == [2, 2, 0, 1]
    assert train.class_names == test.class_names == ("2", "5", "9")
    assert train.class_counts.tolist() == [2, 2, 0]


def test_folders_without_splits_and_parquet_in_data(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_folders(tmp_path, images[:10], LABELS, "plain")
    assert available_splits(tmp_path / "plain") == ("train",)
    assert open_data(tmp_path / "plain").class_counts.tolist() == [4, 3, 3]
    (tmp_path / "hub").mkdir()
    write_parquet(tmp_path / "hub" / "data", images[:10], LABELS, "train")
    assert available_splits(tmp_path / "hub") == ("train",)
    assert len(open_data(tmp_path / "hub")) == 10


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        for _ in open_data(source, **options).batches(3):
            pass
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_unknown_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'digits'" in refusal("digit")
    assert "sun397. A path or a hub id" in refusal("tinynet")
    (tmp_path / "cifar10").mkdir()
    assert "did you mean 'cifar10'" in refusal(tmp_path / "cifar1O")
    assert "no class folders, tables, arrays or downloads" in refusal(tmp_path / "cifar10")
    assert "is not a folder either" in refusal(tmp_path / "nowhere" / "data")
    (tmp_path / "notes.txt").write_text("x")
    assert "not a kind of data set" in refusal(tmp_path / "notes.txt")
    assert "it has train, test" in refusal("digits", split="val")
    assert "is empty" in refusal("")
    assert "limit=0" in refusal("digits", limit=0)
    assert "channels=2" in refusal("digits", channels=2)


def test_damaged_images_are_named(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_folders(tmp_path / "f", images[:10], LABELS, "train")
    (tmp_path / "f" / "train" / "dog" / "005.png").write_bytes(png(images[5])[:60])
    assert "005.png" in refusal(tmp_path / "f")
    (tmp_path / "f" / "train" / "dog" / "005.png").write_bytes(b"no image")
    assert "005.png: not an image" in refusal(tmp_path / "f")
    (tmp_path / "f" / "train" / "dog" / "005.png").write_bytes(png(images[5, :3]))
    with pytest.warns(InputNote, match="sizes from 3 x 5 to 6 x 5: all are resized to 6 x 5"):
        assert inputs_of(open_data(tmp_path / "f")).shape == (10, 3, 6, 5)
    assert inputs_of(open_data(tmp_path / "f", image_size=(6, 5))).shape == (10, 3, 6, 5)


def test_damaged_parquet(
    images: np.ndarray[Any, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "p"
    write_parquet(folder, images[:10], LABELS, "train")
    second = folder / "train-00001-of-00002.parquet"
    whole = second.read_bytes()
    capfd.readouterr()  # the writer's progress
    for damaged in (whole[:200], b"", bytes(100) + whole[100:]):
        second.write_bytes(damaged)
        assert str(second) in refusal(folder)
    image = png(images[5])
    assert image in whole
    second.write_bytes(whole.replace(image, bytes(len(image))))
    assert f"{second}, row 0: not an image" in refusal(folder)
    second.unlink()
    assert "1 of the 2 files" in refusal(folder)
    assert f"such as {folder}" in refusal(tmp_path)
    assert capfd.readouterr() == ("", "")  # the refusal is all that is said


def test_wrong_columns_and_labels(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"x": [[1], [2]], "label": [0, 1]})
    frame.to_parquet(tmp_path / "train.parquet")
    assert "no column of images, text or numbers among x (List), label (int64)" in refusal(tmp_path)
    arrays = tmp_path / "a.npz"
    for held, expected in (
        ({"x": [1]}, "holds x"),
        ({"labels": [1]}, "none of inputs, images, features"),
        ({"labels": [0, -1], "inputs": np.zeros((2, 2))}, "negative"),
        ({"labels": [0, 1], "inputs": np.zeros((3, 2))}, "shape (3, 2) for 2 labels"),
        ({"labels": [0, 1], "inputs": np.full((2, 2), np.nan)}, "NaN"),
        ({"labels": [0, 1], "inputs": np.array([["a"], ["b"]])}, "dtype"),
        ({"labels": [0, 1], "images": np.zeros((2, 4, 4, 5), np.uint8)}, "of 1 or 3 channels"),
        ({"labels": [0, 1], "inputs": np.array([[None], [None]])}, "never unpickled"),
    ):
        contents: dict[str, Any] = {name: np.asarray(value) for name, value in held.items()}
        np.savez(arrays, **contents)
        assert expected in refusal(arrays)
    arrays.write_bytes(arrays.read_bytes()[:50])
    assert str(arrays) in refusal(arrays)


def test_empty_class_folders_and_a_test_split_alone(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_folders(tmp_path, images[:4], TEST_LABELS, "test")
    assert "no split 'train' to standardise with" in refusal(tmp_path, split="test")
    assert len(open_data(tmp_path, split="test", standardize="none")) == 4
    (tmp_path / "test" / "emu").mkdir()
    assert "emu: no images" in refusal(tmp_path, split="test", standardize="none")


def test_references_must_suit(images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    write_npz(tmp_path, images[:10], LABELS, "train")
    write_npz(tmp_path, images[10:], TEST_LABELS, "test")
    source = tmp_path / "data.npz"
    assert "'digits' are not" in refusal(source, split="test", reference=open_data("digits"))
    train = open_data(source)
    assert "(3, 6, 5)" in refusal(source, split="test", reference=train, channels=1)
    with pytest.raises(InputError, match="batch size 0"):
        train.batches(0)
    with pytest.raises(InputError, match="rank 2"):
        train.batches(1, rank=2, world=2)
