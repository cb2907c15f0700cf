"""Data sets as torchvision downloads them."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_ordinary import IMAGES, LABELS, NAMES, assert_images, contents, refusal

from collapselab.data import open_data, open_data_set


def write_cifar10(folder: Path) -> np.ndarray[Any, Any]:
    images = np.random.default_rng(1).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    folder.mkdir(parents=True)
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        batch = {
            b"data": images[part].reshape(2, -1),
            b"labels": LABELS[part].tolist(),
            b"filenames": [b"a", b"b"],
        }
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch, 2))
    (folder / "test_batch").write_bytes(
        pickle.dumps({b"data": images[10:].reshape(2, -1), b"labels": [2, 0]}, 2)
    )
    (folder / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [name.encode() for name in NAMES]}, 2)
    )
    return images


def test_cifar10_as_torchvision_downloads_it(tmp_path: Path) -> None:
    images = write_cifar10(tmp_path / "cifar-10-batches-py")
    for path in (tmp_path, tmp_path / "cifar-10-batches-py"):
        data = open_data_set(path)
        assert (data.splits, data.class_names) == (("train", "test"), NAMES)
        inputs, labels = contents(data)
        assert torch.equal(inputs, torch.from_numpy(images[:10]).float() / 255)
        assert labels == LABELS[:10].tolist()
        assert contents(data, "test")[1] == [2, 0]


def test_a_hostile_batch_of_cifar_is_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    mark = tmp_path / "mark"
    hostile = f"(S'touch {mark}'\nios\nsystem\n."
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(hostile.encode())
    assert "data_batch_3: refused, since it is no pickle of plain arrays (it names os.system)" in refusal(
        tmp_path
    )
    assert not mark.exists()


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        batch = {
            b"data": np.zeros((4, 3072), np.uint8),
            b"fine_labels": [0, 1, 1, 0],
            b"coarse_labels": [0] * 4,
        }
        (tmp_path / split).write_bytes(pickle.dumps(batch, 2))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"apple", b"bee"]}, 2))
    assert open_data(tmp_path, split="test").labels.tolist() == [0, 1, 1, 0]
    assert open_data_set(tmp_path).class_names == ("apple", "bee")


def write_idx(folder: Path, *, packed: bool) -> None:
    folder.mkdir(parents=True)
    for start in ("train", "t10k"):
        files = {
            f"{start}-images-idx3-ubyte": bytes((0, 0, 8, 3)) + np.array(IMAGES.shape, ">u4").tobytes() + IMAGES.tobytes(),
            f"{start}-labels-idx1-ubyte": bytes((0, 0, 8, 1)) + np.array([12], ">u4").tobytes() + LABELS.astype(np.uint8).tobytes(),
        }  # fmt: skip
        for name, content in files.items():
            name, content = (f"{name}.gz", gzip.compress(content)) if packed else (name, content)
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_as_torchvision_downloads_it(packed: bool, tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", packed=packed)
    for path in (tmp_path, tmp_path / "MNIST", tmp_path / "MNIST" / "raw"):
        for split in ("train", "test"):
            assert_images(open_data_set(path), split)


def test_damaged_and_several_downloads(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", packed=False)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    assert "train-images-idx3-ubyte: damaged or cut off (its header does not fit" in refusal(tmp_path)
    images.write_bytes(whole)
    write_idx(tmp_path / "KMNIST" / "raw", packed=False)
    assert "holds several data sets" in refusal(tmp_path)
