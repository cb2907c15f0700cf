"""Real architectures, profiled with every reduction and two batch sizes, against features taken out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import ARCHITECTURES, Architecture
from slow_truth import (
    alignment,
    class_means,
    nearest_class,
    place_of,
    rows_of,
    run,
    self_duality,
    weight_rows,
    within_share,
)
from torch import Tensor, nn

from collapselab.probes import LayerProfile, profile

LABELS = torch.arange(24)[torch.randperm(24, generator=torch.Generator().manual_seed(0))] % 3
METRICS = ("normalized_within", "alignment", "self_duality", "ncc_agreement")
# Float64 throughout; kernels round differently for other batch sizes, and a few layers of transformers use float32.
REL = 1e-6


def drawn(kind: str) -> dict[str, Tensor]:
    """Inputs that lean towards their label, by keyword."""
    generator = torch.Generator().manual_seed(7)
    if kind == "text":
        lengths = torch.randint(3, 8, (24,), generator=generator)
        mask = torch.arange(7) < lengths[:, None]
        words = torch.randint(1, 9, (24, 7), generator=generator) + 9 * LABELS[:, None]
        return {"input_ids": words * mask, "attention_mask": mask.long()}
    shape = (3, 32, 32) if kind == "images" else (200,)
    means = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    values = means[LABELS] + torch.randn(24, *shape, generator=generator, dtype=torch.float64)
    return {"pixels" if kind == "images" else "sound": values}


def batched(inputs: dict[str, Tensor], size: int) -> list[Any]:
    parts = [
        {name: value[start : start + size] for name, value in inputs.items()} for start in range(0, 24, size)
    ]
    labels = LABELS.split(size)
    if "input_ids" in inputs:
        return [part | {"labels": y} for part, y in zip(parts, labels, strict=True)]
    return [(*part.values(), y) for part, y in zip(parts, labels, strict=True)]


def built(architecture: Architecture, inputs: Any) -> nn.Module:
    """A network that does not decide for one class alone: constant parameters become random, scores are centred."""
    for seed in range(20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = architecture.build().double().eval()
            for parameter in model.parameters():
                if bool((parameter == parameter.flatten()[0]).all()):
                    parameter.data += 0.3 * torch.randn_like(parameter)
        scores = torch.as_tensor(run(model, inputs, [])[1])
        biases = [parameter for parameter in model.parameters() if parameter.shape == (3,)]  # of the heads
        for bias in biases:
            bias.data -= scores.mean(0)
        scores -= scores.mean(0) if biases else 0
        if len(scores.argmax(1).unique()) > 1 and float(scores.std(0).min()) > 1e-10:
            return model
    raise AssertionError


def assert_layer(layer: LayerProfile, truth: dict[str, float | None], means: np.ndarray[Any, Any]) -> None:
    found = layer.splits["train"]
    assert layer.dim == means.shape[1], layer.name
    assert found.class_means is not None
    scale = float(np.abs(means).max())
    assert np.abs(found.class_means.numpy() - means).max() <= REL * scale, layer.name
    for name, wanted in truth.items():
        assert found.metrics[name] == pytest.approx(wanted, rel=REL), (layer.name, name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_numbers_are_those_of_features_taken_out_by_hand(name: str) -> None:
    architecture: Architecture = ARCHITECTURES[name]
    inputs, places = drawn(architecture.inputs), architecture.places
    whole = inputs if "input_ids" in inputs else next(iter(inputs.values()))
    model = built(architecture, whole)
    features, scores = run(model, whole, list(places))
    decisions, modules, labels = scores.argmax(axis=1), dict(model.named_modules()), LABELS.numpy()
    assert len(np.unique(decisions)) > 1  # else agreement says little
    mask = inputs["attention_mask"].bool().numpy() if "attention_mask" in inputs else None
    runs = [("flatten", 8), ("gap", 9)] + ([("mean", 9), ("token", 8)] if architecture.reduces_tokens else [])
    for how, size in runs:
        found = profile(
            model, batched(inputs, size), layers=list(places), reduce=how, metrics=METRICS, scatter="trace"
        )
        assert [layer.name for layer in found.layers] == list(places)
        assert not [text for text in found.warnings if "assumed" in text or "left out" in text]
        for layer in found.layers:
            module, place = modules[layer.name], place_of(modules[layer.name], places[layer.name])
            rows, weight = rows_of(features[layer.name], place, how, mask), weight_rows(module)
            truth: dict[str, float | None] = {
                "normalized_within": within_share(rows, labels),
                "ncc_agreement": float((nearest_class(rows, labels) == decisions).mean()),
            }
            if weight is not None:
                truth["alignment"] = alignment(rows, labels, weight, channels_first=place == "maps")
                if layer is found.layers[-1] and rows.shape[1] == weight.shape[1]:
                    truth["self_duality"] = self_duality(rows, labels, weight)
            assert_layer(layer, truth, class_means(rows, labels))


def test_three_libraries_and_thirty_architectures() -> None:
    assert len(ARCHITECTURES) >= 30
