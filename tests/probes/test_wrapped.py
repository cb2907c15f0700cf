"""Networks inside wrappers, whole or in part: the names that their author gave, and the numbers of the bare network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from collapselab.probes import profile

NAMES = ["body.0", "body.2", "head"]


class Net(nn.Module):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = nn.Identity) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.body = body if wrap is nn.Identity else wrap(body)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


class Fabricated(nn.Module):
    """Holds a network as the wrapper of Lightning Fabric does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._forward_module = network

    def forward(self, *inputs: Any) -> Any:
        return self._forward_module(*inputs)


class Ours(nn.Module):
    """Calls a network `module` without being a wrapper: the name is its author's."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Net()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network, backend="eager")  # pyright: ignore[reportReturnType] an OptimizedModule


WRAPPERS = {
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "compiled": compiled,
    "Fabric": Fabricated,
}


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(30) % 3
    noise = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    return [(torch.eye(3, 4)[labels] + 0.1 * noise, labels)]


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("where", ["part", "whole", "both"])
def test_layers_have_the_names_of_their_author(
    where: str, wrap: Callable[[nn.Module], nn.Module], batches: list[tuple[Tensor, Tensor]]
) -> None:
    model = Net() if where == "whole" else Net(wrap)
    model = model if where == "part" else wrap(model)
    model(batches[0][0])
    measured, bare = profile(model, batches), profile(Net(), batches)
    assert [layer.name for layer in measured.layers] == NAMES
    for layer in measured.layers:
        assert layer.train == bare[layer.name].train
    assert [layer.name for layer in profile(model, batches, layers="body.*").layers] == NAMES[:2]


def test_a_module_of_the_same_name_keeps_it(batches: list[tuple[Tensor, Tensor]]) -> None:
    assert [layer.name for layer in profile(Ours(), batches).layers] == [f"module.{name}" for name in NAMES]
