"""Networks whose forward takes gradients: energies, gradients with respect to the input, test-time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn

from collapselab.probes import profile

LABELS = uneven(14, 10, 12)
INPUTS = draw(6, labels=LABELS)


class Energy(nn.Module):
    """Classifies by the gradient of an energy; switches gradients on by itself or relies on the caller."""

    def __init__(self, *, switches_on: bool) -> None:
        super().__init__()
        self.switches_on = switches_on
        self.energy, self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.switches_on or torch.is_grad_enabled()):
            x = x.clone().requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return self.head(force)


class Backward(Energy):
    """Calls `backward`, which fills `x.grad`."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        self.energy(x).square().sum().backward(inputs=[x])
        assert x.grad is not None
        return self.head(x.detach() - 0.1 * x.grad)


class Adapts(Energy):
    """Takes a step of its features at test time."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.energy[0](x).requires_grad_()
        (step,) = torch.autograd.grad(self.energy[2](hidden.tanh()).sum(), hidden)
        return self.head((hidden - 0.3 * step)[:, :6])


def truth(model: nn.Module, name: str) -> np.ndarray[Any, Any]:
    caught: list[Tensor] = []
    module = dict(model.named_modules())[name]
    handle = module.register_forward_pre_hook(lambda _m, args: caught.append(args[0].detach().clone()))
    model.eval()(INPUTS)
    handle.remove()
    return caught[0].numpy()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Energy(switches_on=True),
        lambda: Energy(switches_on=False),
        lambda: Backward(switches_on=False),
        lambda: Adapts(switches_on=False),
    ],
    ids=["switches gradients on", "relies on the caller", "backward", "adapts"],
)
def test_gradients_in_forward_are_taken_and_not_kept(build: Any) -> None:
    model = seeded(build)
    found = profile(model, batches(INPUTS, LABELS, 9), layers="energy.0,head")
    for name in ("energy.0", "head"):
        rows, y = truth(model, name), LABELS.numpy()
        means = np.stack([rows[y == c].mean(axis=0) for c in range(3)])
        measured = found[name].splits["train"].class_means
        assert measured is not None
        assert np.allclose(measured, means, rtol=0, atol=1e-12)
        within = np.mean([((rows[y == c] - means[c]) ** 2).sum(axis=1).mean() for c in range(3)])
        between = ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()
        assert found[name].train["normalized_within"] == pytest.approx(within / (within + between), rel=1e-9)
    assert found.num_samples == {"train": 36}  # no batch is counted twice
    assert all(parameter.grad is None for parameter in model.parameters())


def test_other_networks_run_without_gradients() -> None:
    class Checks(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return super().forward(input)

    profile(seeded(lambda: Checks(nn.Linear(6, 4), nn.Linear(4, 3))), batches(INPUTS, LABELS, 9))
