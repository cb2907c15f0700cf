"""Arguments of `profile` as users of other libraries write them: modules as layers, counters, and swapped ones."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import collapselab
from collapselab import InputError

# The tests check annotations at run time; users pass anything.
profile: Any = inspect.unwrap(collapselab.profile)

LABELS = torch.arange(48) % 4
INPUTS = torch.randn(48, 6, generator=torch.manual_seed(3)) + LABELS[:, None]
BATCHES = list(zip(INPUTS.split(16), LABELS.split(16), strict=True))


class Blocks(nn.Module):
    """A list of blocks, of which one is used twice, and a head."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)])
        self.alias = self.blocks[1]
        self.head = nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def within_by_hand(features: torch.Tensor) -> float:
    rows, labels = features.detach().double().numpy(), LABELS.numpy()
    means = np.stack([rows[labels == c].mean(0) for c in range(4)])
    within = np.mean([((rows[labels == c] - means[c]) ** 2).sum(1).mean() for c in range(4)])
    return float(within / (within + ((means - means.mean(0)) ** 2).sum(1).mean()))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (lambda net: net.head, ["head"]),
        (lambda net: [net.head], ["head"]),
        (lambda net: (net.blocks[0][0], "head"), ["blocks.0.0", "head"]),
        (lambda net: [net.alias], ["blocks.1"]),
        (lambda net: net.blocks, ["blocks.0", "blocks.1"]),
        (lambda net: net.blocks.children(), ["blocks.0", "blocks.1"]),
        (lambda net: {net.head}, ["head"]),
    ],
)
def test_modules_are_found_by_identity(layers: Callable[[Any], Any], names: list[str]) -> None:
    net = Blocks()
    measured = profile(net, BATCHES, layers=layers(net), metrics=["normalized_within"])
    assert [layer.name for layer in measured.layers] == names
    inputs = {"blocks.0": INPUTS, "blocks.0.0": INPUTS, "blocks.1": INPUTS + net.blocks[0](INPUTS)}
    inputs["head"] = inputs["blocks.1"] + net.blocks[1](inputs["blocks.1"])
    for name in names:
        assert measured[name].train["normalized_within"] == pytest.approx(
            within_by_hand(inputs[name]), rel=1e-5
        )


@pytest.mark.parametrize(
    "counts",
    [Counter(LABELS.tolist()), dict.fromkeys(range(4), 12), [12] * 4, np.full(4, 12), torch.full((4,), 12)],
)
def test_class_counts_are_taken_as_a_counter_or_a_sequence(counts: Any) -> None:
    wanted = profile(Blocks(), BATCHES, metrics=["vci"])
    found = profile(Blocks(), BATCHES, metrics=["vci"], class_counts=counts)
    for one, other in zip(found.layers, wanted.layers, strict=True):  # summed with other weights
        assert one.train["vci"] == pytest.approx(other.train["vci"], rel=1e-12)


def test_a_label_that_a_counter_lacks_has_no_samples() -> None:
    odd = [(inputs, labels * 2) for inputs, labels in BATCHES]
    measured = profile(Blocks(7), odd, metrics=["vci"], class_counts=Counter((LABELS * 2).tolist()))
    wanted = profile(Blocks(), BATCHES, metrics=["vci"])["head"].train["vci"]
    assert measured["head"].train["vci"] == pytest.approx(wanted, rel=1e-12)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "number": (lambda: profile(Blocks(), BATCHES, layers=-1), "layers=-1: give names"),
    "numbers": (lambda: profile(Blocks(), BATCHES, layers=[-1]), "-1 in the list is a int"),
    "other network": (
        lambda: profile(Blocks(), BATCHES, layers=[nn.Linear(6, 4)]),
        "Linear is not in Blocks",
    ),
    "swapped": (lambda: profile(BATCHES, Blocks()), "give a torch.nn.Module first, and the loader"),
    "class": (lambda: profile(Blocks, BATCHES), "model is a type"),
    "two networks": (lambda: profile(Blocks(), Blocks()), "loader is a Blocks"),
    "test network": (lambda: profile(Blocks(), BATCHES, Blocks()), "test_loader is a Blocks"),
    "no loader": (lambda: profile(Blocks(), 5), "loader is a int"),
    "names": (
        lambda: profile(Blocks(), BATCHES, class_counts={"cat": 3, "dog": 4}),
        "class_counts: give the whole number of samples of each label",
    ),
    "huge label": (
        lambda: profile(Blocks(), BATCHES, class_counts={0: 1, 10**12: 4}),
        "label 1 is outside the 2 classes known beforehand",
    ),
    "label beyond 64 bits": (
        lambda: profile(Blocks(), BATCHES, class_counts={0: 1, 2**63: 4}),
        "class_counts: give the whole number of samples of each label",
    ),
    "class of modules": (
        lambda: profile(Blocks(), BATCHES, layers=nn.Linear),
        "the predicate raised TypeError",
    ),
    "text": (lambda: profile(Blocks(), BATCHES, class_counts="many"), "class_counts: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_refused_in_one_line(case: str) -> None:
    call, says = WRONG[case]
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_the_network_itself_is_no_layer() -> None:
    net = Blocks()
    with pytest.raises(InputError, match="is the network itself"):
        profile(net, BATCHES, layers=[net])
