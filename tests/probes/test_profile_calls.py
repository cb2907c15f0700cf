"""Which modules a forward pass calls, how often, with what, and on which branch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from by_hand import flat_profile
from probe_networks import (
    OF_WEIGHT,
    batches,
    draw,
    read_slowly,
    seeded,
)
from test_profile_forwards import LABELS, TRAIN, Net, check
from torch import Tensor, nn


def test_a_layer_that_is_called_twice_is_two_layers() -> None:
    class Reused(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Linear(8, 8)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.hidden(inputs).relu()
            return self.fc(self.again(self.again(hidden).relu()))

    model = seeded(Reused)
    found = flat_profile(model, TRAIN)
    assert [layer.name for layer in found.layers] == ["hidden", "again", "again#2", "fc"]
    assert found["again"].train["within_trace"] != found["again#2"].train["within_trace"]
    assert found["again"].weight_singular_values == found["again#2"].weight_singular_values
    check(found, model)


def test_a_module_under_two_names_is_named_once() -> None:
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.hidden

    found = flat_profile(seeded(Shared), TRAIN)
    assert [layer.name for layer in found.layers] == ["hidden", "fc"]


def test_tied_weights_are_two_layers_that_read_different_features() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.hidden.weight
            self.fc = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(self.second(self.hidden(inputs).relu()))

    model = seeded(Tied)
    found = flat_profile(model, TRAIN)
    assert [layer.name for layer in found.layers] == ["hidden", "second", "fc"]
    check(found, model)


def test_modules_that_are_called_with_keyword_arguments() -> None:
    class Keyword(Net):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(input=self.hidden(input=inputs).relu())

    found, plain = flat_profile(seeded(Keyword), TRAIN), flat_profile(seeded(Net), TRAIN)
    assert [layer.train for layer in found.layers] == [layer.train for layer in plain.layers]


def test_a_model_that_takes_several_inputs() -> None:
    class Two(Net):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().forward(first + second)

    plain = flat_profile(seeded(Net), TRAIN)
    apart = [(x - 1, torch.ones_like(x), y) for x, y in TRAIN]
    named = [{"first": x - 1, "second": torch.ones_like(x), "label": y} for x, y in TRAIN]
    for loader in (apart, named):
        found = flat_profile(seeded(Two), loader)
        for layer in plain.layers:  # x - 1 + 1 rounds
            assert found[layer.name].train["vci"] == pytest.approx(layer.train["vci"], rel=1e-9)


def test_layers_that_never_run_are_left_out_with_a_warning() -> None:
    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Any:
            hidden = self.hidden(inputs).relu()
            return (self.fc(hidden), self.aux(hidden)) if self.training else self.fc(hidden)

    found = flat_profile(seeded(Auxiliary).train(), TRAIN)
    assert [layer.name for layer in found.layers] == ["hidden", "fc"]
    assert any("aux never ran" in text for text in found.warnings)


def test_layers_that_read_one_tensor_share_its_statistics() -> None:
    class Block(nn.Module):
        """A residual block with a projection, as in ResNets."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 3, padding=1)
            self.downsample, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
            self.fc = nn.Linear(16, 3)

        def forward(self, maps: Tensor) -> Tensor:
            out = self.conv2(self.relu(self.conv1(maps)))
            return self.fc(self.relu(out.add_(self.downsample(maps))).flatten(1))

    model, train = seeded(Block), batches(draw(4, 2, 2, labels=LABELS), LABELS, 25)
    found = flat_profile(model, train)
    shared, alone = found["conv1"], found["downsample"]
    for name, value in shared.train.items():
        if name not in OF_WEIGHT:
            assert alone.train[name] == value, name
    assert shared.train["alignment"] != alone.train["alignment"]
    assert [layer.same_features_as for layer in found.layers] == ["", "", "conv1", ""]
    assert (found.layers_beside, found["downsample"].depth, found["downsample"].is_beside) == ({2}, 2, True)
    assert json.loads(json.dumps(found.to_dict()))["layers"][2]["same_features_as"] == "conv1"
    check(found, model, train)


class Inception(nn.Module):
    """Two blocks of parallel branches of different length, as in Inception; a second head if asked for."""

    short0: nn.Module
    long0: nn.Module

    def __init__(self, *, has_exit: bool = False) -> None:
        super().__init__()
        for block in (0, 1):
            setattr(self, f"short{block}", nn.Linear(6, 3))
            setattr(self, f"long{block}", nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
        self.exit = nn.Linear(6, 3) if has_exit else None
        self.fc = nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        early = rows
        for block in (0, 1):
            parts = [getattr(self, f"{branch}{block}")(rows) for branch in ("short", "long")]
            rows = torch.cat(parts, 1).relu()
            early = rows if block == 0 else early
        return self.fc(rows) if self.exit is None else (self.fc(rows), self.exit(early))


@pytest.mark.parametrize("has_exit", [False, True])
def test_a_line_follows_the_longest_branch(has_exit: bool) -> None:
    model, train = seeded(lambda: Inception(has_exit=has_exit)), batches(draw(6, labels=LABELS), LABELS, 25)
    found = flat_profile(model, train, **({"scores": 0} if has_exit else {}))
    line = [layer.name for layer in found.layers if layer.depth not in found.layers_beside]
    assert line == ["long0.0", "long0.2", "long1.0", "long1.2", "fc"]


def test_a_line_passes_by_the_same_features_where_layers_cannot_be_followed() -> None:
    class Detour(Inception):
        """What the first block returns leaves torch for numpy."""

        def forward(self, rows: Tensor) -> Tensor:
            rows = torch.cat([self.short0(rows), self.long0(rows)], 1).relu()
            return self.fc(torch.from_numpy(rows.detach().numpy().copy()))

    found = flat_profile(seeded(Detour), batches(draw(6, labels=LABELS), LABELS, 25))
    assert [layer.name for layer in found.layers] == ["short0", "long0.0", "long0.2", "fc"]
    assert found.layers_beside == {1}


class InPlace(nn.Module):
    """Two layers that are given the same memory, which changes in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(6, 3), nn.Linear(6, 3), nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + 0
        return self.first(inputs) + self.second(self.relu(inputs))


def test_memory_that_changed_in_between_is_another_tensor() -> None:
    model = seeded(InPlace)
    found = flat_profile(model, TRAIN)
    assert found["first"].train["total_trace"] != found["second"].train["total_trace"]
    check(found, model)


@pytest.mark.parametrize("reduce", ["mean", "token"])
def test_a_tensor_read_by_positions_and_by_channels_is_reduced_for_each(reduce: str) -> None:
    """A convolution over (n, 4, 5) has 4 channels and no tokens; a linear layer has 5 channels and 4 tokens."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.fc = nn.Conv1d(4, 3, 5), nn.Linear(5, 2), nn.Linear(11, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(torch.cat([self.conv(inputs).flatten(1), self.linear(inputs).flatten(1)], 1))

    inputs = draw(4, 5, labels=LABELS)
    found = flat_profile(seeded(Both), batches(inputs, LABELS, 30), reduce=reduce)
    assert (found["conv"].dim, found["linear"].dim) == (20, 5)
    rows = inputs.mean(1) if reduce == "mean" else inputs[:, 0]
    means = torch.stack([rows[c == LABELS].mean(0) for c in range(3)])
    measured = found["linear"].splits["train"].class_means
    assert measured is not None
    assert torch.allclose(measured, means, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["block", "block.1", "block.2"])
def test_channels_of_maps_come_first_in_modules_without_weight_too(name: str) -> None:
    block = nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.MaxPool2d(2))
    model = nn.Sequential()
    model.add_module("block", block)
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(4, 3))
    model = model.double()
    train = batches(draw(2, 3, 4, labels=LABELS), LABELS, 25)
    train = [(nn.functional.pad(x, (0, 0, 0, 1)), y) for x, y in train]
    model.eval()
    features, _ = read_slowly(model, train, name)
    layer = flat_profile(model, train, layers=name, reduce="gap")[name]
    assert layer.dim == features.shape[1]
    means = torch.stack([features.mean((2, 3))[c == LABELS].mean(0) for c in range(3)])
    measured = layer.splits["train"].class_means
    assert measured is not None
    assert torch.allclose(measured, means, rtol=0, atol=1e-12)
