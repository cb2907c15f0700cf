"""What can be ranked from disk: feature files and folders, runs, checkpoints, networks by name; and the cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import collapselab
from collapselab import InputError
from collapselab.data import load_digits
from collapselab.models import open_model
from collapselab.probes import weight_layers
from collapselab.ranking.cache import FeatureCache, default_folder
from collapselab.ranking.candidates import Network, StoredFeatures, open_candidate
from collapselab.records.recipe import Recipe
from collapselab.training import RunFolder, run_recipe
from collapselab.training.building import trained_model
from collapselab.training.evaluation import layer_features
from collapselab.transfer.scores import logme
from tiny_runs import tiny

OPTIONS: dict[str, Any] = {"scores": ["logme"], "stability": False, "limit": 300}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a"
    run_recipe(tiny(), RunFolder(path))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def save(path: Path, seed: int = 0, **changes: Any) -> Path:
    rng = np.random.default_rng(seed)
    arrays = {"features": rng.normal(size=(60, 5)).astype(np.float32), "labels": np.arange(60) % 3} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


# ---------------------------------------------------------------- files and folders


def test_feature_files_of_both_kinds(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.npz"), save(tmp_path / "b.safetensors", seed=1)]
    found = collapselab.rank(paths, **OPTIONS)
    values = {row.model: row.scores["logme"] for row in found.rows}
    arrays = np.load(paths[0])
    assert values[str(paths[0])] == logme(arrays["features"], arrays["labels"])
    assert set(values) == set(map(str, paths))


def test_a_folder_is_shards_or_train_and_test(tmp_path: Path) -> None:
    save(tmp_path / "shards" / "0.npz")
    save(tmp_path / "shards" / "1.npz", seed=1)
    save(tmp_path / "both" / "train.npz")
    save(tmp_path / "both" / "test.safetensors", seed=1)
    save(tmp_path / "deep" / "train" / "0.npz")
    shards, both, deep = (open_candidate(tmp_path / name) for name in ("shards", "both", "deep"))
    assert isinstance(shards, StoredFeatures)
    assert isinstance(both, StoredFeatures)
    assert isinstance(deep, StoredFeatures)
    assert len(shards.train.labels) == 120
    assert shards.test is None
    assert both.test is not None
    assert deep.test is None
    found = collapselab.rank({"one": tmp_path / "both"}, probe=True, **OPTIONS)
    assert found.rows[0].num_test == 60
    save(tmp_path / "both" / "train.safetensors")
    with pytest.raises(InputError, match=r"both: holds train\.npz and train\.safetensors; keep one"):
        open_candidate(tmp_path / "both")


def test_a_run_is_its_last_checkpoint(run: Path) -> None:
    folder = RunFolder(run)
    steps = folder.stored_steps("checkpoints")
    last = folder.weights_path(steps[-1])
    found = collapselab.rank([run, last, folder.weights_path(steps[0])], "digits", **OPTIONS)
    values = {row.model: row.scores["logme"] for row in found.rows}
    assert values[str(run)] == values[str(last)]
    assert values[str(run)] != values[str(folder.weights_path(steps[0]))]


def test_features_of_a_run_are_those_of_its_network(run: Path) -> None:
    found = collapselab.rank([run], "digits", scores=["logme"], stability=False)
    digits, model = load_digits(), network_of(run)
    read = layer_features(model, digits.train, list(weight_layers(model))[-1], 128)
    assert found.rows[0].scores["logme"] == logme(read, digits.train.labels)


def network_of(run: Path) -> Any:
    record = RunFolder(run).read_run()
    assert record is not None
    assert isinstance(record.recipe, Recipe)
    return trained_model(record.recipe, RunFolder(run))


def test_networks_by_name_with_and_without_weights(tmp_path: Path) -> None:
    model = open_model("mlp", num_classes=4, input_shape=(64,), seed=5)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    found = collapselab.rank([f"mlp={tmp_path / 'w.safetensors'}", "mlp"], "digits", **OPTIONS)
    assert [text for text in found.warnings if "untrained" in text] == [
        "mlp: untrained; give pretrained=, or mlp=FILE, for trained weights"
    ]
    assert set(found.order) == {f"mlp={tmp_path / 'w.safetensors'}", "mlp, untrained (seed 0)"}
    assert found.rows[0].scores != found.rows[1].scores


def test_a_validation_split_that_is_tested_on_is_said(tmp_path: Path) -> None:
    rows, labels = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
    path = tmp_path / "own.npz"
    np.savez(path, train_inputs=rows, train_labels=labels, val_inputs=rows, val_labels=labels)
    found = collapselab.rank(["mlp"], str(path), probe=True, **OPTIONS)
    assert "own.npz: there is no test split; val is used as the test split" in found.warnings


def test_models_have_the_names_that_the_user_gives() -> None:
    found = collapselab.rank({"first": "mlp", "again": "mlp"}, "digits", **OPTIONS)
    assert set(found.order) == {"first", "again"}
    assert found.best in found.order
    assert "first: mlp: untrained; give pretrained=, or mlp=FILE, for trained weights" in found.warnings


def test_a_path_is_never_the_name_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="digits"):
        collapselab.rank(["mlp"], Path("digits"), **OPTIONS)
    with pytest.raises(InputError, match="name"):
        collapselab.rank(["mlp"], [Path("owner/name")], **OPTIONS)


def test_a_network_of_the_users_own_file(tmp_path: Path, own_cache: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build(num_classes, input_shape):\n    return nn.Sequential(nn.Linear(64, 9), nn.ReLU(), "
        "nn.Linear(9, num_classes))\n"
    )
    found = collapselab.rank([f"{tmp_path / 'net.py'}:build"], "digits", **OPTIONS)
    assert found.rows[0].dim == 9
    assert not own_cache.exists()  # what the code does may change


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.npz", "missing.npz: no such file, folder or network"),
        ("a.npy", "did you mean 'a.npz'"),
        ("=w.pt", "=w.pt: no network before the ="),
        ("mlp=", "mlp=: no file after the ="),
        ("mlp=missing.pt", "there is no file missing.pt"),
        ("torchvision/resnet19", "unknown model 'torchvision/resnet19'"),
        ("weights.safetensors", "weights without a network; give MODEL=weights.safetensors"),
        ("notes.txt", "notes.txt: not a kind of file that can be ranked"),
        ("", "a source is empty"),
        ("empty", "empty: no .npz or .safetensors file in this folder"),
        ("broken.npz", "broken.npz"),
    ],
)
def test_what_cannot_be_ranked(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.npz")
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "weights.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        open_candidate(source)


def test_a_source_twice_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    with pytest.raises(InputError, match="given twice"):
        collapselab.rank([path, path])


def test_runs_that_cannot_be_ranked(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints" / "other.safetensors").touch()
    with pytest.raises(InputError, match="not a checkpoint of this run"):
        open_candidate(run / "checkpoints" / "other.safetensors")
    (run / "checkpoints" / "other.safetensors").unlink()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(InputError, match="bare: has no checkpoint yet"):
        open_candidate(bare)
    (bare / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json"):
        open_candidate(bare)


def test_data_of_another_form_are_refused(run: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("L", (8, 8), 40 * number).save(folder / f"{number}.png")
    with pytest.raises(
        InputError, match=r"takes samples of shape \(64,\), but those of .*images have \(1, 8, 8\)"
    ):
        collapselab.rank([run], str(tmp_path / "images"), **OPTIONS)


def test_an_image_size_that_a_run_does_not_take_is_refused() -> None:
    with pytest.raises(InputError, match="takes images of 224 x 224 only; leave out image_size="):
        collapselab.rank(["torchvision/vit_b_16"], "digits", image_size=32)


# ---------------------------------------------------------------- the cache


def test_features_are_extracted_once(run: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = collapselab.rank([run], "digits", **OPTIONS)
    assert not first.rows[0].from_cache
    assert len(list(own_cache.glob("*.safetensors"))) == 1

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was built again")

    candidate = open_candidate(run)
    assert isinstance(candidate, Network)
    monkeypatch.setattr("collapselab.ranking.candidates.trained_model", refuse)
    second = collapselab.rank([run], "digits", **OPTIONS)
    assert second.rows[0].from_cache
    assert second.rows[0].scores == first.rows[0].scores
    with pytest.raises(AssertionError, match="built again"):
        collapselab.rank([run], "digits", cache=False, **OPTIONS)
    with pytest.raises(AssertionError, match="built again"):  # test features were not needed before
        collapselab.rank([run], "digits", probe=True, **OPTIONS)


@pytest.mark.parametrize("change", [{"limit": 200}, {"seed": 3}, {"batch_size": 64}, {"layer": "layers.0"}])
def test_whatever_decides_features_is_in_the_key(run: Path, own_cache: Path, change: dict[str, Any]) -> None:
    if "layer" in change:
        change = {"layer": next(iter(weight_layers(network_of(run))))}
    collapselab.rank([run], "digits", **OPTIONS)
    found = collapselab.rank([run], "digits", **(OPTIONS | change))
    assert not found.rows[0].from_cache
    assert len(list(own_cache.glob("*.safetensors"))) == 2


def test_a_damaged_file_is_computed_again(run: Path, own_cache: Path) -> None:
    first = collapselab.rank([run], "digits", **OPTIONS)
    path = next(own_cache.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    second = collapselab.rank([run], "digits", **OPTIONS)
    assert not second.rows[0].from_cache
    assert second.rows[0].scores == first.rows[0].scores
    assert collapselab.rank([run], "digits", **OPTIONS).rows[0].from_cache


def test_a_cache_that_cannot_be_written_is_reported(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = collapselab.rank([run], "digits", cache=tmp_path / "file", **OPTIONS)
    assert any("features were not stored" in text for text in found.warnings)


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=3000)
    tensors = {"features": torch.ones(200)}  # 800 bytes and a header
    for number in range(3):
        cache.write({"model": str(number)}, tensors)
        path = next(path for path in tmp_path.iterdir() if path.stat().st_mtime > 1e9)
        os.utime(path, (1000 + number, 1000 + number))
    assert cache.read({"model": "0"}) is not None  # used now, so that 1 is the oldest
    cache.write({"model": "3"}, tensors)
    known = [cache.read({"model": str(number)}) is not None for number in range(4)]
    assert known[0]
    assert known[3]
    assert not known[1]
    cache.write({"model": "large"}, {"features": torch.ones(1000)})
    assert cache.problem == "features of large are larger than the cache, and were not stored"
    assert cache.read({"model": "large"}) is None


def test_nothing_is_unpickled_and_other_keys_are_not_read(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.write({"model": "a"}, {"features": torch.ones(3)})
    path = next(tmp_path.iterdir())
    assert path.suffix == ".safetensors"
    other = FeatureCache(tmp_path)._place({"model": "b"})[0]
    path.rename(other)  # a file under another name is not taken for that
    assert cache.read({"model": "b"}) is None


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_folder() == tmp_path / "cache" / "features"
    monkeypatch.delenv("COLLAPSELAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "collapselab" / "features"
