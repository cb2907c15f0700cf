"""Data sets from elsewhere: files they name, images they pack, and folders of unusual names."""

from __future__ import annotations

import io
import json
import os
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from collapselab import InputError
from collapselab.data import images as decoding
from collapselab.data import open_data, open_data_set
from collapselab.features.files import NpzFile
from collapselab.records.plain_yaml import read_yaml

KINDS = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})


def png(grey: int, size: tuple[int, int] = (3, 3)) -> bytes:
    packed = io.BytesIO()
    Image.new("L", size, grey).save(packed, "png")
    return packed.getvalue()


def table(cells: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"image": cells, "label": [row % 2 for row in range(len(cells))]}, features=KINDS
    )


def write(folder: Path, cells: list[dict[str, Any]], form: str) -> Path:
    """Write cells as they are: `datasets` would store the bytes of files it can read."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "saved":
        plain = table(cells).cast_column("image", datasets.Image(decode=False))
        plain.save_to_disk(str(folder))
        info = json.loads((folder / "dataset_info.json").read_text())
        info["features"]["image"] = {"_type": "Image"}
        (folder / "dataset_info.json").write_text(json.dumps(info))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(
            table(cells).with_format("arrow")[:], folder / "train-00000-of-00001.parquet"
        )
    return folder


def first_inputs(path: Path) -> torch.Tensor:
    return next(iter(open_data(path, standardize="none").batches(8)))[0]


def named(path: object) -> dict[str, Any]:
    return {"bytes": None, "path": str(path)}


# ---------------------------------------------------------------- files that cells name


def test_a_file_inside_the_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(png(51))
    os.symlink(folder / "images" / "a.png", folder / "images" / "link.png")
    cells = [named("images/a.png"), named(folder / "images" / "a.png"), named("images/link.png")]
    inputs = first_inputs(write(folder, cells, "parquet"))
    assert torch.allclose(inputs, torch.tensor(51 / 255))


@pytest.mark.parametrize(
    "path",
    [
        "/dev/zero",
        "/etc/hostname",
        "../secret.png",
        "images/../../secret.png",
        "link.png",
        "pipe",
        "a\0b",
        "",
    ],
)
def test_any_other_file_is_refused_at_once(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(1))
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.mkfifo(folder / "pipe")
    write(folder, [{"bytes": png(2), "path": None}, named(path)], "parquet")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"parquet, row 1: |parquet, row 1, ") as caught:
        first_inputs(folder)
    assert time.perf_counter() - start < 5
    assert len(str(caught.value)) <= 300


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.png").write_bytes(b"0" * 101)
    with pytest.raises(InputError, match=r"a\.png: 0 MiB are too many"):
        first_inputs(write(tmp_path, [named("a.png"), named("a.png")], "parquet"))


@pytest.mark.parametrize("target", ["/dev/zero", "../outside.arrow"])
def test_tables_of_a_saved_data_set_are_inside_it(tmp_path: Path, target: str) -> None:
    folder = write(tmp_path / "set", [{"bytes": png(1), "path": None}] * 2, "saved")
    assert first_inputs(folder).shape == (2, 1, 3, 3)
    state = json.loads((folder / "state.json").read_text())
    os.rename(folder / state["_data_files"][0]["filename"], tmp_path / "outside.arrow")
    state["_data_files"][0]["filename"] = target
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="which is no file of this data set"):
        open_data_set(folder).class_names  # noqa: B018


def test_a_pipe_among_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    os.mkfifo(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(InputError, match="a pipe or a device, not a file"):
        first_inputs(tmp_path)


# ---------------------------------------------------------------- names of folders


@pytest.mark.parametrize("form", ["parquet", "saved"])
@pytest.mark.parametrize("name", ["g[1]", "a::b", "x*y?", "{a,b}", "zip:::c", "per%20cent", "sp ace", "ü"])
def test_names_of_folders_are_taken_literally(tmp_path: Path, name: str, form: str) -> None:
    (tmp_path / "g1").mkdir()  # what a pattern would match
    cells = [{"bytes": png(grey), "path": None} for grey in (51, 102)]
    folder = write(tmp_path / "made", cells, form).rename(tmp_path / name)
    assert torch.allclose(first_inputs(folder)[:, 0, 0, 0], torch.tensor([0.2, 0.4]))


def test_a_folder_that_holds_two_data_sets_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [{"bytes": png(1), "path": None}] * 2, "parquet")
    (folder / "data").mkdir()  # no folder of a split
    assert open_data_set(folder).splits == ("train",)
    (folder / "val" / "cat").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"holds Parquet files \(train\) and folders of images \(val\); move one"
    ):
        open_data_set(folder)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("sides", [(200, 60), (400, 400)])  # a warning of pillow, and an error
def test_an_image_of_too_many_pixels_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: tuple[int, int]
) -> None:
    path = tmp_path / "train" / "cat" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png(1, sides))
    assert first_inputs(tmp_path).shape == (1, 1, *sides[::-1])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"a\.png: more pixels than pillow takes"):
            first_inputs(tmp_path)


def test_warnings_of_decoders_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "train" / "cat" / "a.png"
    path.parent.mkdir(parents=True)
    image = Image.new("P", (2, 2))
    image.save(path, transparency=b"\x10\x20")  # pillow warns of it when it is converted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_inputs(tmp_path).shape == (1, 3, 2, 2)


# ---------------------------------------------------------------- keys that occur twice


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("labels.npy", "labels.npy"), ("labels", "labels.npy")])
def test_an_array_that_is_stored_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    with pytest.raises(InputError, match="contains 'labels' twice"):
        NpzFile(path)


def test_a_key_that_occurs_twice_is_refused() -> None:
    assert read_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}", "text") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    for text, place in {
        "a: 1\nb: 2\na: 3": "line 3, column 1",
        "x: {a: 1, a: 1}": "line 1, column 11",
        "- {a: 1, 'a': 2}": "line 1, column 10",
    }.items():
        with pytest.raises(InputError, match=rf"text, {place}: not YAML \(a occurs twice\)"):
            read_yaml(text, "text")


def test_labels_are_judged_by_their_header(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((4, 2)), labels=np.zeros((4, 10, 2)))
    with pytest.raises(InputError, match=r"labels: labels have shape \(4, 10, 2\)"):
        open_data_set(tmp_path / "a.npz").labels("train")
