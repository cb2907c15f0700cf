"""Every number of every layer is the one that `measure` finds on features taken out the slow way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from by_hand import flat_profile
from probe_networks import (
    OF_WEIGHT,
    TinyConvNet,
    assert_equals_measure,
    batches,
    draw,
    measured,
    read_slowly,
    reduce_slowly,
    seeded,
    uneven,
)
from torch import Tensor, nn

from collapselab.models import MLP
from collapselab.probes import Profile
from collapselab.statistics import Scatter

TRAIN, TEST = uneven(40, 55, 65), uneven(60, 31, 50, seed=1)
COUNTS = [40, 55, 65]
REDUCTIONS = ["flatten", "gap", "mean", "token", "token:-1"]


def tiny_vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, mlp_ratio=2, num_classes=3
    )


def tiny_bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
            max_position_embeddings=8, num_labels=3,
        )
    )  # fmt: skip


def sentences(labels: Tensor, seed: int, size: int) -> list[dict[str, Tensor]]:
    """Token numbers that lean towards the label, in sequences of 2 to 6 tokens padded to 6."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 10, (len(labels), 6), generator=generator) + 10 * labels[:, None]
    lengths = torch.randint(2, 7, (len(labels),), generator=generator)
    mask = (torch.arange(6) < lengths[:, None]).long()
    return [
        {"input_ids": i, "attention_mask": m, "labels": c}
        for i, m, c in zip(ids.split(size), mask.split(size), labels.split(size), strict=True)
    ]


def loaders(kind: str, size: int = 32) -> tuple[list[Any], list[Any]]:
    if kind == "bert":
        return sentences(TRAIN, 1, size), sentences(TEST, 2, size)
    shape = {"conv": (3, 6, 6), "mlp": (6,), "vit": (3, 8, 8)}[kind]
    return tuple(batches(draw(*shape, labels=c, seed=s), c, size) for s, c in ((1, TRAIN), (2, TEST)))  # pyright: ignore[reportReturnType]


def network(kind: str) -> nn.Module:
    if kind == "mlp":
        return seeded(MLP, 6, 3, width=12, depth=2)
    return seeded({"conv": TinyConvNet, "vit": tiny_vit, "bert": tiny_bert}[kind])


def expected(
    model: nn.Module, kind: str, name: str, reduce: str, *, weight: Tensor | None = None, **kwargs: Any
) -> dict[str, dict[str, Any]]:
    splits = []
    for loader, labels in zip(loaders(kind), (TRAIN, TEST), strict=True):
        features, scores = read_slowly(model, loader, name)
        mask = torch.cat([b["attention_mask"] for b in loader]) if isinstance(loader[0], Mapping) else None
        is_map = isinstance(dict(model.named_modules())[name], nn.modules.conv._ConvNd)
        if mask is not None and features.ndim < 3:
            mask = None
        rows = reduce_slowly(features, reduce, is_map=is_map, mask=mask)
        splits.append((rows, labels, scores.argmax(1)))
    return measured(*splits, weight=weight, **kwargs)


def compared(kind: str, found: Profile, model: nn.Module, reduce: str, **kwargs: Any) -> None:
    for layer in found.layers:
        module = dict(model.named_modules())[layer.name]
        is_last = layer is found.layers[-1]
        assert isinstance(module.weight, Tensor)
        weight = module.weight.detach() if is_last else None
        wanted = expected(model, kind, layer.name, reduce, weight=weight, **kwargs)
        assert_equals_measure(layer, wanted, skip=() if is_last else sorted(OF_WEIGHT))


@pytest.mark.parametrize(
    ("kind", "reduce"),
    [(kind, reduce) for kind in ("vit", "bert") for reduce in REDUCTIONS]
    # Maps and plain features have no tokens: they are flattened.
    + [("conv", reduce) for reduce in ("flatten", "gap", "token")]
    + [("mlp", reduce) for reduce in ("flatten", "mean")],
)
def test_every_number_equals_measure_on_the_extracted_features(kind: str, reduce: str) -> None:
    model = network(kind)
    train, test = loaders(kind)
    found = flat_profile(model, train, test, reduce=reduce, class_counts=COUNTS)
    # One matrix per class serves either weighting: the counts of the test split need not be known.
    assert {layer.scatter for layer in found.layers} <= {"per_class", "rows"}
    assert found.num_samples == {"train": 160, "test": 141}
    compared(kind, found, model, reduce)


@pytest.mark.parametrize("kind", ["conv", "bert"])
@pytest.mark.parametrize("scatter", ["full", "auto", "sketch", "trace"])
def test_each_kind_of_scatter_keeps_what_it_says(kind: str, scatter: Any) -> None:
    model = network(kind)
    found = flat_profile(model, *loaders(kind), scatter=scatter, class_counts=COUNTS, weighting="sample")
    for layer in found.layers:
        # A sketch of up to 64 features would be no smaller than all of them.
        kept = scatter if scatter == "trace" or (scatter == "sketch" and layer.dim > 64) else "per_class"
        assert layer.scatter == kept
        wanted = expected(model, kind, layer.name, "flatten", weighting="sample")
        for split in ("train", "test"):
            _drop_what_is_not_kept(wanted[split], layer.splits[split].metrics, layer.scatter)
        assert_equals_measure(layer, wanted, skip=sorted(OF_WEIGHT))


def _drop_what_is_not_kept(wanted: dict[str, Any], found: Mapping[str, Any], scatter: Scatter | str) -> None:
    """Null what a sketch or a trace cannot tell; of a sketch, the bounds must hold the exact stable rank."""
    if scatter not in ("sketch", "trace"):
        return
    for name in ("fuzziness", "nc1", "vci", "vci_adjusted", "stable_rank_per_class", "stable_rank_published"):
        wanted[name] = None
    wanted |= dict.fromkeys(("components_90", "components_95", "components_99"))
    if scatter == "trace":
        wanted |= dict.fromkeys(("stable_rank", "stable_rank_low", "stable_rank_high"))
        return
    exact = wanted["stable_rank"]
    assert found["stable_rank_low"] <= exact * (1 + 1e-9)
    assert found["stable_rank_high"] >= exact * (1 - 1e-9)
    assert found["stable_rank"] == pytest.approx(exact, rel=0.1)  # 32 columns and a second pass
    for name in ("stable_rank", "stable_rank_low", "stable_rank_high"):
        del wanted[name]


def test_a_sketch_of_many_features_equals_measure_but_for_its_stable_rank() -> None:
    """Far more features than columns of the sketch, and more than float64 products are taken for."""
    labels = uneven(50, 30, 40)
    inputs = draw(300, labels=labels)
    model = seeded(nn.Sequential, nn.Linear(300, 3))
    found = flat_profile(model, batches(inputs, labels, 50), scatter="sketch", class_counts=[50, 30, 40])
    layer = found.layers[0]
    with torch.no_grad():
        wanted = measured((inputs, labels, model(inputs).argmax(1)))
    _drop_what_is_not_kept(wanted["train"], layer.train, "sketch")
    assert_equals_measure(layer, wanted, skip=sorted(OF_WEIGHT))
    assert layer.train["stable_rank_low"] != layer.train["stable_rank_high"]


def test_layers_come_in_the_order_in_which_the_forward_pass_reaches_them() -> None:
    found = flat_profile(network("conv"), *loaders("conv"), class_counts=COUNTS)
    names = ["plain", "grouped", "depthwise", "transposed", "transposed_grouped", "classifier"]
    assert [layer.name for layer in found.layers] == names
    assert [layer.depth for layer in found.layers] == list(range(6))
    assert [layer.shape for layer in found.layers[:2]] == [(3, 6, 6), (4, 3, 3)]


def test_spectra_are_kept_only_when_asked_for_and_are_the_eigenvalues() -> None:
    model, (train, _) = network("mlp"), loaders("mlp")
    without = flat_profile(model, train, class_counts=COUNTS)
    found = flat_profile(model, train, class_counts=COUNTS, spectra=True)
    assert all(layer.splits["train"].spectra == {} for layer in without.layers)
    for layer in found.layers:
        features, _ = read_slowly(model, train, layer.name)
        centred = features - torch.stack([features[c == TRAIN].mean(0) for c in range(3)])[TRAIN]
        scatter = centred.T @ (centred / (3 * torch.tensor(COUNTS)[TRAIN, None]))
        eigenvalues = torch.linalg.eigvalsh(scatter).flip(0)
        kept = torch.tensor(layer.splits["train"].spectra["within_eigenvalues"], dtype=torch.float64)
        assert torch.allclose(kept, eigenvalues, rtol=0, atol=1e-12 * float(eigenvalues[0]))


def test_a_network_that_collapses_at_a_layer_says_so() -> None:
    """A second layer that takes every sample of a class to one point."""
    labels = uneven(30, 30, 30)
    inputs = torch.cat([torch.eye(3)[labels], torch.randn(90, 5, generator=torch.manual_seed(0))], dim=1)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    with torch.no_grad():
        for layer in model:
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(torch.eye(*layer.weight.shape))
            layer.bias.zero_()
        layer = model[0]
        assert isinstance(layer, nn.Linear)
        layer.weight[3:] = 0
    found = flat_profile(model, batches(inputs, labels, 30))
    assert found.first_collapsed_layer == "1"
    assert found["1"].train["normalized_within"] == pytest.approx(0, abs=1e-12)
    share = found["0"].train["normalized_within"]
    assert share is not None
    assert share > 0.5
