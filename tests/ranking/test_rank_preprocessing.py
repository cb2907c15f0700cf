"""Networks that are ranked read what they were trained to read: their own preprocessing of images and of text."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from torch import Tensor

import collapselab
from cli_runner import assert_refused, run
from collapselab import InputError
from collapselab.data import open_data_set
from collapselab.data.stratified import stratified_rows
from collapselab.data.transformed import TransformedImages
from collapselab.models import open_model
from collapselab.models.preprocessing import own_preprocessing
from collapselab.transfer.scores import logme

OPTIONS: dict[str, Any] = {"scores": ["logme"], "stability": False}
COUNT = 60


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of timm with its weights and its preprocessing, which is not that of the other tests."""
    torch.manual_seed(0)
    overlay = {"input_size": (3, 40, 40), "crop_pct": 0.8, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    model = timm.create_model("resnet10t", num_classes=7, pretrained_cfg_overlay=overlay)
    save_for_hf(model, str(tmp_path / "net"), safe_serialization=True)
    return tmp_path / "net"


def digits(folder: Path, **options: Any) -> Any:
    return collapselab.rank([folder], "digits", limit=COUNT, **(OPTIONS | options))


def test_images_are_prepared_as_for_training(folder: Path) -> None:
    found = digits(folder)
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    # The samples that every candidate is ranked on, whatever makes its inputs.
    plain = collapselab.rank(["mlp=" + str(_weights(folder.parent))], "digits", limit=COUNT, **OPTIONS)
    assert plain.rows[0].num_samples == found.rows[0].num_samples == COUNT
    opened = open_data_set("digits").open(
        "train", transform=lambda image: transform(image.convert("RGB")), rows=_rows()
    )
    with torch.no_grad():
        read = [
            model.forward_head(model.forward_features(part), pre_logits=True)
            for part, _ in opened.batches(128)
        ]
    assert found.rows[0].scores["logme"] == pytest.approx(logme(torch.cat(read), opened.labels), rel=1e-5)
    assert any(
        "made by the network's own preprocessing (timm's data_config: 40 x 40" in text
        for text in found.warnings
    )


def _rows() -> Any:
    return stratified_rows(open_data_set("digits").labels("train"), COUNT, 0, "digits, train")


def _weights(folder: Path) -> Path:
    model = open_model("mlp", num_classes=10, input_shape=(64,), seed=5)
    torch.save(model.state_dict(), folder / "mlp.pt")
    return folder / "mlp.pt"


def test_it_can_be_turned_off(folder: Path) -> None:
    own, scaled = digits(folder), digits(folder, preprocess=False, image_size=40)
    assert own.rows[0].scores != scaled.rows[0].scores
    assert not any("own preprocessing" in text for text in scaled.warnings)


def test_features_are_extracted_once(folder: Path) -> None:
    name = "timm/resnet10t"
    weights = f"{name}={folder / 'model.safetensors'}"
    first = collapselab.rank([weights], "digits", limit=COUNT, preprocess=True, **OPTIONS)
    second = collapselab.rank([weights], "digits", limit=COUNT, preprocess=True, **OPTIONS)
    assert (first.rows[0].from_cache, second.rows[0].from_cache) == (False, True)
    assert first.rows[0].scores == second.rows[0].scores
    scaled = collapselab.rank([weights], "digits", limit=COUNT, image_size=176, **OPTIONS)
    assert not scaled.rows[0].from_cache


@pytest.mark.parametrize("fits", [True, False])
def test_every_image_decides_what_is_found_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fits: bool
) -> None:
    if not fits:
        monkeypatch.setattr("collapselab.data.transformed.MEMORY_BYTES", 0)
    monkeypatch.setattr("collapselab.data.transformed.HASHED_IMAGES", 4)
    count = 12
    images = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(count) % 2
    weights = f"timm/resnet10t={folder / 'model.safetensors'}"

    def ranked() -> Any:
        test = {"test_inputs": images[:4], "test_labels": labels[:4]}
        np.savez(tmp_path / "images.npz", train_inputs=images, train_labels=labels, **test)
        return collapselab.rank([weights], str(tmp_path / "images.npz"), preprocess=True, **OPTIONS).rows[0]

    assert not ranked().from_cache
    assert ranked().from_cache
    few = np.linspace(0, count - 1, 4).astype(int)
    images[np.setdiff1d(np.arange(count), few)[0]] = 0  # one that a digest of few images would not read
    assert not ranked().from_cache


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_the_digest_of_many_images_tells_that_any_was_changed(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.data.transformed.MEMORY_BYTES", 0)
    monkeypatch.setattr("collapselab.data.transformed.HASHED_IMAGES", 1)
    paths = [tmp_path / form / "train" / label / f"{number}.bmp" for label in "ab" for number in range(3)]

    def digest(shade: int) -> str:
        for number, path in enumerate(paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            is_changed = number == len(paths) - 1
            Image.new("L", (4, 4), shade if is_changed else 0).save(path)
            changed_at = shade if is_changed else 0
            os.utime(path, (changed_at, changed_at))
        where = tmp_path / form
        if form == "parquet":
            where = tmp_path / "tables"
            cells = [{"bytes": path.read_bytes(), "path": None} for path in paths]
            where.mkdir(exist_ok=True)
            columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
            table = {"image": cells, "label": [0, 0, 0, 1, 1, 1]}
            made = datasets.Dataset.from_dict(table, features=datasets.Features(columns))
            made.to_parquet(str(where / "train-00000-of-00001.parquet"))
        inputs = open_data_set(where).open("train", transform=to_tensor).inputs
        assert isinstance(inputs, TransformedImages)
        return inputs.digest()

    first = digest(1)
    assert digest(1) == first
    assert digest(2) != first


def to_tensor(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)[None])


def test_published_weights_that_are_replaced_are_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shufflenet_v2_x0_5"
    weights: Any = torchvision.models.get_model_weights(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / Path(weights.DEFAULT.url).name
    path.parent.mkdir(parents=True)

    def ranked(seed: int) -> Any:
        torch.manual_seed(seed)
        torch.save(torchvision.models.get_model(name).state_dict(), path)
        found = collapselab.rank([f"torchvision/{name}"], "digits", limit=20, pretrained=True, **OPTIONS)
        return found.rows[0]

    first = ranked(0)
    assert ranked(0).from_cache
    other = ranked(1)
    assert not other.from_cache
    assert other.scores != first.scores


@pytest.mark.parametrize("option", [{"image_size": 32}, {"standardize": "pixel"}])
def test_what_it_decides_cannot_be_given(folder: Path, option: dict[str, Any]) -> None:
    name, value = next(iter(option.items()))
    with pytest.raises(
        InputError, match=f"{name}={value}: .*has its own preprocessing, which decides it; leave it out"
    ):
        digits(folder, **option)
    dashed = f"--{name.replace('_', '-')}"
    assert_refused(
        run("rank", folder, "--on", "digits", dashed, value),
        f"{dashed} {value}: ",
        "leave it out, or give --no-preprocess",
    )


def test_data_without_images(folder: Path, tmp_path: Path) -> None:
    pd.DataFrame({"text": ["good film", "bad"] * 4, "label": ["pos", "neg"] * 4}).to_csv(
        tmp_path / "t.csv", index=False
    )
    with pytest.raises(InputError, match="holds texts; give a network with a tokenizer"):
        collapselab.rank([folder], str(tmp_path / "t.csv"), **OPTIONS)


def test_nobody_recorded_the_preprocessing_of_a_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody recorded how mlp was trained"):
        collapselab.rank([f"mlp={_weights(tmp_path)}"], "digits", preprocess=True, **OPTIONS)
    assert_refused(
        run("rank", "mlp", "--on", "digits", "--pretrained"),
        "error: mlp: has no preprocessing of its own",
        "leave out --preprocess and --pretrained (",
    )


# ---------------------------------------------------------------- text


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the"]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    folder = tmp_path / "bert"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_texts(path: Path) -> tuple[list[str], list[int]]:
    texts = [
        f"{article} {judged} film" for article in ("a", "the", "a film the") for judged in ("good", "bad")
    ] * 3
    labels = [int("good" in text) for text in texts]
    for split in ("train", "test"):
        path.mkdir(exist_ok=True)
        pd.DataFrame({"text": texts, "label": labels}).to_csv(path / f"{split}.csv", index=False)
    return texts, labels


def test_texts_are_read_by_the_networks_own_tokenizer(reader: Path, tmp_path: Path) -> None:
    texts, labels = write_texts(tmp_path / "films")
    found = collapselab.rank(
        [reader], str(tmp_path / "films"), scores=["logme", "leep"], stability=False, probe=True
    )
    model = transformers.BertForSequenceClassification.from_pretrained(reader).eval()
    encoded = transformers.BertTokenizer.from_pretrained(reader)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        read: Tensor = model.bert(**encoded).pooler_output
    assert found.rows[0].scores["logme"] == pytest.approx(logme(read, labels), rel=1e-5)
    assert found.rows[0].scores["leep"] is not None  # of its class scores
    assert found.rows[0].accuracy is not None
    assert any("BertTokenizer" in text for text in found.warnings)


def test_networks_with_other_vocabularies_read_texts_by_their_own(reader: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "films")
    other = tmp_path / "other"
    shutil.copytree(reader, other)
    words = (reader / "vocab.txt").read_text().split()
    (other / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]))
    transformers.BertTokenizer(str(other / "vocab.txt")).save_pretrained(other)
    check_each_as_alone([reader, other], str(tmp_path / "films"))


def test_networks_with_other_image_processors_read_images_by_their_own(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
    )  # fmt: skip
    config.num_labels = 10
    for name, mean in (("dark", 0.0), ("light", 0.5)):
        torch.manual_seed(0)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / name)
        transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[mean] * 3, image_std=[0.5] * 3
        ).save_pretrained(tmp_path / name)
    check_each_as_alone([tmp_path / "dark", tmp_path / "light"], "digits")


def test_networks_of_timm_with_another_crop_read_images_by_their_own(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "squashed"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    config["pretrained_cfg"]["crop_mode"] = "border"
    (other / "config.json").write_text(json.dumps(config))
    first, second = (own_preprocessing(str(one)) for one in (folder, other))
    assert first != second
    assert first == own_preprocessing(str(folder))  # so that samples are made once for both


def check_each_as_alone(folders: list[Path], data: str) -> None:
    together = collapselab.rank(folders, data, limit=COUNT, **OPTIONS)
    alone = [collapselab.rank([folder], data, limit=COUNT, **OPTIONS).rows[0] for folder in folders]
    assert {row.model: row.scores for row in together.rows} == {row.model: row.scores for row in alone}


# ---------------------------------------------------------------- weights in a part of a file


def test_one_of_several_weights_in_a_file(tmp_path: Path) -> None:
    first, second = (
        open_model("mlp", num_classes=10, input_shape=(64,), seed=seed).state_dict() for seed in (1, 2)
    )
    torch.save({"student": first, "teacher": second}, tmp_path / "both.pt")
    torch.save(second, tmp_path / "second.pt")
    both, alone = f"mlp={tmp_path / 'both.pt'}", f"mlp={tmp_path / 'second.pt'}"
    found = collapselab.rank([both], "digits", checkpoint_key="teacher", **OPTIONS)
    other = collapselab.rank([both], "digits", checkpoint_key="student", **OPTIONS)
    assert not other.rows[0].from_cache
    assert (
        found.rows[0].scores
        == collapselab.rank([alone], "digits", **OPTIONS).rows[0].scores
        != other.rows[0].scores
    )


def test_a_key_without_a_file_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"checkpoint_key='ema': is a place in a file of weights; give NAME=FILE"
    ):
        collapselab.rank({"net": "mlp"}, "digits", checkpoint_key="ema", **OPTIONS)
