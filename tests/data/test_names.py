"""Data sets of a short name: where copies are, what their splits are called, which rows are opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cli_runner import assert_refused, run
from collapselab.data import NAMED, LabelledData, available_splits, local_copies, open_data
from collapselab.errors import InputError

LABELS = np.tile(np.arange(10), 3)
VARIABLE = "COLLAPSELAB_DATA"
REAL = os.environ.get(VARIABLE, "")  # before tests hide it


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no copies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("collapselab.data.hub._loaded", refuse)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)


def write_npz(path: Path, images: np.ndarray[Any, Any], classes: int = 10) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    train, test = np.split(images, 2)
    np.savez(
        path, images=train, labels=LABELS % classes, test_images=test, test_labels=LABELS[::-1] % classes
    )
    return path


def write_folders(folder: Path, splits: tuple[str, ...], num_classes: int) -> Path:
    """One image per class and split."""
    for split in splits:
        for label in range(num_classes):
            path = folder / split / f"n{label:04}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (2, 2)).save(path)
    return folder


def write_parquet(folder: Path, splits: tuple[str, ...], num_classes: int) -> Path:
    """Two grey images per split; their grey tells which."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=num_classes)}
    )
    folder.mkdir()
    for grey, split in enumerate(splits, start=1):
        image = Image.new("L", (2, 2), grey)
        data = datasets.Dataset.from_dict({"image": [image] * 2, "label": [0, 1]}, features=features)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def inputs_of(data: LabelledData) -> Tensor:
    return torch.cat([inputs for inputs, _ in data.batches(7)])


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        function(*arguments, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- where copies are


def test_names_are_complete() -> None:
    assert {name: (data.num_classes, data.image_shape) for name, data in NAMED.items()} == {
        "mnist": (10, (1, 28, 28)),
        "fashion_mnist": (10, (1, 28, 28)),
        "cifar10": (10, (3, 32, 32)),
        "cifar100": (100, (3, 32, 32)),
        "svhn": (10, (3, 32, 32)),
        "stl10": (10, (3, 96, 96)),
        "imagenet": (1000, None),
        "oxford_pets": (37, None),
        "oxford_flowers": (102, None),
        "fgvc_aircraft": (100, None),
        "stanford_cars": (196, None),
        "dtd": (47, None),
        "food101": (101, None),
        "caltech101": (102, None),
        "sun397": (397, None),
    }
    assert all(name == data.name for name, data in NAMED.items())
    assert NAMED["imagenet"].splits == {"train": "train", "test": "validation"}


def test_options_come_before_the_variable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b=c", "d"):
        (here / name).mkdir()
    assert local_copies() == {}
    monkeypatch.setenv(VARIABLE, f"mnist={here / 'a'}{os.pathsep}cifar10= {here / 'd'}{os.pathsep}")
    assert local_copies() == {"mnist": here / "a", "cifar10": here / "d"}
    assert local_copies(["mnist=b=c", "svhn=d"]) == {
        "mnist": Path("b=c"),
        "cifar10": here / "d",
        "svhn": Path("d"),
    }
    assert local_copies(["mnist=d", f"mnist={here}/a/../d"])["mnist"].resolve() == here / "d"


def test_home_is_known(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "sets").mkdir()
    assert local_copies(["stl10=~/sets"]) == {"stl10": here / "sets"}


@pytest.mark.parametrize(
    ("entries", "fragments"),
    [
        (["mnist"], ("'mnist' is not NAME=PATH",)),
        (["=sets"], ("'=sets' is not NAME=PATH",)),
        (["mnist="], ("'mnist=' is not NAME=PATH",)),
        (["mnits=sets"], ("unknown data set 'mnits'", "did you mean 'mnist'")),
        (["mnist=none"], ("mnist=none: no such file or folder",)),
        (["digits=sets"], ("digits come with the package",)),
        (["mnist=sets", "mnist=more"], ("mnist is given as sets and as more",)),
    ],
)
def test_the_option_or_the_variable_is_at_fault(
    here: Path, monkeypatch: pytest.MonkeyPatch, entries: list[str], fragments: tuple[str, ...]
) -> None:
    for name in ("sets", "more"):
        (here / name).mkdir()
    message = refusal(local_copies, entries, origin="--data")
    assert message.startswith("--data: ")
    assert refusal(local_copies, entries) == message.replace("--data: ", "copies: ", 1)
    monkeypatch.setenv(VARIABLE, os.pathsep.join(entries))
    other = refusal(local_copies)
    assert other == message.replace("--data: ", f"{VARIABLE}: ", 1)
    for fragment in fragments:
        assert fragment in message
    # what needs no copy is not troubled by it
    assert available_splits("digits") == ("train", "test")


# ---------------------------------------------------------------- names opened


def test_a_name_without_a_repository_needs_a_copy(here: Path) -> None:
    message = refusal(open_data, "oxford_pets", copies={})
    assert message.startswith("oxford_pets: no local copy; give copies={'oxford_pets': PATH}")
    copy = write_folders(here / "pets", ("train", "test"), 37)
    assert open_data("oxford_pets", copies={"oxford_pets": copy}).num_classes == 37


def test_a_name_is_its_copy(
    here: Path, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npz(here / "copy.npz", images)
    other = write_npz(here / "other.npz", images[::-1])
    monkeypatch.setenv(VARIABLE, f"mnist={path}")
    for copies, where in ((None, path), ({"mnist": other}, other)):
        assert available_splits("mnist", copies) == ("train", "test")
        named = open_data("mnist", copies=copies)
        assert (named.name, named.num_classes, named.input_shape) == ("mnist", 10, (1, 8, 8))
        assert torch.equal(inputs_of(named), inputs_of(open_data(where)))
        test = open_data("mnist", split="test", copies=copies)  # standardised with train of the same copy
        assert torch.equal(inputs_of(test), inputs_of(open_data(where, split="test")))


def test_a_folder_of_that_name_comes_after_a_copy(here: Path, images: np.ndarray[Any, Any]) -> None:
    write_folders(here / "svhn", ("train", "val"), 3)
    assert available_splits("svhn") == (
        "train",
        "test",
        "val",
    )  # as it is at this path; val is the test split
    assert (open_data("svhn").name, open_data("svhn").num_classes) == ("svhn", 3)
    copy = write_npz(here / "copy.npz", images)
    assert open_data("svhn", copies={"svhn": copy}).num_classes == 10
    assert open_data(Path("svhn"), copies={"svhn": copy}).num_classes == 3  # a Path is a path


def test_test_of_imagenet_is_its_validation_split(here: Path) -> None:
    copies = {"imagenet": write_parquet(here / "in1k", ("train", "validation", "test"), 1000)}
    assert available_splits("imagenet", copies) == ("train", "test")
    test = open_data("imagenet", split="test", standardize="none", copies=copies)
    assert (test.name, test.num_classes) == ("imagenet", 1000)
    assert inputs_of(test).mul(255).round().unique().tolist() == [2]
    assert "no split 'validation'; it has train, test" in refusal(
        open_data, "imagenet", split="validation", copies=copies
    )
    os.rename("in1k", "imagenet")  # as it is at this path, but for the name of its test split
    assert inputs_of(open_data("imagenet", split="test", standardize="none")).mul(255).unique().tolist() == [
        2
    ]
    assert set(available_splits("imagenet")) == {"train", "test", "validation"}


def test_names_of_splits_in_copies() -> None:
    imagenet = NAMED["imagenet"].stored_splits
    assert imagenet(("train", "test", "val")) == {"train": "train", "test": "val"}
    assert imagenet(("test", "train")) == {"train": "train", "test": "test"}
    assert imagenet(("valid",)) == {"test": "valid"}
    assert NAMED["svhn"].stored_splits(("extra", "val", "train")) == {"train": "train"}


def test_a_copy_must_be_of_that_data_set(here: Path, images: np.ndarray[Any, Any]) -> None:
    copy = write_npz(here / "copy.npz", images)
    message = refusal(open_data, "cifar100", copies={"cifar100": copy})
    assert f"{copy}: 10 classes, but cifar100 has 100" in message
    folders = write_folders(here / "folders", ("val",), 10)
    assert "holds val, but a copy of mnist has train and test" in refusal(
        open_data, "mnist", copies={"mnist": folders}
    )


def test_classes_of_a_copy_that_has_only_numbers_go_by_their_published_names(
    here: Path, rng: np.random.Generator
) -> None:
    path = write_npz(here / "copy.npz", rng.integers(0, 256, (60, 8, 8), dtype=np.uint8))
    data = open_data("cifar10", copies={"cifar10": path})
    assert data.class_names is not None
    assert [data.class_names[label] for label in (0, 1, 2, 9)] == ["airplane", "automobile", "bird", "truck"]
    assert open_data(path).class_names is None, "what is no copy of it has no such names"


def test_misspelt_names_and_pairs_are_explained() -> None:
    assert "did you mean 'mnist'" in refusal(open_data, "mnits")
    message = refusal(open_data, "mnist=/data/mnist")
    assert "give /data/mnist itself" in message
    assert "COLLAPSELAB_DATA=mnist=/data/mnist" in message


def test_profile_takes_names(
    here: Path, images: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "model.py").write_text(
        "from torch import nn\ndef small(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, num_classes))\n"
    )
    arguments = ("profile", "model.py:small", "--format", "csv", "--dataset")
    monkeypatch.setenv(VARIABLE, f"fashion_mnist={write_npz(here / 'copy.npz', images)}")
    by_name, by_path = run(*arguments, "fashion_mnist"), run(*arguments, "copy.npz")
    assert by_name.code == 0
    assert by_name.out == by_path.out
    assert ",test," in by_name.out
    monkeypatch.setenv(VARIABLE, "fashion_mnist=nowhere")
    assert_refused(run(*arguments, "fashion_mnist"), VARIABLE, "nowhere: no such file")


# ---------------------------------------------------------------- rows


def test_rows_are_opened_with_their_own_statistics(here: Path, images: np.ndarray[Any, Any]) -> None:
    path = write_npz(here / "copy.npz", images)
    rows = np.array([0, 3, 4, 17, 29])
    train = open_data(path, rows=rows, standardize="pixel")
    assert train.labels.tolist() == LABELS[rows].tolist()
    pixels = images[rows].astype(np.float64) / 255
    mean, deviation = pixels.mean(axis=0), pixels.std(axis=0)
    torch.testing.assert_close(
        inputs_of(train)[:, 0].numpy(), ((pixels - mean) / deviation).astype(np.float32), rtol=1e-5, atol=1e-5
    )
    test = open_data(path, split="test", rows=rows, standardize="pixel", reference=train)
    assert test.labels.tolist() == LABELS[::-1][rows].tolist()
    expected = (images[30:][rows] / 255 - mean) / deviation
    torch.testing.assert_close(
        inputs_of(test)[:, 0].numpy(), expected.astype(np.float32), rtol=1e-5, atol=1e-5
    )
    whole = open_data(path, split="test", standardize="pixel")  # without reference: of the whole train split
    some = open_data(path, split="test", standardize="pixel", rows=rows)
    assert torch.equal(inputs_of(some), inputs_of(whole)[rows])


def test_rows_of_digits() -> None:
    whole, some = open_data("digits"), open_data("digits", rows=np.array([2, 999]))
    assert torch.equal(inputs_of(some), inputs_of(whole)[[2, 999]])
    assert some.labels.tolist() == whole.labels[[2, 999]].tolist()


@pytest.mark.parametrize(
    ("rows", "fragment"),
    [
        ([1000], "1000 to 1000, not ascending or outside 0 … 999"),
        ([-1, 3], "-1 to 3"),
        ([3, 2], "not ascending"),
        ([3, 3], "each row once"),
        ([], "shape (0,)"),
        ([[1, 2]], "shape (1, 2)"),
    ],
)
def test_rows_that_are_none(rows: list[Any], fragment: str) -> None:
    message = refusal(open_data, "digits", rows=np.array(rows, dtype=np.int64))
    assert "digits, train: rows" in message
    assert fragment in message


def test_rows_or_limit() -> None:
    assert "limit=3 and rows= are both" in refusal(open_data, "digits", rows=np.array([1]), limit=3)


# ---------------------------------------------------------------- real data, where there is some


@pytest.mark.skipif(not REAL.startswith("mnist="), reason=f"{VARIABLE} does not begin with a copy of mnist")
def test_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, REAL)
    train = open_data("mnist", limit=200, standardize="none")
    assert (train.name, train.num_classes, train.input_shape) == ("mnist", 10, NAMED["mnist"].image_shape)
    assert (train.class_counts > 5).all()
    means = torch.stack([inputs_of(train)[train.labels == label].mean() for label in range(10)])
    assert int(means.argmin()) == 1  # ones have the least ink
