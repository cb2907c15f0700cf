"""Data sets as people have them: labels of every form, limits, images, tables, arrays, archives, texts."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from collapselab.data import DataSet, open_data, open_data_set
from collapselab.data.encoding import encoded_splits
from collapselab.data.stratified import stratified_rows
from collapselab.data.transformed import Tokens, TransformedImages
from collapselab.errors import InputError, InputNote

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
LABELS = np.arange(12) % 3
NAMES = ("cat", "dog", "owl")


def png(image: np.ndarray[Any, Any]) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "png")
    return packed.getvalue()


def contents(data: DataSet, split: str = "train", **options: Any) -> tuple[Tensor, list[int]]:
    opened = data.open(split, standardize="none", **options)
    return torch.cat([inputs for inputs, _ in opened.batches(5)]), opened.labels.tolist()


def assert_images(data: DataSet, split: str = "train") -> None:
    inputs, labels = contents(data, split)
    assert torch.equal(inputs, torch.from_numpy(IMAGES)[:, None].float() / 255)
    assert labels == LABELS.tolist()


def refusal(path: Path, split: str = "train") -> str:
    with pytest.raises(InputError) as raised:
        open_data(path, split=split).batches(2)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# -------------------------------------------------------------------- labels

FORMS: dict[str, Any] = {
    "names": np.array(NAMES)[LABELS],
    "bytes": np.array(NAMES)[LABELS].astype("S"),
    "objects": np.array(NAMES, object)[LABELS],
    "one column": LABELS[:, None],
    "one column of names": np.array(NAMES)[LABELS][:, None],
    "one-hot": np.eye(3)[LABELS],
    "one-hot, whole": np.eye(3, dtype=np.int64)[LABELS],
    "one-hot, true and false": np.eye(3, dtype=bool)[LABELS],
    "lists": np.array([row.tolist() for row in np.eye(3, dtype=int)[LABELS]] + [None], object)[:-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form(form: str) -> None:
    coded, names = encoded_splits({"train": FORMS[form], "test": FORMS[form][:2]}, "x")
    assert coded["train"].tolist() == LABELS.tolist()
    assert coded["test"].tolist() == [0, 1]
    assert names == (NAMES if form in ("names", "bytes", "objects", "one column of names") else None)


def test_all_splits_share_their_names() -> None:
    coded, names = encoded_splits({"train": np.array(["b", "c"]), "test": np.array(["a", "c"])}, "x")
    assert names == ("a", "b", "c")
    assert coded["train"].tolist() == [1, 2]
    assert coded["test"].tolist() == [0, 2]


def test_names_that_are_numbers_keep_their_order() -> None:
    coded, names = encoded_splits({"train": np.array(["10", "2", "0"])}, "x")
    assert (coded["train"].tolist(), names) == ([2, 1, 0], ("0", "2", "10"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 1, 0], [0, 0, 1]], "1 rows do not mark one class; row 0 marks 2"),
        ([[0, 0, 0], [0, 0, 1]], "row 0 marks 0"),
        ([[0.2, 0.8], [1.0, 0.0]], "no one-hot rows"),
        ([[3, 1], [2, 0]], "no one-hot rows"),
    ],
)
def test_several_labels_are_refused(labels: list[list[float]], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((2, 4), np.float32), labels=np.array(labels))
    assert message in refusal(tmp_path / "a.npz")
    assert "one class per sample, not for several labels" in refusal(tmp_path / "a.npz")


def test_lists_of_labels_are_refused() -> None:
    lists = np.empty(2, object)
    lists[:] = [[0, 2], [1]]
    with pytest.raises(InputError, match="different numbers of labels"):
        encoded_splits({"train": lists}, "x")
    with pytest.raises(InputError, match="row 1 has no label"):
        encoded_splits({"train": np.array(["a", None], object)}, "x")


def test_names_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=np.array(NAMES)[LABELS])
    data = open_data_set(tmp_path / "a.npz")
    assert data.class_names == NAMES
    assert_images(data)


# -------------------------------------------------------------------- a limit


@pytest.mark.parametrize("limit", [3, 5, 6, 20, 39, 40, 100])
def test_a_limit_leaves_no_class_out(limit: int) -> None:
    labels = np.repeat([0, 1, 2], [30, 9, 1])
    rows = stratified_rows(labels, limit, 0, "x")
    counts = np.bincount(labels[rows], minlength=3)
    assert len(rows) == min(limit, 40)
    assert (np.diff(rows) > 0).all()
    assert (counts >= (np.minimum([30, 9, 1], 2) if limit >= 5 else 1)).all()
    # Beyond their least, classes are within one sample of their share.
    assert (np.abs(counts - np.minimum(limit, 40) * np.array([30, 9, 1]) / 40) <= 3).all()


@pytest.mark.parametrize("seed", range(20))
def test_shares_of_random_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(7, 200, p=rng.dirichlet(np.ones(7)))
    classes, counts = np.unique(labels, return_counts=True)
    for limit in range(len(classes), 200, 13):
        taken = np.unique(labels[stratified_rows(labels, limit, seed, "x")], return_counts=True)
        assert taken[0].tolist() == classes.tolist()
        assert taken[1].sum() == limit
        assert (taken[1] <= counts).all()


def test_fewer_samples_than_classes_are_refused() -> None:
    with pytest.raises(InputError, match="limit=2 leaves classes out: there are 3; give at least 6"):
        stratified_rows(np.arange(9) % 3, 2, 0, "x")


def test_thirty_digits_have_all_classes() -> None:
    assert open_data("digits", limit=30).class_counts.tolist() == [3] * 10


# -------------------------------------------------------------------- images


def test_images_of_several_sizes(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(30, 40), (50, 60), (70, 500), (90, 600)]):
        folder = tmp_path / NAMES[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (width, height), (number, 0, 0)).save(folder / f"{number}.png")
    with pytest.warns(InputNote, match="from 30 x 40 to 90 x 600: all are resized to 60 x 224"):
        assert open_data(tmp_path).input_shape == (3, 60, 224)
    assert open_data(tmp_path, image_size=(9, 9)).input_shape == (3, 9, 9)


def test_grey_digits_for_networks_of_three_channels() -> None:
    data = open_data_set("digits")
    flat, _ = contents(data, limit=30)
    inputs, _ = contents(data, limit=30, channels=3)
    assert torch.equal(inputs, flat.reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1))
    larger, _ = contents(data, limit=30, channels=3, image_size=(16, 16))
    assert torch.equal(larger[:, :, ::2, ::2], inputs)


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 1, 8, 8)])
def test_grey_arrays_for_networks_of_three_channels(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = (IMAGES / 255).astype(np.float32)
    np.savez(tmp_path / "a.npz", inputs=values.reshape(shape), labels=LABELS)
    inputs, _ = contents(open_data_set(tmp_path / "a.npz"), channels=3)
    assert torch.equal(inputs, torch.from_numpy(values)[:, None].expand(-1, 3, -1, -1))


def test_a_networks_own_transform(tmp_path: Path) -> None:
    def transform(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image.resize((4, 4))).copy()).float()[None]

    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    opened = open_data_set(tmp_path / "a.npz").open("train", transform=transform)
    assert isinstance(opened.inputs, TransformedImages)
    expected = torch.stack([transform(Image.fromarray(image)) for image in IMAGES])
    assert torch.equal(torch.cat([inputs for inputs, _ in opened.batches(5)]), expected)
    assert opened.input_shape == (1, 4, 4)
    digits = open_data_set("digits").open("train", transform=transform, limit=30)
    assert digits.input_shape == (1, 4, 4)


def test_a_transform_that_fails_names_the_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    opened = open_data_set(tmp_path / "a.npz").open("train", transform=lambda _: torch.zeros(3, 0)[4])
    with pytest.raises(
        InputError, match=r"images, row 0: the preprocessing of the network fails on it \(index 4"
    ):
        next(iter(opened.batches(5)))


# -------------------------------------------------------------------- tables, arrays, archives


def write_metadata(folder: Path) -> Path:
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number, image in enumerate(IMAGES):
            (folder / split / f"{number:02d}.png").write_bytes(png(image))
        names = [f"{number:02d}.png" for number in range(12)]
        frame = pd.DataFrame({"file_name": names, "label": np.array(NAMES)[LABELS]})
        frame.to_csv(folder / split / "metadata.csv", index=False)
    return folder


def write_parquet(folder: Path) -> Path:
    cells = [{"bytes": png(image), "path": None} for image in IMAGES]
    import datasets

    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict(
        {"image": cells, "label": np.array(NAMES)[LABELS].tolist()}, features=kinds
    )
    table.to_parquet(str(folder / "own [1].parquet"))
    return folder / "own [1].parquet"


def write_webdataset(folder: Path) -> Path:
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}-000.tar", "w") as archive:
            for number, image in enumerate(IMAGES):
                for suffix, content in (("png", png(image)), ("cls", str(LABELS[number]).encode())):
                    entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder


def write_npy(folder: Path) -> Path:
    for split in ("train", "test"):
        np.save(folder / f"X_{split}.npy", IMAGES)
        np.save(folder / f"y_{split}.npy", np.array(NAMES)[LABELS])
    return folder / "X_train.npy"


@pytest.mark.parametrize("write", [write_metadata, write_parquet, write_webdataset, write_npy])
def test_images_of_other_forms(write: Any, tmp_path: Path) -> None:
    data = open_data_set(write(tmp_path))
    for split in data.splits:
        assert_images(data, split)
    assert data.splits == (("train",) if write is write_parquet else ("train", "test"))
    assert data.class_names == (None if write is write_webdataset else NAMES)


def test_numbers_in_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(12) / 7, "b": np.arange(12), "class": np.array(NAMES)[LABELS]})
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame[:6].to_csv(tmp_path / "test.csv", index=False)
    data = open_data_set(tmp_path)
    inputs, labels = contents(data)
    assert torch.equal(inputs, torch.tensor(frame[["a", "b"]].to_numpy(), dtype=torch.float32))
    assert labels == LABELS.tolist()
    assert (data.splits, data.class_names) == (("train", "test"), NAMES)
    frame.loc[3, "a"] = None
    frame.to_csv(tmp_path / "train.csv", index=False)
    assert "NaN" in refusal(tmp_path)


def test_csv_without_labels_and_arrays_without_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,z\n1,2\n")
    assert "no column of labels among x (int64), z (int64)" in refusal(tmp_path / "a.csv")
    np.save(tmp_path / "features.npy", np.zeros((3, 4)))
    assert "an array without labels" in refusal(tmp_path / "features.npy")
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "inputs.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "b" / "labels.npy", np.array([0]))
    assert "inputs.npy: no array of numbers or text" in refusal(tmp_path / "b")


# -------------------------------------------------------------------- texts


def tokenize(texts: Any, length: int | None) -> dict[str, Tensor]:
    """Each letter is a token."""
    longest = max(map(len, texts)) if length is None else length
    rows = [[ord(letter) for letter in text[:longest].ljust(longest, "\0")] for text in texts]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def write_texts(folder: Path, form: str) -> Path:
    texts, labels = ["good film", "bad", "fine"], ["pos", "neg", "pos"]
    if form == "folders":
        for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
            (folder / label).mkdir(exist_ok=True)
            (folder / label / f"{number}.txt").write_text(text)
        return folder
    frame = pd.DataFrame({"text": texts, "label": labels})
    if form == "csv":
        frame.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    return folder / "t.jsonl"


@pytest.mark.parametrize("form", ["csv", "jsonl", "folders"])
def test_texts(form: str, tmp_path: Path) -> None:
    data = open_data_set(write_texts(tmp_path, form))
    assert data.class_names == ("neg", "pos")
    opened = data.open("train", tokenize=tokenize)
    assert isinstance(opened.inputs, Tokens)
    assert opened.input_shape == (9,)
    inputs, labels = next(iter(opened.batches(2)))
    tokens: Any = inputs
    words = {"".join(map(chr, row)).rstrip("\0") for row in tokens["input_ids"].tolist()}
    assert words == ({"bad", "good film"})
    assert sorted(labels.tolist()) == [0, 1]
    with pytest.raises(InputError, match="holds texts; give a network with a tokenizer"):
        data.open("train")
    # Test texts get as many tokens as training texts have.
    assert data.open("train", tokenize=tokenize, rows=np.array([0]), reference=opened).input_shape == (9,)
