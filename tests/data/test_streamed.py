"""Images that do not fit in memory: decoded by worker processes, with the values of those that fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from cli_runner import run
from collapselab import InputError
from collapselab.data import DataSplits, Split, open_data_set
from collapselab.data import labelled as labelled_module
from collapselab.data import memory as memory_module
from collapselab.data import pixels as pixels_module
from collapselab.data.decoding import default_workers
from collapselab.data.memory import fingerprint, load_splits
from collapselab.data.recipe import DataSpec
from collapselab.data.streamed import StreamedSplit
from collapselab.errors import InputNote
from collapselab.models import open_model

COUNTS = {"train": 30, "test": 12}


def _arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {split: rng.integers(0, 256, (n, 7, 6, 3), dtype=np.uint8) for split, n in COUNTS.items()}


def _folder(root: Path) -> Path:
    for split, images in _arrays().items():
        for number, image in enumerate(images):
            path = root / split / "abc"[number * 3 // len(images)] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def _npz(root: Path) -> Path:
    arrays = _arrays()
    labels = {split: np.arange(n) * 3 // n for split, n in COUNTS.items()}
    np.savez(
        root / "images.npz",
        inputs=arrays["train"],
        labels=labels["train"],
        test_inputs=arrays["test"],
        test_labels=labels["test"],
    )
    return root / "images.npz"


def _tables(root: Path) -> datasets.DatasetDict:
    folder = _folder(root / "files")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))})
    tables = {}
    for split in COUNTS:
        paths = sorted((folder / split).rglob("*.png"))
        cells = [{"bytes": path.read_bytes(), "path": None} for path in paths]
        labels = ["abc".index(path.parent.name) for path in paths]
        tables[split] = datasets.Dataset.from_dict({"image": cells, "label": labels}, features)
    return datasets.DatasetDict(tables)


def _saved(root: Path) -> Path:
    _tables(root).save_to_disk(root / "saved")
    return root / "saved"


def _parquet(root: Path) -> Path:
    (root / "parquet").mkdir()
    for split, table in _tables(root).items():
        for shard in range(2):
            table.shard(2, shard).to_parquet(root / "parquet" / f"{split}-{shard:05}-of-00002.parquet")
    return root / "parquet"


FORMS = {"folder": _folder, "npz": _npz, "saved": _saved, "parquet": _parquet}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _folder(tmp_path / "images")


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def _load(path: Path, workers: int = 0, **values: Any) -> DataSplits:
    spec = DataSpec.model_validate({"name": str(path)} | values)
    return load_splits(spec, 0, workers=workers)


def _streamed(path: Path, workers: int = 0, **values: Any) -> tuple[StreamedSplit, StreamedSplit]:
    data = _load(path, workers, stream=True, **values)
    assert isinstance(data.train, StreamedSplit)
    assert isinstance(data.test, StreamedSplit)
    return data.train, data.test


@pytest.mark.parametrize("form", FORMS)
def test_streamed_images_are_those_in_memory(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: means and deviations are of sums of whole numbers, here of several parts."""
    path = FORMS[form](tmp_path)
    monkeypatch.setattr(pixels_module, "_CHUNK_VALUES", 4 * 7 * 6 * 3)
    whole = _load(path)
    assert isinstance(whole.train, Split)
    streamed = _load(path, 1, stream=True)
    assert streamed.input_shape == whole.input_shape == (3, 7, 6)
    for name in COUNTS:
        expected, split = getattr(whole, name), getattr(streamed, name)
        assert torch.equal(split.labels, expected.labels)
        batches = list(split.batches(7))
        assert [len(labels) for _, labels in batches] == [len(labels) for _, labels in expected.batches(7)]
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), expected.inputs)
        assert torch.equal(split.first(3), expected.inputs[:3])
        assert torch.equal(next(iter(split.every(5).batches(100)))[0], expected.inputs[::5])
    assert streamed.standardization is not None
    assert whole.standardization is not None
    assert all(map(torch.equal, streamed.standardization, whole.standardization))


@pytest.mark.parametrize("changes", [{"channels": 1, "image_size": [5, 5]}, {"standardize": "none"}])
def test_the_number_of_workers_changes_nothing(changes: dict[str, Any], folder: Path) -> None:
    whole = _load(folder, **changes)
    for workers in (0, 1, 3):
        train, _ = _streamed(folder, workers, **changes)
        assert torch.equal(torch.cat([inputs for inputs, _ in train.batches(4)]), whole.train.inputs)


def test_any_order_and_every_share_can_be_read(folder: Path) -> None:
    train, _ = _streamed(folder)
    rows = np.random.default_rng(0).permutation(30)
    assert torch.equal(train.pixels.some(rows), train.pixels.some(np.arange(30))[rows])
    shares = [train.batches(4, rank, 3) for rank in range(3)]
    assert [list(share.numbers) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    whole = list(train.batches(4))
    for share in shares:
        assert share.is_share
        for number, (inputs, labels) in zip(share.numbers, share, strict=True):
            assert torch.equal(inputs, whole[number][0])
            assert torch.equal(labels, whole[number][1])
        assert torch.equal(share.first_of_all()[0], whole[0][0])


def test_images_are_streamed_beyond_the_limit_or_as_the_recipe_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 30 * 7 * 6 * 3 * 4
    monkeypatch.setattr(memory_module, "MEMORY_BYTES", size)
    assert isinstance(_load(folder).train, Split)
    monkeypatch.setattr(memory_module, "MEMORY_BYTES", size - 1)
    data = _load(folder)
    assert isinstance(data.train, StreamedSplit)
    assert isinstance(data.test, StreamedSplit)  # though it would fit: it is standardised with the other
    with pytest.raises(InputError, match=r"30 samples of \(3, 7, 6\).*remove data.stream"):
        _load(folder, stream=False)
    with pytest.raises(InputError, match="only images can be streamed"):
        load_splits(DataSpec(stream=True), 0)
    with pytest.raises(InputError, match="needs all samples in memory; use fewer samples"):
        _ = data.train.inputs


def test_the_fingerprint_tells_streamed_samples_apart(folder: Path) -> None:
    def found(**values: Any) -> str:
        return fingerprint(_load(folder, stream=True, **values))

    first = found()
    assert found() == first
    assert found(train={"method": "first", "count": 29}) != first
    assert found(groups=[[0], [1, 2]]) != first
    path = folder / "train" / "b" / "15.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    assert found() != first


def test_one_image_of_many_that_is_another_one_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size on disk tells, though its pixels are not read."""
    monkeypatch.setattr(memory_module, "HASHED_IMAGES", 2)
    first = fingerprint(_load(folder, stream=True))
    Image.fromarray(np.zeros((7, 6, 3), np.uint8)).save(folder / "train" / "b" / "15.png")
    assert fingerprint(_load(folder, stream=True)) != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:70]), r"15\.png: not an image, damaged"),
        (lambda path: path.unlink(), r"15\.png: cannot be read"),
    ],
)
def test_a_bad_image_is_named_in_one_line(
    damage: Callable[[Path], object], message: str, workers: int, folder: Path
) -> None:
    data = _load(folder, workers, stream=True)
    damage(folder / "train" / "b" / "15.png")
    with pytest.raises(InputError, match=message) as caught:
        list(data.train.batches(4))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_images_of_several_sizes_are_resized_as_in_memory(folder: Path) -> None:
    for number in (3, 15, 21):
        path = next((folder / "train").rglob(f"{number:02}.png"))
        with Image.open(path) as image:
            larger = image.resize((9, 14))
        larger.save(path)
    with pytest.warns(InputNote, match="images have sizes from 7 x 6 to 14 x 9"):
        streamed, whole = (_load(folder, 2, stream=stream).train for stream in (True, False))
    assert isinstance(whole, Split)
    assert torch.equal(torch.cat([inputs for inputs, _ in streamed.batches(4)]), whole.inputs)


def test_an_abandoned_pass_ends_its_processes(folder: Path) -> None:
    train, _ = _streamed(folder, 2)
    before = set(psutil.Process().children())
    batches = iter(train.batches(2))
    next(batches)
    started = set(psutil.Process().children()) - before
    assert len(started) == 2
    del batches
    assert not psutil.wait_procs(started, timeout=10)[1]


def test_a_worker_that_is_killed_is_one_line(folder: Path) -> None:
    train, _ = _streamed(folder, 1)
    _ = train.pixels.standardization  # in a pass of its own
    before = set(psutil.Process().children())
    batches = iter(train.batches(2))
    next(batches)
    (worker,) = set(psutil.Process().children()) - before

    def read_on() -> None:
        worker.kill()
        list(batches)

    with pytest.raises(
        InputError, match=r"a process that decodes images has ended .*use fewer with workers="
    ):
        read_on()


def test_processors_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    assert default_workers() == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert default_workers() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1), raising=False)
    assert default_workers() == 1


# ---------------------------------------------------------------- what profile reads


def _mean_color(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32).mean(axis=0).copy())


@pytest.mark.parametrize("transform", [None, _mean_color], ids=["pixels", "own transform"])
@pytest.mark.parametrize("form", FORMS)
def test_labelled_data_are_the_same_for_any_number_of_workers(
    form: str, transform: Any, tmp_path: Path
) -> None:
    data = open_data_set(FORMS[form](tmp_path))
    kept = data.open("train", transform=transform)
    assert kept.streamed() is kept  # it fits in memory
    expected = list(kept.batches(7))
    for workers in (0, 1, 3):
        streamed = kept.streamed(workers)
        for _ in range(2):
            found = list(streamed.batches(7))
            assert all(torch.equal(a, b) for a, b in zip(_flat(found), _flat(expected), strict=True))
    part = list(kept.streamed(2).batches(7, rank=1, world=2))
    assert all(torch.equal(a, b) for a, b in zip(_flat(part), _flat(expected[2:]), strict=True))


def _flat(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    return [tensor for batch in batches for tensor in batch]


def test_images_that_do_not_fit_are_streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data_set(folder)
    for transform, size in ((None, 7 * 6 * 3), (_mean_color, 6 * 3 * 4)):
        kept = data.open("train", transform=transform)
        monkeypatch.setattr(labelled_module, "MEMORY_BYTES", COUNTS["train"] * size)
        assert kept.streamed() is kept
        monkeypatch.setattr(labelled_module, "MEMORY_BYTES", COUNTS["train"] * size - 1)
        assert kept.streamed() is not kept


def test_an_image_of_another_shape_is_named_by_whichever_process_finds_it(folder: Path) -> None:
    Image.new("RGB", (9, 7)).save(folder / "train" / "c" / "29.png")
    kept = open_data_set(folder).open("train", transform=_mean_color)
    for data in (kept, kept.streamed(0), kept.streamed(2)):
        with pytest.raises(
            InputError, match=r"29.png: the preprocessing of the network makes shape \(9, 3\) of it"
        ):
            list(data.batches(7))


def test_a_profile_is_the_same_for_any_number_of_workers(folder: Path) -> None:
    options = ["profile", "timm/resnet10t", "--checkpoint", _untrained(folder.parent), "--dataset", folder]
    options += ["--image-size", "32", "--layers", "last", "--format", "json"]
    kept, streamed = run(*options), run(*options, "--workers", "2")
    assert kept.code == streamed.code == 0, kept.err + streamed.err
    assert kept.out == streamed.out


def _untrained(folder: Path) -> Path:
    torch.save(
        open_model("timm/resnet10t", num_classes=3, input_shape=(3, 32, 32)).state_dict(), folder / "net.pt"
    )
    return folder / "net.pt"
