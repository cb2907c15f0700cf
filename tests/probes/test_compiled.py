"""Compiled models: the layers, names and numbers of the eager one, and nothing is recompiled afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from by_hand import assert_equals_oracle, flat_profile
from probe_networks import TinyConvNet, batches, draw, seeded, uneven
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from collapselab.probes import Profile, profile

LABELS = uneven(21, 24, 15)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.layer = nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(self.tokens(inputs)).mean(1))


NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...], str]] = {
    "residual": (Residual, (5,), "blocks.1.0"),
    "convolution": (TinyConvNet, (3, 6, 6), "grouped"),
    "attention": (Attention, (3, 5), "layer.linear1"),
}


def whole(model: nn.Module, backend: Any) -> nn.Module:
    return torch.compile(model, backend=backend)  # pyright: ignore[reportReturnType] an OptimizedModule


def in_place(model: nn.Module, backend: Any) -> nn.Module:
    model.compile(backend=backend)
    return model


def parts(model: nn.Module, backend: Any) -> nn.Module:
    """Every second child compiled, one way or another, inside an eager model."""
    for index, (name, child) in enumerate(list(model.named_children())):
        if index % 2 == 0 and not isinstance(child, nn.ModuleList):
            setattr(model, name, torch.compile(child, backend=backend))
        elif index % 4 == 1:
            for part in child.children() if isinstance(child, nn.ModuleList) else [child]:
                part.compile(backend=backend)
    return model


def forward(model: nn.Module, backend: Any) -> nn.Module:
    model.forward = torch.compile(model.forward, backend=backend)
    return model


def parallel(model: nn.Module, backend: Any) -> nn.Module:
    return whole(nn.DataParallel(whole(model, backend)), backend)


HOW: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "whole": whole, "in place": in_place, "parts": parts, "forward": forward, "within DataParallel": parallel,
}  # fmt: skip


def train_step(model: nn.Module, inputs: Tensor) -> None:
    model.train()
    model(inputs[:20]).square().sum().backward()


def same(found: Profile, eager: Profile) -> None:
    assert [layer.name for layer in found.layers] == [layer.name for layer in eager.layers]
    for layer in eager.layers:
        assert found[layer.name].train == layer.train
    assert (found.model, found.warnings) == (eager.model, eager.warnings)


@pytest.mark.parametrize(
    ("kind", "how", "evaluated"),
    [
        *((kind, how, True) for kind in NETWORKS for how in ("whole", "parts")),
        *(("residual", how, True) for how in ("in place", "forward", "within DataParallel")),
        *(("residual", how, False) for how in ("whole", "in place", "parts")),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_model_has_the_profile_of_the_eager_one(
    kind: str, how: str, evaluated: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    network, shape, name = NETWORKS[kind]
    inputs = draw(*shape, labels=LABELS)
    train = batches(inputs, LABELS, 20)
    eager = seeded(network)
    expected = flat_profile(eager, train, layers="*")
    caught: list[Tensor] = []
    with eager.get_submodule(name).register_forward_pre_hook(lambda _, args: caught.append(args[0])):
        eager.eval()(inputs)
    counter = CompileCounter()
    model = HOW[how](seeded(network), counter)
    if evaluated:
        model.eval()
        with torch.no_grad():
            model(inputs[:20])
        train_step(model, inputs)
        with torch.no_grad():
            for moved, buffer in zip(model.buffers(), eager.buffers(), strict=True):
                moved.copy_(buffer)
    frames = counter.frame_count
    capfd.readouterr()
    found = flat_profile(model, train, layers="*")
    assert capfd.readouterr() == ("", "")
    same(found, expected)
    assert_equals_oracle(found[name], caught[0], LABELS)
    assert counter.frame_count == frames
    if evaluated:
        train_step(model, inputs)
        assert counter.frame_count == frames, "training was compiled again"


@pytest.mark.parametrize("prefix", ["_orig_mod.", ""])
def test_layers_are_named_with_or_without_what_compiling_inserts(prefix: str) -> None:
    train = batches(draw(5, labels=LABELS), LABELS, 20)
    model = whole(seeded(Residual), "eager")
    assert [layer.name for layer in profile(model, train, layers=f"{prefix}blocks.1.*").layers] == [
        "blocks.1.0"
    ]
    part = seeded(Residual)
    part.blocks[1] = torch.compile(part.blocks[1], backend="eager")
    found = profile(part, train, layers=[f"blocks.1.{prefix}0", "head"])
    assert [layer.name for layer in found.layers] == ["blocks.1.0", "head"]
    block = profile(part, train, layers="blocks.1")["blocks.1"]
    assert block.train["within_trace"] == found["blocks.1.0"].train["within_trace"]


def test_compiled_under_autocast() -> None:
    train = batches(draw(5, labels=LABELS, dtype=torch.float32), LABELS, 20)
    eager = seeded(Residual, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = profile(eager, train)
        model = whole(seeded(Residual, dtype=torch.float32), "eager")
        train_step(model, train[0][0])
        same(profile(model, train), expected)
    assert expected["head"].train != profile(eager, train)["head"].train


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune-no-cudagraphs"])
def test_a_mode_compiles_nothing_for_a_profile(mode: str) -> None:
    train = batches(draw(5, labels=LABELS), LABELS, 20)
    model: Any = torch.compile(seeded(Residual), mode=mode)
    before = torch._dynamo.utils.counters["stats"]["calls_captured"]
    same(profile(model, train), profile(seeded(Residual), train))
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] == before
