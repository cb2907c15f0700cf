"""Metrics of a weight are those of the matrix that multiplies the features, whatever a layer makes of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from collapselab.probes import profile
from collapselab.probes.products import LayerCall
from collapselab.probes.weights import effective_weight

LABELS = uneven(14, 10, 12)
INPUTS = draw(6, labels=LABELS)
MAPS = draw(4, 6, 6, labels=LABELS)


class EqualisedLinear(nn.Linear):
    """Learning rates are equalised by a factor at run time (Karras et al. 2018)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * (2 / self.in_features) ** 0.5, self.bias)


class ScaledInputs(nn.Linear):
    """Scales its inputs one by one, as activation-aware quantisation does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.linspace(0.1, 4, inputs))

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input * self.scale, self.weight, self.bias)


class MaskedLinear(nn.Linear):
    """Pruned by a mask that is no buffer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.kept = (torch.rand(outputs, inputs) > 0.4).double()

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.kept, self.bias)


class LowRank(nn.Module):
    """An adapter written by hand."""

    def __init__(self, inputs: int, outputs: int, scaling: float = 3.0) -> None:
        super().__init__()
        self.base_layer, self.scaling = nn.Linear(inputs, outputs), scaling
        self.lora_A, self.lora_B = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return self.base_layer(input) + self.scaling * self.lora_B(self.lora_A(input))


class TernaryLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        size = self.weight.abs().mean()
        return F.linear(input, size * torch.round(self.weight / size).clamp(-1, 1), self.bias)


class ByMatmul(nn.Linear):
    """As some attention layers do it, and centred."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.einsum("...i,oi->...o", input, self.weight - self.weight.mean(1, keepdim=True))


def in_place_of(layer: nn.Module) -> nn.Module:
    """A network whose second layer it is, and that reads what is not centred."""
    return nn.Sequential(nn.Linear(6, 6), layer, nn.Tanh(), nn.Linear(5, 3))


def unit_vectors(layer: nn.Module, width: int) -> np.ndarray[Any, Any]:
    """The matrix (out, in) of an affine layer, one input at a time."""
    layer.eval()
    with torch.no_grad():
        origin = layer(torch.zeros(1, width, dtype=torch.float64))
        columns = [layer(unit[None]) - origin for unit in torch.eye(width, dtype=torch.float64)]
    return torch.cat(columns).T.numpy()


def alignment(rows: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any]) -> float:
    """Mean cosine of principal angles between the span of centred class means and the leading right-singular vectors."""
    means = np.stack([rows[LABELS.numpy() == c].mean(axis=0) for c in range(3)])
    right = np.linalg.svd(matrix, full_matrices=False)[2][:2]
    basis = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][:2]
    return float(np.cos(scipy.linalg.subspace_angles(basis.T, right.T)).mean())


def stable_rank(matrix: np.ndarray[Any, Any]) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    return float((values**2).sum() / values[0] ** 2)


LINEAR: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(6, 5),
    "equalised": lambda: EqualisedLinear(6, 5),
    "scaled inputs": lambda: ScaledInputs(6, 5),
    "masked": lambda: MaskedLinear(6, 5),
    "ternary": lambda: TernaryLinear(6, 5),
    "einsum": lambda: ByMatmul(6, 5),
    "adapter": lambda: LowRank(6, 5),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 5)),
    "old weight norm": lambda: torch.nn.utils.weight_norm(nn.Linear(6, 5)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 5)),
    "old spectral norm": lambda: torch.nn.utils.spectral_norm(nn.Linear(6, 5)),
    "pruned": lambda: prune.random_unstructured(nn.Linear(6, 5), "weight", amount=0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("kind", LINEAR)
def test_a_linear_layer_is_measured_by_the_matrix_that_it_is(kind: str) -> None:
    def build() -> nn.Module:
        layer = LINEAR[kind]()
        for name, value in layer.named_parameters():  # a norm that training has moved
            if "weight_g" in name or "original0" in name:
                value.data.copy_(torch.linspace(0.2, 3, value.numel()).view_as(value))
        return in_place_of(layer)

    model = seeded(build)
    found = profile(model, batches(INPUTS, LABELS, 18), layers="1")["1"]
    layer = model[1]
    matrix = unit_vectors(layer, 6)
    with torch.no_grad():
        rows = model[0](INPUTS).numpy()
    assert found.train["alignment"] == pytest.approx(alignment(rows, matrix), rel=1e-9)
    assert found.train["weight_stable_rank"] == pytest.approx(stable_rank(matrix), rel=1e-9)
    assert found.weight_singular_values == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=1e-9)
    assert found.splits["train"].warnings == ()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_adapter_of_peft_is_measured_with_its_merged_weight(dora: bool, dtype: torch.dtype) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["1"], r=2, lora_alpha=6, init_lora_weights=False, use_dora=dora)
    model = seeded(lambda: peft.get_peft_model(in_place_of(nn.Linear(6, 5)), config), dtype=dtype)
    name = "base_model.model.1"
    found = profile(model, batches(INPUTS.to(dtype), LABELS, 18), layers=name)[name]
    model.double().eval()
    merged = model.merge_and_unload()
    rows = merged[0](INPUTS).detach().numpy()
    matrix = merged[1].weight.detach().numpy()
    rel = 1e-9 if dtype == torch.float64 else 1e-2  # eight bits, in features and products
    assert found.train["alignment"] == pytest.approx(alignment(rows, matrix), rel=rel)
    assert found.weight_singular_values == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=rel)


class StandardisedConv(nn.Conv2d):
    """Each filter has mean 0 and variance 1, times a gain."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(input, 0.7 * weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PartialPadding(nn.Conv2d):
    """Padded by hand, on two sides only, with a kernel that is symmetric."""

    def forward(self, input: Tensor) -> Tensor:
        weight = (self.weight + self.weight.flip(2, 3)) / 2
        return F.conv2d(F.pad(input, (2, 0, 2, 0)), weight, self.bias, self.stride)


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "standardised": (
        lambda: StandardisedConv(4, 5, 3),
        lambda m: 0.7 * torch.stack([(w - w.mean()) / w.std() for w in m.weight]),
    ),
    "grouped": (
        lambda: StandardisedConv(4, 6, 3, groups=2),
        lambda m: 0.7 * torch.stack([(w - w.mean()) / w.std() for w in m.weight]),
    ),
    "symmetric": (lambda: PartialPadding(4, 5, 3), lambda m: (m.weight + m.weight.flip(2, 3)) / 2),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 5, 3)),
        lambda m: m.parametrizations.weight.original0 * torch.stack([w / w.norm() for w in m.parametrizations.weight.original1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_is_measured_by_the_kernel_that_it_applies(kind: str) -> None:
    build, kernel_of = CONVOLUTIONS[kind]
    model = seeded(
        lambda: nn.Sequential(build(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3)).double()
    )
    model(MAPS)
    with torch.no_grad():
        model[0].bias.zero_()
        next(p for name, p in model[0].named_parameters() if "weight" in name).mul_(2.5)
    found = profile(model, batches(MAPS, LABELS, 18), layers="0", reduce="gap")["0"]
    plain = nn.Conv2d(4, model[0].out_channels, 3, groups=model[0].groups, dtype=torch.float64)
    plain.weight.data = kernel_of(model[0]).detach()
    plain.bias = None
    # The same function, so the kernel is what multiplies.
    padded = F.pad(MAPS, (2, 0, 2, 0)) if kind == "symmetric" else MAPS
    assert torch.allclose(plain(padded), model[0](MAPS), atol=1e-12)
    dense = torch.block_diag(
        *(k.movedim(1, -1).flatten(0, -2) for k in plain.weight.detach().chunk(plain.groups))
    )
    rows = MAPS.numpy().mean(axis=(2, 3))
    assert found.train["alignment"] == pytest.approx(alignment(rows, dense.numpy()), rel=1e-9)
    assert found.train["weight_stable_rank"] == pytest.approx(stable_rank(dense.numpy()), rel=1e-9)


def test_layers_of_timm_that_standardise_their_kernel_are_read_with_it() -> None:
    layers = pytest.importorskip("timm.layers")
    for build in (layers.StdConv2d, layers.StdConv2dSame, layers.ScaledStdConv2d, layers.ScaledStdConv2dSame):
        model = seeded(
            lambda build=build: nn.Sequential(build(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        )
        with torch.no_grad():
            model[0].weight.mul_(torch.linspace(0.1, 3, 5)[:, None, None, None]).add_(0.3)
            if model[0].bias is not None:
                model[0].bias.zero_()
            impulse = torch.zeros(4, 4, 9, 9, dtype=torch.float64)
            impulse[range(4), range(4), 4, 4] = 1
            answer = model[0].eval()(impulse)  # the kernel, mirrored, around the impulse
        rows = [answer[:, o][:, answer[:, o].abs().sum(0) > 1e-12].numpy().T for o in range(5)]
        dense = np.concatenate(rows)
        assert dense.shape == (45, 4)
        found = profile(model, batches(MAPS, LABELS, 18), layers="0", reduce="gap")["0"]
        assert found.train["weight_stable_rank"] == pytest.approx(stable_rank(dense), rel=1e-6), build
        assert found.train["alignment"] == pytest.approx(
            alignment(MAPS.numpy().mean(axis=(2, 3)), dense), rel=1e-6
        )


class CosineHead(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(input), F.normalize(self.weight))


def test_a_cosine_classifier_is_dual_to_its_normalised_weight() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 5), CosineHead(5, 3)))
    model[1].weight.data *= torch.tensor([[0.1], [1.0], [9.0]])
    found = profile(model, batches(INPUTS, LABELS, 18))["1"]
    rows = model[0](INPUTS).detach().numpy()
    weight = model[1].weight.detach().numpy()
    weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    means = np.stack([rows[LABELS.numpy() == c].mean(axis=0) for c in range(3)])
    means -= means.mean(axis=0)
    wanted = np.linalg.norm(weight / np.linalg.norm(weight) - means / np.linalg.norm(means))
    assert found.train["self_duality"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("head", ["plain", "adapter", "equalised", "weight norm"])
def test_self_duality_is_that_of_the_matrix(head: str) -> None:
    builds: dict[str, Callable[[], nn.Module]] = {
        "plain": lambda: nn.Linear(5, 3),
        "adapter": lambda: LowRank(5, 3),
        "equalised": lambda: EqualisedLinear(5, 3),
        "weight norm": lambda: parametrizations.weight_norm(nn.Linear(5, 3)),
    }
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), builds[head]()))
    merged = nn.Sequential(model[0], model[1], nn.Linear(5, 3).double())
    merged[2].weight.data = torch.as_tensor(unit_vectors(model[2], 5))
    loader = batches(INPUTS, LABELS, 18)
    found, wanted = (profile(network, loader, layers="0,2") for network in (model, merged))
    assert found["2"].train["alignment"] == pytest.approx(wanted["2"].train["alignment"], rel=1e-9)
    if head != "adapter":  # as one layer, see the choice of layers
        assert found["2"].train["self_duality"] == pytest.approx(wanted["2"].train["self_duality"], rel=1e-9)


class Sampled(nn.Linear):
    """A Bayesian layer that draws its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight + 0.1 * torch.randn_like(self.weight), self.bias)


class Generated(nn.Linear):
    """The weight depends on the input."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * (1 + input.mean()), self.bias)


class Experts(nn.Linear):
    """Two matrices, each for a half space."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.other = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, input: Tensor) -> Tensor:
        gate = input[:, :1] > 0
        return torch.where(gate, F.linear(input, self.weight), F.linear(input, self.other))


@pytest.mark.parametrize("build", [Sampled, Generated, Experts])
def test_a_layer_that_is_no_matrix_has_no_metrics_of_one_and_says_so(build: Any) -> None:
    model = seeded(lambda: in_place_of(build(6, 5)))
    found = profile(model, batches(INPUTS, LABELS, 18), layers="1")
    for name in (
        "alignment",
        "alignment_random",
        "weight_stable_rank",
        "weight_singular_spread",
        "self_duality",
    ):
        assert found["1"].train[name] is None
    assert found["1"].weight_singular_values == ()
    assert found["1"].train["normalized_within"] is not None
    (warning,) = [text for text in found.warnings if text.startswith("1:")]
    assert "alignment, self_duality and the spectrum of the weight are undefined" in warning
    assert len(warning) <= 300


def test_autocast_leaves_the_weight_in_full_precision() -> None:
    class Cast(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(input).float()

    model = seeded(lambda: Cast(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), dtype=torch.float32)
    found = profile(model, batches(INPUTS.float(), LABELS, 18))
    for name in ("0", "2"):
        values = np.linalg.svd(model[int(name)].weight.detach().double().numpy(), compute_uv=False)
        assert found[name].weight_singular_values == pytest.approx(values, rel=1e-6)


def test_finding_a_weight_leaves_the_model_as_it_was() -> None:
    model = seeded(lambda: in_place_of(LowRank(6, 5))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile(model, batches(INPUTS, LABELS, 18))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_fake_quantised_layers_are_measured_by_their_rounded_weight() -> None:
    from torch.ao.nn import qat
    from torch.ao.quantization.qconfig import default_qat_qconfig

    def build() -> nn.Module:
        head = qat.Linear(5, 3, qconfig=default_qat_qconfig)
        return nn.Sequential(
            qat.Conv2d(4, 5, 3, qconfig=default_qat_qconfig), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head
        )

    model = seeded(build, dtype=torch.float32)
    model(MAPS.float())  # the observers see a range
    model.apply(torch.ao.quantization.disable_observer)
    found = profile(model, batches(MAPS.float(), LABELS, 18), reduce="gap")
    for name in ("0", "3"):
        layer = model[int(name)]
        rounded = layer.weight_fake_quant(layer.weight).detach()
        assert not torch.equal(rounded, layer.weight)
        matrix = rounded.movedim(1, -1).flatten(0, -2).double().numpy()
        values = np.linalg.svd(matrix, compute_uv=False)
        assert found[name].weight_singular_values == pytest.approx(values, rel=1e-5)


def test_a_weight_whose_memory_is_gone_is_read_from_the_layer() -> None:
    """A sharded layer frees the whole weight as soon as it has run."""
    layer, gathered = nn.Linear(6, 5), torch.randn(5, 6)
    call = LayerCall(layer, None, weights=[("linear", gathered, False)], is_exact=True)
    found, warning = effective_weight(layer, call)
    assert found is not None
    assert torch.equal(found, gathered)
    gathered.untyped_storage().resize_(0)
    found, warning = effective_weight(layer, call)
    assert found is not None
    assert torch.equal(found, layer.weight)
    assert warning is None


def test_a_layer_that_was_not_seen_is_measured_by_its_parameter_only_if_it_is_plain() -> None:
    found, _ = effective_weight(nn.Linear(6, 5), None)
    assert found is not None
    found, warning = effective_weight(EqualisedLinear(6, 5), None)
    assert found is None
    assert warning is not None
    assert effective_weight(nn.ReLU(), None) == (None, None)
