"""Data sets that the `datasets` library saved: the same data as from Parquet, damage said in one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from collapselab.data import available_splits, open_data
from collapselab.errors import InputError


def _png(image: np.ndarray[Any, Any]) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "png")
    return packed.getvalue()


@pytest.fixture
def splits(rng: np.random.Generator) -> datasets.DatasetDict:
    kinds = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])}
    )
    parts = {}
    for name, number in (("train", 12), ("test", 7), ("extra", 3)):
        images = [{"bytes": _png(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))} for _ in range(number)]
        labels = [at % 3 for at in range(number)]
        parts[name] = datasets.Dataset.from_dict({"img": images, "label": labels}, features=kinds)
    return datasets.DatasetDict(parts)


def test_a_saved_data_set_is_what_its_parquet_files_are(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    for name, part in splits.items():
        part.to_parquet(str(tmp_path / "parquet" / f"{name}.parquet"))
    assert available_splits(tmp_path / "saved") == ("train", "test", "extra")
    for split in ("train", "test"):
        saved, parquet = (open_data(tmp_path / form, split=split) for form in ("saved", "parquet"))
        assert saved.class_names == ("cat", "dog", "emu")
        for one, other in zip(saved.batches(5), parquet.batches(5), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_a_split_that_was_saved_alone_is_what_it_says_or_train(
    tmp_path: Path, splits: datasets.DatasetDict
) -> None:
    splits["train"].save_to_disk(str(tmp_path / "alone"))
    assert available_splits(tmp_path / "alone") == ("train",)
    assert len(open_data(tmp_path / "alone")) == 12


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"])
def test_a_damaged_one_is_said_in_one_line(tmp_path: Path, splits: datasets.DatasetDict, name: str) -> None:
    splits.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / name).write_bytes(b"{")
    with pytest.raises(InputError, match="saved by datasets, but cannot be read") as raised:
        open_data(tmp_path / "saved")
    assert "\n" not in str(raised.value)
