"""Data sets of the hub: the same data as from a folder, and one line when it cannot be reached."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from datasets import config
from PIL import Image
from torch import Tensor

from cli_runner import assert_refused, run
from collapselab.data import LabelledData, available_splits, open_data
from collapselab.data import pixels as pixels_module
from collapselab.data.hub import HubStore
from collapselab.errors import InputError

NAMES = [f"class {number}" for number in range(10)]
Asked = list[tuple[str, str | None]]
Serve = Callable[[datasets.DatasetDict], Asked]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No copies, no earlier downloads, no network: only this machine is asked, and it refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLLAPSELAB_DATA", raising=False)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.fixture(autouse=True)
def _new_process() -> None:
    from collapselab.data import hub

    hub._loaded.cache_clear()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Let the hub answer with a data set, and write down what it was asked for."""

    def served(answer: datasets.DatasetDict) -> Asked:
        asked: Asked = []

        def load_dataset(path: str, name: str | None = None) -> datasets.DatasetDict:
            asked.append((path, name))
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return served


def png(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def cells(images: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    return [{"bytes": png(image), "path": None} for image in images]


def table(columns: dict[str, Any], **kinds: Any) -> datasets.Dataset:
    features = {"img": datasets.Image(), "id": datasets.Value("int64")} | kinds
    columns = {"id": list(range(len(columns["img"])))} | columns
    return datasets.Dataset.from_dict(
        {name: columns[name] for name in features}, features=datasets.Features(features)
    )


def labelled(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> datasets.Dataset:
    columns = {"img": cells(images), "label": labels.tolist()}
    return table(columns, label=datasets.ClassLabel(names=NAMES))


@pytest.fixture
def splits(rng: np.random.Generator) -> datasets.DatasetDict:
    images = rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 40)
    parts = {"extra": slice(0, 3), "test": slice(3, 13), "train": slice(13, 40)}
    return datasets.DatasetDict({name: labelled(images[rows], labels[rows]) for name, rows in parts.items()})


def write_folder(folder: Path, splits: datasets.DatasetDict) -> Path:
    folder.mkdir()
    for name in ("train", "test"):
        splits[name].to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return folder


def inputs_of(data: LabelledData) -> Tensor:
    return torch.cat([inputs for inputs, _ in data.batches(4)])


def assert_same(left: LabelledData, right: LabelledData) -> None:
    assert (left.num_classes, left.class_names, left.input_shape) == (
        right.num_classes,
        right.class_names,
        right.input_shape,
    )
    assert torch.equal(left.labels, right.labels)
    assert torch.equal(inputs_of(left), inputs_of(right))


def refusal(source: str, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        inputs_of(open_data(source, **options))
    message = str(raised.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- what the hub gives


@pytest.mark.parametrize("memory", [2**31, 0])
def test_the_hub_gives_what_a_folder_gives(
    here: Path, splits: datasets.DatasetDict, serve: Serve, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    monkeypatch.setattr(pixels_module, "MEMORY_BYTES", memory)
    folder = write_folder(here / "folder", splits)
    asked = serve(splits)
    assert available_splits("cifar10") == ("train", "test")
    assert asked == []  # they are known
    train, local = open_data("cifar10"), open_data(folder)
    assert_same(train, local)
    assert train.name == "cifar10"
    assert_same(
        open_data("cifar10", split="test", reference=train),
        open_data(folder, split="test", reference=local),
    )
    rows = np.array([1, 2, 9])
    assert_same(
        open_data("cifar10", split="test", rows=rows, standardize="pixel"),
        open_data(folder, split="test", rows=rows, standardize="pixel"),
    )
    assert asked == [("uoft-cs/cifar10", None)]  # once
    stored = splits["train"].cast_column("img", datasets.Image(decode=True))[3]["img"]
    plain = inputs_of(open_data("cifar10", standardize="none"))[3]
    assert np.array_equal((plain * 255).round().permute(1, 2, 0).numpy().astype(np.uint8), np.asarray(stored))


def test_ids_name_what_they_ask_for(splits: datasets.DatasetDict, serve: Serve) -> None:
    asked = serve(splits)
    assert available_splits("someone/some-set") == ("train", "test", "extra")
    extra = open_data("someone/some-set:small", split="extra")
    assert (extra.name, len(extra)) == ("someone/some-set:small", 3)
    assert "no split 'val'; it has train, test, extra" in refusal("someone/some-set", split="val")
    assert len(open_data("svhn")) == 27
    assert asked == [("someone/some-set", None), ("someone/some-set", "small"), ("ufldl-stanford/svhn", "cropped_digits")]  # fmt: skip


def test_paths_come_before_ids(here: Path, splits: datasets.DatasetDict, serve: Serve) -> None:
    asked = serve(splits)
    (here / "sets").mkdir()
    write_folder(here / "sets" / "cifar10", splits)
    assert open_data("sets/cifar10").name == "cifar10"
    assert "did you mean 'cifar10'" in refusal("sets/cifar1O")
    assert asked == []


def test_test_of_imagenet_is_its_validation_split(rng: np.random.Generator, serve: Serve) -> None:
    names = [f"n{number:04}" for number in range(1000)]
    parts = {}
    for split, labels in (("train", [0, 999]), ("validation", [7, 8, 9]), ("test", [-1, -1])):
        images = rng.integers(0, 256, (len(labels), 3, 3), dtype=np.uint8)
        parts[split] = table({"img": cells(images), "label": labels}, label=datasets.ClassLabel(names=names))
    serve(datasets.DatasetDict(parts))
    assert open_data("imagenet", split="test").labels.tolist() == [7, 8, 9]
    assert "negative" in refusal("ILSVRC/imagenet-1k", split="test")


def test_classes_of_cifar100_are_the_fine_ones(rng: np.random.Generator, serve: Serve) -> None:
    images = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    data = table(
        {"img": cells(images), "coarse_label": [1, 2, 3], "fine_label": [99, 0, 50]},
        coarse_label=datasets.ClassLabel(num_classes=20),
        fine_label=datasets.ClassLabel(num_classes=100),
    )
    serve(datasets.DatasetDict({"train": data}))
    opened = open_data("cifar100")
    assert (opened.labels.tolist(), opened.num_classes) == ([99, 0, 50], 100)


def test_plain_numbers_share_one_label_space(rng: np.random.Generator, serve: Serve) -> None:
    images = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    plain = datasets.Value("int64")
    serve(
        datasets.DatasetDict(
            {
                "train": table({"img": cells(images), "label": [5, 2, 5]}, label=plain),
                "test": table({"img": cells(images), "label": [9, 2, 5]}, label=plain).select([2, 0]),
            }
        )
    )
    test = open_data("a/b", split="test")
    assert (test.labels.tolist(), test.class_names) == ([1, 2], ("2", "5", "9"))
    assert torch.equal(inputs_of(test), inputs_of(open_data("a/b"))[[2, 0]])


def test_images_kept_as_files_of_the_cache(
    here: Path, rng: np.random.Generator, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = rng.integers(0, 256, (2, 4, 4), dtype=np.uint8)
    cache = here / "datasets-cache" / "downloads"
    cache.mkdir(parents=True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache.parent))
    paths = [cache / "0.png", cache / "1.png"]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(png(image))

    def serve_files(*files: object) -> None:
        held = [{"bytes": None, "path": str(path)} for path in files]
        kinds = {"label": datasets.Value("int8")}
        serve(datasets.DatasetDict({"train": table({"img": held, "label": [0, 1]}, **kinds)}))

    serve_files(*paths)
    inputs = inputs_of(open_data("a/b", standardize="none"))
    assert torch.equal(inputs[:, 0], torch.from_numpy(images) / 255)
    paths[1].unlink()
    assert "a/b (train), row 1" in refusal("a/b")
    (here / "secret.png").write_bytes(png(images[0]))
    for outside in (here / "secret.png", "/dev/zero", "../../secret.png"):
        serve_files(paths[0], outside)
        assert f"row 1: '{outside}' is outside" in refusal("a/b")


def test_what_is_wrong_with_the_data_is_said(rng: np.random.Generator, serve: Serve) -> None:
    images = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    number = datasets.Value("int64")
    for held, expected in (
        ([*cells(images[:2]), {"bytes": b"none", "path": None}], "a/b (train), row 2: not an image"),
        ([*cells(images[:2]), None], "a/b (train), row 2: no image"),
    ):
        serve(datasets.DatasetDict({"train": table({"img": held, "label": [0, 1, 1]}, label=number)}))
        assert expected in refusal("a/b")
    serve(datasets.DatasetDict({"train": table({"img": cells(images)})}))
    assert "a/b: no column of labels among img (Image), id (int64)" in refusal("a/b")
    serve(datasets.DatasetDict({"train": table({"img": cells(images), "label": [0, 1, 1]}, label=number)}))
    assert "uoft-cs/cifar10: 2 classes, but cifar10 has 10" in refusal("cifar10")


# ---------------------------------------------------------------- when it gives nothing


def test_no_network_is_one_line_and_soon(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    for name in ("mnist", "imagenet"):
        message = refusal(name)
        assert message.startswith(f"{name}: no local copy, and the hub cannot be reached (")
        assert "refused" in message
        assert f"COLLAPSELAB_DATA={name}=PATH in the environment" in message
        assert f"copies={{'{name}': PATH}}" in message
        assert "connect to the network" in message
    message = refusal("someone/some-set:small")
    assert message.startswith(
        "someone/some-set:small: no such file or folder, and the hub cannot be reached ("
    )
    assert time.monotonic() - start < 10  # datasets alone would try for more than 20 seconds each
    assert capfd.readouterr() == ("", "")
    assert config.HF_HUB_OFFLINE is False


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: pytest.fail("the network was asked"))
    assert "cannot be reached (offline mode is on)" in refusal("mnist")
    assert config.HF_HUB_OFFLINE is True


def test_profile_says_it_in_one_line() -> None:
    assert_refused(
        run("profile", "mlp", "--dataset", "mnist"),
        "mnist: no local copy",
        "give --data mnist=PATH or COLLAPSELAB_DATA=mnist=PATH in the environment",
    )


def test_an_earlier_download_serves_without_network(
    here: Path, splits: datasets.DatasetDict, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(here / "folder", splits)
    files = {name: str(folder / f"{name}-00000-of-00001.parquet") for name in ("train", "test")}
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(here / "made"))
    # What a download leaves: the same files under the repository's name.
    (made,) = (here / "made" / "parquet").glob("*/*/*/dataset_info.json")
    kept = here / "cache" / "uoft-cs___cifar10" / "default-x" / made.parents[1].name / made.parent.name
    shutil.copytree(made.parent, kept)
    for path in kept.glob("parquet-*.arrow"):
        path.rename(path.with_name(path.name.replace("parquet", "cifar10", 1)))
    info = made.read_text().replace('"parquet"', '"cifar10"')
    (kept / "dataset_info.json").write_text(
        info.replace('"config_name": "default"', '"config_name": "default-x"')
    )
    capfd.readouterr()
    assert_same(open_data("cifar10"), open_data(folder))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A hub on this machine that answers, but gives nothing; the dictionary says why, in its own words."""
    why = {"code": "", "message": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            root = self.path == "/"
            self.send_response(200 if root else 401)
            if not root:
                self.send_header("X-Error-Code", why["code"])
                self.send_header("X-Error-Message", why["message"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(config, "HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield why
    server.shutdown()
    thread.join()
    server.server_close()


def test_gated_and_unknown_repositories(
    hub_server: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    hub_server.update(code="GatedRepo", message="Access to it is restricted.")
    message = refusal("imagenet")
    assert message.startswith("imagenet: no local copy, and the hub refuses ILSVRC/imagenet-1k (")
    assert "gated" in message
    assert "COLLAPSELAB_DATA=imagenet=PATH" in message
    assert "log in" in message
    hub_server.update(code="RepoNotFound", message="Repository not found")
    message = refusal("someone/misspelt")
    assert message.startswith("someone/misspelt: no such file or folder, and the hub refuses")
    assert "check the path or the name" in message
    assert capfd.readouterr() == ("", "")


def test_other_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr("collapselab.data.hub._unreachable", lambda: None)
    message = refusal("someone/some-set")
    assert (
        "reading someone/some-set from the hub failed (ValueError: Config name is missing. Please" in message
    )


def test_libraries_are_quiet_and_then_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def load_dataset(*_: object) -> datasets.DatasetDict:
        seen.append((datasets.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()))
        return datasets.DatasetDict()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    before = datasets.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()
    assert HubStore("a/b").splits == ()
    assert seen == [(datasets.logging.CRITICAL, True)]
    assert (datasets.logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()) == before
    with pytest.raises(InputError, match="no split 'train'"):
        HubStore("a/b").labels("train")
