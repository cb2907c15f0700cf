"""Training with and without a monitor, bit by bit, for networks that write their own state while they are evaluated."""

from __future__ import annotations

import copy
import random
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from collapselab import InputError
from collapselab.integrations import Monitor

DIM, HIDDEN, CLASSES = 5, 7, 3


class Network(nn.Module):
    """Two layers, with `extra` between them."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.extra, self.head = (
            nn.Linear(DIM, HIDDEN),
            extra or nn.Identity(),
            nn.Linear(HIDDEN, CLASSES),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.extra(torch.relu(self.first(inputs))))


class MomentumEncoder(Network):
    """As in MoCo: every forward pass moves the key encoder and fills a queue, also in evaluation."""

    def __init__(self, through_data: bool) -> None:
        super().__init__()
        self.key = copy.deepcopy(self.first).requires_grad_(False)
        self.queue: Tensor
        self.register_buffer("queue", torch.zeros(40, HIDDEN), persistent=False)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.through_data = through_data

    @torch.no_grad()
    def _move(self, inputs: Tensor) -> None:
        for own, key in zip(self.first.parameters(), self.key.parameters(), strict=True):
            if self.through_data:
                key.data = key.data * 0.9 + own.data * 0.1
            else:
                key.mul_(0.9).add_(own, alpha=0.1)
        rows = (int(self.pointer) + torch.arange(len(inputs))) % 40
        self.queue[rows] = self.key(inputs)
        self.pointer += len(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        self._move(inputs)
        near = torch.softmax(torch.relu(self.first(inputs)) @ self.queue.T, -1) @ self.queue
        return self.head(torch.relu(self.first(inputs)) + near)


class Average(nn.Module):
    """A moving average of features in an object that is no module, with a step count and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.average = _State()

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.average
        state.steps += 1
        state.norms.append(float(inputs.detach().norm()))
        state.shadow["mean"] += (inputs.detach().mean(0) - state.shadow["mean"]) / state.steps
        state.order[:] = np.roll(state.order, 1)
        return inputs - state.shadow["mean"] + state.order[0] + len(state.norms) / 100


class _State:
    def __init__(self) -> None:
        self.steps, self.norms = 0, deque[float](maxlen=9)
        self.shadow = {"mean": torch.zeros(HIDDEN)}
        self.order = np.arange(4.0)


class BuiltInForward(nn.Module):
    """Builds its layer, and reads an initial scale from the first batch, as ActNorm does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(HIDDEN))
        self.built = False

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.built:
            self.layer = nn.Linear(HIDDEN, HIDDEN)
            self.register_buffer("scale", 1 / (inputs.detach().std(0) + 0.1))
            self.built = True
        return self.layer(inputs * self.scale)


class Noise(nn.Module):
    """Noise in evaluation too, from every kind of generator."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.numpy = torch.Generator().manual_seed(1), np.random.default_rng(2)
        self.python = random.Random(3)

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.rand(inputs.shape, generator=self.own) + self.numpy.random() + self.python.random()
        noise += _GLOBAL.random() + random.random() + np.random.rand()  # noqa: NPY002 (the shared generator is what must not move)
        return nn.functional.dropout(inputs, 0.3, training=True) + 0.1 * noise


_GLOBAL = np.random.default_rng(4)


class Merging(nn.Linear):
    """A low-rank update that is added to the weight in `eval()` and subtracted in `train()`, as in loralib."""

    def __init__(self) -> None:
        super().__init__(HIDDEN, HIDDEN)
        self.down, self.up = nn.Parameter(torch.randn(2, HIDDEN)), nn.Parameter(torch.randn(HIDDEN, 2))
        self.is_merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.is_merged:
            self.weight.data += (-0.3 if mode else 0.3) * (self.up @ self.down).data
            self.is_merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        update = 0 if self.is_merged else 0.3 * input @ (self.up @ self.down).T
        return super().forward(input) + update


class ExtraState(nn.Module):
    """A count that only its extra state shows."""

    __slots__ = ("_hidden",)

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_hidden", [0])

    def get_extra_state(self) -> int:
        return self._hidden[0]

    def set_extra_state(self, state: int) -> None:
        self._hidden[0] = state

    def forward(self, inputs: Tensor) -> Tensor:
        self._hidden[0] += 1
        return inputs * (1 + self._hidden[0] / 100)


class HiddenTeacher(nn.Module):
    """A network in a list, so that it is no submodule; its statistics of batches move in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.BatchNorm1d(HIDDEN, momentum=None)]

    def forward(self, inputs: Tensor) -> Tensor:
        self.hidden[0](inputs.detach())
        return inputs + self.hidden[0].get_buffer("running_mean")


class Counted(nn.Module):
    """Counts in its class and in slots of an object."""

    count = 0

    def __init__(self) -> None:
        super().__init__()
        self.slots = _Slots()

    def forward(self, inputs: Tensor) -> Tensor:
        Counted.count += 1
        self.slots.count += 1
        return inputs * (1 + Counted.count / 100) + self.slots.count / 100


class _Slots:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Adapting(nn.Module):
    """Takes a gradient step on its shift in evaluation, as test-time adaptation does."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(HIDDEN))
        self.optimizer = torch.optim.SGD([self.shift], 0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            with torch.enable_grad():
                (inputs.detach() + self.shift).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return inputs + self.shift


class Adding(nn.Module):
    """An embedding that its forward pass renormalises in place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, HIDDEN, max_norm=0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.table(torch.arange(len(inputs)) % 4)


class Fusing(nn.Module):
    """Two branches that are one layer in evaluation, as in RepVGG."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.branches: tuple[nn.Linear, nn.Linear] | None = None

    def train(self, mode: bool = True) -> Fusing:
        if not mode and self.branches is None:
            self.fused = nn.Linear(HIDDEN, HIDDEN)
            self.fused.weight.data = self.one.weight.data + self.other.weight.data
            self.fused.bias.data = self.one.bias.data + self.other.bias.data
            self.branches = self.one, self.other
            del self.one, self.other
        elif mode and self.branches is not None:
            (self.one, self.other), self.branches = self.branches, None
            del self.fused
        return super().train(mode)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fused(inputs) if self.branches is not None else self.one(inputs) + self.other(inputs)


def quantisation_aware() -> nn.Module:
    from torch.ao import quantization

    network = nn.Sequential(quantization.QuantStub(), Network(), quantization.DeQuantStub())
    network.train().__dict__["qconfig"] = quantization.get_default_qat_qconfig("x86")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantization.prepare_qat(network)


def spectral(new: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        norm = nn.utils.parametrizations.spectral_norm if new else nn.utils.spectral_norm
        return Network(norm(nn.Linear(HIDDEN, HIDDEN)))

    return build


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "quantisation-aware": quantisation_aware,
    "momentum encoder": lambda: MomentumEncoder(False),
    "momentum encoder through .data": lambda: MomentumEncoder(True),
    "spectral norm": spectral(True),
    "spectral norm of old": spectral(False),
    "moving average in an object": lambda: Network(Average()),
    "built in forward": lambda: Network(BuiltInForward()),
    "noise in evaluation": lambda: Network(Noise()),
    "merged weights": lambda: Network(nn.Sequential(Merging(), nn.ReLU())),
    "batch norm": lambda: Network(nn.BatchNorm1d(HIDDEN, momentum=None)),
    "extra state": lambda: Network(ExtraState()),
    "counted elsewhere": lambda: Network(Counted()),
    "adapting": lambda: Network(Adapting()),
    "fusing": lambda: Network(Fusing()),
    "renormalised embedding": lambda: Network(nn.Sequential(Adding())),
    "teacher in a list": lambda: Network(HiddenTeacher()),
}


def data() -> TensorDataset:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(36) % CLASSES
    return TensorDataset(torch.randn(36, DIM, generator=draw) + torch.eye(CLASSES, DIM)[labels], labels)


def traced(model: nn.Module, monitor: Monitor | None) -> list[float]:
    """Train for two epochs and return the losses."""
    loader = DataLoader(data(), batch_size=12, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    if monitor is not None:
        monitor.start()
    for _ in range(2):
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if monitor is not None:
                monitor.step()
    if monitor is not None:
        monitor.finish()
    return losses


def state_of(model: nn.Module) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()} | {
        f"mode of {name}": module.training for name, module in model.named_modules()
    }


@pytest.mark.filterwarnings("ignore:.*changes its own state")
@pytest.mark.filterwarnings("ignore:.*reduce_range")
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.spectral_norm:FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_the_same_with_and_without(name: str, tmp_path: Path) -> None:
    global _GLOBAL
    results = []
    for monitored in (False, True):
        torch.manual_seed(7)
        model = NETWORKS[name]()
        loader = DataLoader(data(), batch_size=9)
        monitor = Monitor(model, loader, out=tmp_path, every=2, layers=["*head"]) if monitored else None
        # Not earlier: the type checker of the tests draws from it where it checks the list.
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002 (the shared generator is what must not move)
        _GLOBAL = np.random.default_rng(4)
        Counted.count = 0
        losses = traced(model, monitor)
        results.append((losses, state_of(model), torch.rand(2), _GLOBAL.random()))
        if monitor is not None:
            assert not monitor.failures
    (losses, state, drawn, number), (losses_2, state_2, drawn_2, number_2) = results
    assert losses == losses_2
    assert state.keys() == state_2.keys()
    for key, value in state.items():
        same = value == state_2[key] if isinstance(value, bool) else torch.equal(value, state_2[key])
        assert same, key
    assert torch.equal(drawn, drawn_2)
    assert number == number_2


def test_what_changed_is_said_once(tmp_path: Path) -> None:
    model = MomentumEncoder(False)
    monitor = Monitor(model, DataLoader(data(), 12), out=tmp_path)
    with pytest.warns(UserWarning, match=r"MomentumEncoder changes its own state .*key\.weight") as said:
        monitor.start()
    monitor.step()
    monitor.finish()  # a second warning would be an error
    assert len(said) == 1
    assert len(str(said[0].message)) <= 300


def test_a_lazily_built_layer_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, CLASSES))
    with pytest.raises(
        InputError, match=r"0\.weight of Sequential has no values .* run the model on one batch"
    ):
        Monitor(model, DataLoader(data(), 12), out=tmp_path).start()
    model(torch.zeros(1, DIM))
    Monitor(model, DataLoader(data(), 12), out=tmp_path).start().finish()
