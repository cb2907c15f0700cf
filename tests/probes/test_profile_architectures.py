"""Architectures that people use, untrained and on tiny images: all layers found, all numbers finite or null."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from probe_networks import assert_numbers, batches, draw, uneven
from torch import nn

from collapselab.models import MLP, ConvNet
from collapselab.probes import Profile, profile, weight_layers

LABELS = uneven(10, 10, 10)


def of(library: str, name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = pytest.importorskip(library)
        if library == "timm":
            return module.create_model(name, **kwargs)
        return getattr(module, name)(**kwargs)

    return build


def vgg_with_one_linear_layer() -> nn.Module:
    """Its own three have matrices of 100 million entries, whose spectra take minutes; few channels but in the last stage."""
    vgg = pytest.importorskip("torchvision.models.vgg")
    stages = vgg.make_layers([8, "M", 16, "M", 32, 32, "M", 32, 32, "M", 32, 512, "M"], batch_norm=True)
    model = vgg.VGG(stages, num_classes=3, init_weights=False)
    model.classifier = nn.Linear(512 * 7 * 7, 3)
    return model


# name: (how it is built, size of the images, reduction, classifier)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str, str]] = {
    "resnet18": (of("torchvision.models", "resnet18", num_classes=3), 32, "gap", "fc"),
    "densenet": (
        of("torchvision.models", "DenseNet", growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=3),
        16, "flatten", "classifier",
    ),
    "vgg11_bn": (vgg_with_one_linear_layer, 32, "gap", "classifier"),
    "deit_tiny": (of("timm", "deit_tiny_patch16_224", num_classes=3, img_size=32, depth=1), 32, "mean", "head"),
    "convnet": (lambda: ConvNet(3, (8, 8), 3, width=6, depth=3), 8, "flatten", "classifier"),
    "mlp": (lambda: MLP(3 * 8 * 8, 3, width=20, depth=3), 8, "flatten", "layers.3"),
}  # fmt: skip


def profiled(model: nn.Module, size: int, reduce: str) -> Profile:
    train, test = (
        batches(draw(3, size, size, labels=LABELS, seed=seed, dtype=torch.float32), LABELS, 15)
        for seed in (1, 2)
    )
    return profile(model, train, test, reduce=reduce)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_has_numbers(name: str) -> None:
    build, size, reduce, classifier = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
    found = profiled(model, size, reduce)
    assert found.layers[-1].name == classifier
    assert found.layers[-1].train["self_duality"] is not None
    assert [layer.train["self_duality"] for layer in found.layers[:-1]] == [None] * (len(found.layers) - 1)
    assert [layer.name for layer in found.layers] == list(
        weight_layers(model)
    )  # here in order of registration
    assert [layer.depth for layer in found.layers] == list(range(len(found.layers)))
    for layer in found.layers:
        assert_numbers(layer)
        for split in (layer.train, layer.test):
            for metric in (
                "normalized_within",
                "alignment",
                "alignment_random",
                "ncc_agreement",
                "stable_rank",
            ):
                assert split[metric] is not None, (layer.name, metric)
    assert found.model == type(model).__name__
    frame = found.to_frame()
    assert len(frame) == 2 * len(found.layers)
    assert found.to_dict()["layers"][-1]["name"] == classifier


def test_a_block_is_a_probe_point_where_its_channels_are_averaged() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.resnet18(num_classes=3)
    images = draw(3, 64, 64, labels=LABELS, dtype=torch.float32)
    found = profile(model, batches(images, LABELS, 15), layers="layer2,layer4,avgpool,fc", reduce="gap")
    assert [(layer.name, layer.dim) for layer in found.layers] == [
        ("layer2", 64), ("layer4", 256), ("avgpool", 512), ("fc", 512)
    ]  # fmt: skip
    # The classifier reads the mean over positions of what the pooling reads.
    pooled, last = (found[name].train for name in ("avgpool", "fc"))
    for metric in ("normalized_within", "cdnv", "etf_distance", "vci"):
        assert pooled[metric] == pytest.approx(last[metric], rel=1e-5)  # two float32 means


def test_a_glob_means_the_weight_layers_that_it_matches() -> None:
    model = ConvNet(3, (8, 8), 3, width=4, depth=3)
    images = draw(3, 8, 8, labels=LABELS, dtype=torch.float32)
    found = profile(model, batches(images, LABELS, 15), layers=["stem.*", "layers.1"])
    assert [layer.name for layer in found.layers] == ["stem.0", "stem.2", "layers.1"]
