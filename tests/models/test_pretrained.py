"""Networks with published weights: from local folders, from a stand-in for the hub, and refusals without either."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from torch import nn

from collapselab.errors import InputError, InputNote
from collapselab.models import open_model, pretrained
from collapselab.models.preprocessing import ImagePreprocessing, TextPreprocessing, own_preprocessing

SHAPE = (3, 32, 32)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in this file may reach the network, wherever it runs."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def opened(name: str | Path, **options: Any) -> nn.Module:
    return open_model(str(name), num_classes=10, input_shape=SHAPE, **options)


def refusal(name: str | Path, **options: Any) -> str:
    with pytest.raises(InputError) as raised:
        opened(name, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def equal(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


# -------------------------------------------------------------------- folders


def tiny_images() -> transformers.ResNetConfig:
    return transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=7)  # pyright: ignore[reportCallIssue] an argument of every configuration


def tiny_texts() -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=7,  # pyright: ignore[reportCallIssue] an argument of every configuration
    )


@pytest.mark.parametrize("prefix", ["", "transformers/"])
def test_a_folder_of_transformers(prefix: str, tmp_path: Path) -> None:
    saved = transformers.ResNetForImageClassification(tiny_images())
    saved.save_pretrained(tmp_path / "net")
    assert equal(opened(f"{prefix}{tmp_path / 'net'}"), saved)
    other = transformers.ResNetForImageClassification(tiny_images())
    torch.save(other.state_dict(), tmp_path / "other.bin")
    assert equal(opened(f"{prefix}{tmp_path / 'net'}", checkpoint=tmp_path / "other.bin"), other)


def test_a_folder_of_timm(tmp_path: Path) -> None:
    saved = timm.create_model("resnet10t", num_classes=7)
    save_for_hf(saved, str(tmp_path / "net"), safe_serialization=True)
    assert equal(opened(tmp_path / "net"), saved)


def test_a_network_without_classifier_says_so(tmp_path: Path) -> None:
    transformers.BertModel(tiny_texts()).save_pretrained(tmp_path / "net")
    with pytest.warns(InputNote, match="has no classifier"):
        opened(tmp_path / "net")


def test_weights_that_are_missing_are_never_random(tmp_path: Path) -> None:
    """`transformers` would draw a new classifier, and say so in a log at most."""
    config = tiny_texts()
    transformers.BertModel(config).save_pretrained(tmp_path / "net")
    config.architectures = ["BertForSequenceClassification"]
    config.save_pretrained(tmp_path / "net")
    assert "has no weights for classifier.bias, classifier.weight, which would be random" in refusal(
        tmp_path / "net"
    )


def test_a_damaged_folder(tmp_path: Path) -> None:
    transformers.ResNetForImageClassification(tiny_images()).save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be loaded" in refusal(tmp_path / "net")


# -------------------------------------------------------------------- published weights


@pytest.mark.parametrize(
    "name", ["timm/resnet18.a1_in1k", "torchvision/resnet18.IMAGENET1K_V1", "transformers/owner/name"]
)
def test_a_tag_without_weights_is_refused_with_both_ways(name: str) -> None:
    message = refusal(name)
    assert "names pretrained weights, and none are loaded" in message
    assert "pretrained=" in message
    assert ("checkpoint=FILE" in message) != name.startswith("transformers/")


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "torchvision/resnet18", "transformers/owner/name"])
def test_without_network_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    message = refusal(name, pretrained=True)
    assert "pretrained weights are not here, and cannot be fetched (no network in tests)" in message


def test_a_tag_with_a_checkpoint(tmp_path: Path) -> None:
    saved = timm.create_model("resnet10t", num_classes=10)
    torch.save(saved.state_dict(), tmp_path / "c.pt")
    assert equal(opened("timm/resnet10t.c3_in1k", checkpoint=tmp_path / "c.pt"), saved)


def test_wrong_tags_and_networks_without_weights(tmp_path: Path) -> None:
    assert "no weights 'a9' of resnet18; " in refusal("timm/resnet18.a9", pretrained=True)
    assert "did you mean 'IMAGENET1K_V1'" in refusal("torchvision/resnet18.IMAGENET1K_V7", pretrained=True)
    assert "has no pretrained weights" in refusal("mlp", pretrained=True)
    assert "both given" in refusal("torchvision/resnet18", pretrained=True, checkpoint=tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """Stand-ins for what timm and torchvision download: files of the same form."""
    monkeypatch.setattr(pretrained, "_unreachable", lambda: None)
    networks = {
        "timm": timm.create_model("resnet18", num_classes=1000),
        "torchvision": torchvision.models.resnet18(),
    }
    torch.save(networks["timm"].state_dict(), tmp_path / "timm.bin")
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda *_, **__: torch.load(tmp_path / "timm.bin")
    )
    (tmp_path / "checkpoints").mkdir()
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    torch.save(networks["torchvision"].state_dict(), tmp_path / "checkpoints" / Path(url).name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    # Of the file that was published, not of ours.
    get_state = torchvision.models.ResNet18_Weights.get_state_dict
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights,
        "get_state_dict",
        lambda self, *_, **__: get_state(self, progress=False, check_hash=False),
    )
    return networks


@pytest.mark.parametrize(
    "name",
    ["timm/resnet18", "timm/resnet18.a1_in1k", "torchvision/resnet18", "torchvision/resnet18.IMAGENET1K_V1"],
)
def test_published_weights(name: str, hub: dict[str, nn.Module]) -> None:
    assert equal(opened(name, pretrained=True), hub[name.partition("/")[0]])


# -------------------------------------------------------------------- preprocessing


def photograph() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_the_preprocessing_of_timm(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=7)
    save_for_hf(model, str(tmp_path / "net"), safe_serialization=True)
    expected: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    for name in ("timm/resnet10t", str(tmp_path / "net")):
        own = own_preprocessing(name)
        assert isinstance(own, ImagePreprocessing)
        assert torch.equal(own.transform(photograph()), expected(photograph()))
        assert "176 x 176" in own.words


def test_the_preprocessing_of_torchvision() -> None:
    own = own_preprocessing("torchvision/resnet18")
    assert isinstance(own, ImagePreprocessing)
    expected = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()(photograph())
    assert torch.equal(own.transform(photograph().convert("RGBA")), expected)
    assert "ResNet18_Weights.IMAGENET1K_V1" in own.words


def test_an_image_processor(tmp_path: Path) -> None:
    transformers.ResNetForImageClassification(tiny_images()).save_pretrained(tmp_path)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    processor.save_pretrained(tmp_path)
    own = own_preprocessing(str(tmp_path))
    assert isinstance(own, ImagePreprocessing)
    expected = processor(images=photograph(), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(own.transform(photograph()), expected)


def test_a_tokenizer(tmp_path: Path) -> None:
    transformers.BertForSequenceClassification(tiny_texts()).save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    own = own_preprocessing(str(tmp_path))
    assert isinstance(own, TextPreprocessing)
    encoded = own.tokenize(["good film", "bad"], None)
    assert encoded["input_ids"].tolist() == [[2, 5, 7, 3], [2, 6, 3, 0]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert own.tokenize(["bad"], 6)["input_ids"].tolist() == [[2, 6, 3, 0, 0, 0]]


def test_nobody_recorded_the_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody recorded how mlp was trained"):
        own_preprocessing("mlp")
    transformers.ResNetForImageClassification(tiny_images()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="neither an image processor nor a tokenizer"):
        own_preprocessing(str(tmp_path))
