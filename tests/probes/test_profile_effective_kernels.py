"""The kernel of a convolution with an adapter or gains, found by asking it, or said to be none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import batches, draw, seeded
from test_profile_effective_weights import LABELS, MAPS, alignment, stable_rank
from torch import Tensor, nn

from collapselab.probes import profile


class LowRankConv(nn.Module):
    """An adapter written by hand, of a convolution with a stride and a dilation."""

    def __init__(self) -> None:
        super().__init__()
        form: Any = {"stride": 2, "dilation": (1, 2), "padding": 1, "groups": 1}
        self.base_layer, self.down, self.up = (
            nn.Conv2d(4, 5, 3, **form),
            nn.Conv2d(4, 2, 3, **form),
            nn.Conv2d(2, 5, 1),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.base_layer(input) + 2 * self.up(self.down(input))

    def kernel(self) -> Tensor:
        return self.base_layer.weight + 2 * torch.einsum(
            "or,rihw->oihw", self.up.weight[:, :, 0, 0], self.down.weight
        )


class Gain(nn.Conv2d):
    """A gain for every output channel, another for every input channel, padded around the corner."""

    def __init__(self) -> None:
        super().__init__(4, 6, 3, padding=1, groups=2, padding_mode="circular")
        self.outward, self.inward = (
            nn.Parameter(torch.linspace(0.1, 3, 6)),
            nn.Parameter(torch.linspace(2, 0.2, 4)),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.outward[:, None, None] * super().forward(input * self.inward[:, None, None])

    def kernel(self) -> Tensor:
        dense = torch.zeros(6, 4, 3, 3, dtype=self.weight.dtype)
        dense[:3, :2], dense[3:, 2:] = self.weight[:3], self.weight[3:]
        return self.outward[:, None, None, None] * dense * self.inward[:, None, None]


@pytest.mark.parametrize("build", [LowRankConv, Gain])
@pytest.mark.parametrize("size", [6, 2])
def test_a_convolution_with_an_adapter_or_gains_is_measured_by_its_whole_kernel(
    build: Any, size: int
) -> None:
    """Also on maps that are smaller than the kernel."""
    model = seeded(lambda: nn.Sequential(build(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    maps = draw(4, size, size + 1, labels=LABELS)
    found = profile(model, batches(maps, LABELS, 18), layers=["0"], reduce="gap")["0"]
    matrix = model[0].kernel().detach().movedim(1, -1).flatten(0, -2).numpy()
    assert found.train["alignment"] == pytest.approx(
        alignment(maps.numpy().mean(axis=(2, 3)), matrix), rel=1e-9
    )
    assert found.train["weight_stable_rank"] == pytest.approx(stable_rank(matrix), rel=1e-9)
    assert found.weight_singular_values == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=1e-9)


def test_an_adapter_of_peft_at_a_convolution_is_measured_with_its_merged_kernel() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["0"], r=2, lora_alpha=6, init_lora_weights=False)
    net = nn.Sequential
    model = seeded(
        lambda: peft.get_peft_model(net(nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), config)
    )
    name = "base_model.model.0"
    found = profile(model, batches(MAPS, LABELS, 18), layers=name, reduce="gap")[name]
    kernel = model.eval().merge_and_unload()[0].weight.detach()
    matrix = kernel.movedim(1, -1).flatten(0, -2).numpy()
    assert found.weight_singular_values == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=1e-9)
    assert found.train["alignment"] == pytest.approx(
        alignment(MAPS.numpy().mean(axis=(2, 3)), matrix), rel=1e-9
    )


class Switch(LowRankConv):
    """Not linear: the adapter works on positive values only."""

    def forward(self, input: Tensor) -> Tensor:
        return self.base_layer(input) + self.up(self.down(input).relu())


class Position(LowRankConv):
    """Not the same everywhere: the adapter fades along an axis."""

    def forward(self, input: Tensor) -> Tensor:
        adapted = self.up(self.down(input))
        return self.base_layer(input) + adapted * torch.linspace(0, 1, adapted.shape[2])[:, None].to(
            adapted.dtype
        )


@pytest.mark.parametrize("build", [Switch, Position])
def test_a_convolution_that_has_no_kernel_has_no_metrics_of_one_and_says_so(build: Any) -> None:
    model = seeded(lambda: nn.Sequential(build(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)))
    found = profile(model, batches(MAPS, LABELS, 18), layers=["0"], reduce="gap")
    assert found["0"].train["alignment"] is None
    assert any("it is not one product with a weight" in text for text in found.warnings)


# ---------------------------------------------------------------- layers that change their input


class OfNormed(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.layer_norm(input, input.shape[-1:]))


class OfRectified(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.relu())


class OfRectifiedMaps(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.relu())


class OfUnitVectors(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(input))


class OfUnitMaps(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input / input.flatten(1).norm(dim=1)[:, None, None, None])


CHANGED = {
    "layer norm": (lambda: OfNormed(4, 5), False),
    "rectified": (lambda: OfRectified(4, 5), False),
    "rectified maps": (lambda: OfRectifiedMaps(4, 5, 3, padding=1), False),
    "unit vectors": (lambda: OfUnitVectors(4, 5), True),
    "unit maps": (lambda: OfUnitMaps(4, 5, 3, padding=1), True),
    "unit maps with a circular margin": (lambda: OfUnitMaps(4, 5, 3, padding=1, padding_mode="circular"), True),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CHANGED)
def test_a_weight_is_that_of_the_features_only_if_the_layer_leaves_their_direction(
    kind: str, dtype: torch.dtype
) -> None:
    """Scaling each sample leaves alignment and duality as they are; any other change of the input does not."""
    build, is_read = CHANGED[kind]
    of_maps, features = "maps" in kind, MAPS.to(dtype) if "maps" in kind else MAPS.mean((2, 3)).to(dtype)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)] if of_maps else [nn.Linear(5, 3)]
    model = seeded(lambda: nn.Sequential(build(), *tail), dtype=dtype)
    reduce = "gap" if of_maps else "flatten"
    found = profile(model, batches(features, LABELS, 18), reduce=reduce)
    said = [text for text in found.warnings if "it changes its input before it multiplies it" in text]
    if not is_read:
        assert found["0"].train["alignment"] is None
        assert found["0"].train["weight_stable_rank"] is None
        assert len(said) == 1
        return
    kernel = model[0].weight.detach().double()
    matrix = (kernel.movedim(1, -1) if of_maps else kernel).reshape(-1, 4).numpy()
    rows = (features.double().mean((2, 3)) if of_maps else features.double()).numpy()
    # Means of half precision features are summed in float32.
    assert found["0"].train["alignment"] == pytest.approx(alignment(rows, matrix), rel=1e-4)
    assert found["0"].train["weight_stable_rank"] == pytest.approx(stable_rank(matrix), rel=1e-4)
    assert not said
