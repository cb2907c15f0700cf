"""Loss and accuracy of the network beside its profile, against float64 sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapselab import profile
from collapselab.probes import Profile

SAMPLES, CLASSES = 90, 4


class Head(nn.Module):
    """A network whose class scores go through `last`."""

    def __init__(self, outputs: int, last: nn.Module) -> None:
        super().__init__()
        self.body, self.fc, self.last = nn.Linear(6, 8), nn.Linear(8, outputs), last

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.fc(self.body(inputs).relu()))


def batches(classes: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (SAMPLES,), generator=generator)
    inputs = torch.randn(SAMPLES, 6, generator=generator) + labels[:, None]
    return [(inputs[at : at + 32], labels[at : at + 32]) for at in range(0, SAMPLES, 32)]


def by_hand(model: nn.Module, loader: list[tuple[Tensor, Tensor]], kind: str) -> tuple[float, float]:
    """Loss and accuracy in numpy, from the outputs in float64."""
    with torch.no_grad():
        outputs = np.concatenate([model(inputs).double().numpy() for inputs, _ in loader])
    labels = np.concatenate([labels.numpy() for _, labels in loader])
    if kind in ("logit", "probability of one"):
        chance = outputs.ravel() if kind != "logit" else 1 / (1 + np.exp(-outputs.ravel()))
        outputs = np.stack([1 - chance, chance], axis=1)
    elif kind != "softmax":
        outputs = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    losses = -np.log(outputs[np.arange(SAMPLES), labels])
    return float(losses.mean()), float((outputs.argmax(axis=1) == labels).mean())


KINDS = {
    "logits": (CLASSES, nn.Identity(), CLASSES),
    "more logits than classes": (CLASSES + 3, nn.Identity(), CLASSES),
    "softmax": (CLASSES, nn.Softmax(dim=1), CLASSES),
    "log softmax": (CLASSES, nn.LogSoftmax(dim=1), CLASSES),
    "logit": (1, nn.Identity(), 2),
    "probability of one": (1, nn.Sigmoid(), 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_accuracy_of_both_splits(kind: str) -> None:
    outputs, last, classes = KINDS[kind]
    torch.manual_seed(3)
    model = Head(outputs, last).eval()
    loaders = {"train": batches(classes, 0), "test": batches(classes, 1)}
    measured = profile(model, loaders["train"], loaders["test"], metrics=["normalized_within"])
    for split, loader in loaders.items():
        loss, accuracy = by_hand(model, loader, kind)
        # The outputs are float32: their rounding, some 1e-7 of each, moves the mean loss as much.
        assert measured.loss[split] == pytest.approx(loss, rel=1e-6)
        assert measured.accuracy[split] == accuracy
    assert Profile.from_dict(measured.to_dict()) == measured
    assert "% on train data, " in measured.performance()


def test_padding_does_not_count() -> None:
    torch.manual_seed(3)
    model = Head(CLASSES, nn.Identity()).eval()
    loader = batches(CLASSES, 0)
    inputs, labels = loader[0]
    padded = labels.clone()
    padded[3:9] = -100
    kept = torch.cat([torch.arange(3), torch.arange(9, 32)])
    measured = profile(model, [(inputs, padded), *loader[1:]], metrics=["normalized_within"])
    alone = profile(model, [(inputs[kept], labels[kept]), *loader[1:]], metrics=["normalized_within"])
    assert measured.accuracy == alone.accuracy
    assert measured.loss["train"] == pytest.approx(alone.loss["train"], rel=1e-6)


def test_a_network_without_class_scores_has_none() -> None:
    model = Head(CLASSES, nn.Identity()).eval()
    measured = profile(model, batches(CLASSES, 0), scores=False, metrics=["normalized_within"])
    assert measured.loss == measured.accuracy == {}
    assert measured.performance() == ""


def test_an_infinite_loss_is_stored() -> None:
    """The probability of a class that never occurs in an output is 0."""

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return (self.fc(inputs) * 1e4).softmax(dim=1)

    torch.manual_seed(0)
    measured = profile(Sure(), batches(3, 0), metrics=["normalized_within"])
    assert measured.loss["train"] == math.inf
    assert measured.to_dict()["loss"] == {"train": None}
    assert Profile.from_dict(measured.to_dict()) == measured
    assert "infinite on train data" in measured.performance()
