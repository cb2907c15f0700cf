"""NC3 at every layer: the weight as the features meet it, against principal angles found by scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from probe_networks import TinyConvNet, batches, draw, measured, read_slowly, seeded, uneven
from torch import Tensor, nn

from collapselab.models import MLP
from collapselab.probes import profile
from collapselab.probes.weights import weight_matrix
from oracles import Oracle

LABELS = uneven(30, 40, 25)
WHY = 1e-9  # float64, well separated singular values


def kernel_by_position(module: nn.Module) -> np.ndarray:
    """(rows, in): what reads the input channels, entry by entry of the kernel."""
    weight = module.weight.detach().double().numpy()  # pyright: ignore[reportCallIssue] of a convolution or linear layer
    if isinstance(module, nn.Linear):
        return weight
    assert isinstance(module, nn.modules.conv._ConvNd)
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    per_group_in = module.in_channels // module.groups
    per_group_out = module.out_channels // module.groups
    rows = []
    for out in range(module.out_channels):
        group = out // per_group_out
        for position in np.ndindex(*weight.shape[2:]):
            row = np.zeros(module.in_channels)
            for i in range(per_group_in):
                channel = group * per_group_in + i
                at = (channel, out % per_group_out) if transposed else (out, i)
                row[channel] = weight[(*at, *position)]
            rows.append(row)
    return np.stack(rows)


def alignment_by_scipy(features: Tensor, labels: Tensor, kernel: np.ndarray) -> tuple[float, int]:
    """Mean cosine of the principal angles along the axis of channels, and how many angles there are.

    Args:
        features: (n, channels, …) as maps are.
        kernel: (rows, channels).
    """
    classes = labels.unique()
    means = torch.stack([features[labels == c].mean(0) for c in classes]).double().numpy()
    centred = means - means.mean(0)
    along = np.concatenate([np.moveaxis(mean, 0, -1).reshape(-1, kernel.shape[1]) for mean in centred])
    sides = []
    for matrix in (along, kernel):
        _, s, right = np.linalg.svd(matrix, full_matrices=False)
        sides.append(right[s > 1e-10 * s[0]])
    k = min(len(classes) - 1, *(len(side) for side in sides))
    angles = scipy.linalg.subspace_angles(sides[0][:k].T, sides[1][:k].T)
    return float(np.cos(angles).mean()), k


@pytest.mark.parametrize("reduce", ["flatten", "gap"])
def test_alignment_of_convolutions_is_along_the_input_channels(reduce: str) -> None:
    model = seeded(TinyConvNet)
    train = batches(draw(3, 6, 6, labels=LABELS), LABELS, 40)
    found = profile(model, train, reduce=reduce, class_counts=[30, 40, 25])
    for layer in found.layers[:-1]:
        features, _ = read_slowly(model, train, layer.name)
        if reduce == "gap":
            features = features.mean((2, 3), keepdim=True)
        module = dict(model.named_modules())[layer.name]
        kernel = kernel_by_position(module)
        wanted, k = alignment_by_scipy(features, LABELS, kernel)
        assert k == 2
        assert layer.train["alignment"] == pytest.approx(wanted, rel=WHY)
        assert 0 < wanted < 1
        singular = np.linalg.svd(kernel, compute_uv=False)
        assert layer.train["weight_stable_rank"] == pytest.approx(
            (singular**2).sum() / singular[0] ** 2, rel=WHY
        )
        assert layer.weight_singular_values == pytest.approx(singular, rel=WHY)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(6, 4, 3),
        nn.Conv2d(6, 4, (2, 3)),
        nn.Conv3d(6, 4, 2),
        nn.Conv2d(6, 9, 2, groups=3),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.ConvTranspose1d(6, 4, 3),
        nn.ConvTranspose2d(6, 9, 2, groups=3),
        nn.ConvTranspose2d(6, 6, 2, groups=6),
        nn.Linear(6, 4),
    ],
    ids=lambda module: f"{module}".partition(", stride")[0],
)
def test_the_weight_matrix_has_the_kernels_spectrum_along_the_input_channels(module: nn.Module) -> None:
    """Its Gram matrix over channels says all that alignment and ranks depend on."""
    matrix = weight_matrix(module)
    assert matrix is not None
    wanted = kernel_by_position(module)
    assert matrix.shape == wanted.shape
    gram = matrix.double().numpy().T @ matrix.double().numpy()
    assert np.allclose(gram, wanted.T @ wanted, rtol=0, atol=1e-14)  # float64 sums of at most 36 products


def test_the_transposed_linear_layer_of_gpt2_is_read_as_a_linear_layer() -> None:
    transformers = pytest.importorskip("transformers")
    layer = seeded(transformers.pytorch_utils.Conv1D, 7, 5)
    inputs = draw(5, labels=LABELS)
    model = nn.Sequential(layer, nn.Linear(7, 3).double())
    found = profile(model, batches(inputs, LABELS, 50), class_counts=[30, 40, 25])
    assert [point.name for point in found.layers] == ["0", "1"]
    oracle = Oracle(inputs.numpy(), LABELS.numpy(), weight=layer.weight.detach().T.numpy())
    for name in ("alignment", "weight_stable_rank", "within_in_weight_space", "between_off_weight_space"):
        assert found["0"].train[name] == pytest.approx(getattr(oracle, name)(), rel=WHY, abs=1e-12), name


@pytest.mark.parametrize("weighting", ["balanced", "sample"])
def test_every_weight_metric_of_hidden_linear_layers_equals_its_definition(weighting: str) -> None:
    model = seeded(MLP, 6, 3, width=12, depth=2)
    train = batches(draw(6, labels=LABELS), LABELS, 32)
    found = profile(model, train, class_counts=[30, 40, 25], weighting=weighting)  # pyright: ignore[reportArgumentType]
    for layer in found.layers:
        features, _ = read_slowly(model, train, layer.name)
        weight = dict(model.named_modules())[layer.name].weight.detach().numpy()
        oracle = Oracle(features.numpy(), LABELS.numpy(), weighting, weight)
        scale = oracle.total_trace()
        for name in (
            "alignment", "weight_stable_rank", "weight_singular_spread", "within_in_weight_space",
            "within_off_weight_space", "between_in_weight_space", "between_off_weight_space",
        ):  # fmt: skip
            wanted = getattr(oracle, name)()
            assert layer.train[name] == pytest.approx(wanted, rel=WHY, abs=WHY * scale), (layer.name, name)


def test_alignment_of_a_sequence_is_along_its_last_axis() -> None:
    model = seeded(nn.Sequential, nn.Linear(6, 5), nn.Flatten(), nn.Linear(20, 3))
    train = batches(draw(4, 6, labels=LABELS), LABELS, 32)
    found = profile(model, train, class_counts=[30, 40, 25], reduce="flatten")
    features, _ = read_slowly(model, train, "0")
    wanted, _ = alignment_by_scipy(features.transpose(1, 2), LABELS, kernel_by_position(model[0]))
    assert found["0"].train["alignment"] == pytest.approx(wanted, rel=WHY)
    assert found["0"].train["within_in_weight_space"] is None
    assert any("reads channels at several positions" in text for text in found["0"].splits["train"].warnings)


# ---------------------------------------------------------------- which layer is the classifier


def test_only_the_classifier_has_self_duality() -> None:
    """Hidden layers as wide as there are classes are no classifiers."""
    model = seeded(MLP, 3, 3, width=3, depth=2)
    train = batches(draw(3, labels=LABELS), LABELS, 32)
    found = profile(model, train, class_counts=[30, 40, 25])
    duality = [layer.train["self_duality"] for layer in found.layers]
    assert duality[:2] == [None, None]
    features, scores = read_slowly(model, train, "layers.2")
    wanted = measured((features, LABELS, scores.argmax(1)), weight=model.layers[2].weight.detach())
    assert duality[2] == pytest.approx(wanted["train"]["self_duality"], rel=WHY)


def test_a_hidden_layer_measured_alone_is_no_classifier() -> None:
    model = seeded(MLP, 3, 3, width=3, depth=2)
    train = batches(draw(3, labels=LABELS), LABELS, 32)
    alone = profile(model, train, layers="layers.1", class_counts=[30, 40, 25])
    among_all = profile(model, train, class_counts=[30, 40, 25])
    assert alone["layers.1"].train == among_all["layers.1"].train
    assert alone["layers.1"].train["self_duality"] is None


class TwoHeads(nn.Module):
    """The classifier runs before another head, and its scores come first."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.embed = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(inputs).relu()
        scores = self.fc(hidden)
        return scores, self.embed(hidden)


def test_the_classifier_is_deepest_whatever_runs_after_it() -> None:
    found = profile(seeded(TwoHeads), batches(draw(4, labels=LABELS), LABELS, 32))
    assert [layer.name for layer in found.layers] == ["body", "embed", "fc"]
    assert [layer.train["self_duality"] is None for layer in found.layers] == [True, True, False]


def test_scores_that_went_through_another_operation_come_from_the_last_layer() -> None:
    class Scaled(TwoHeads):
        def forward(self, inputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 30 * torch.tanh(self.fc(self.body(inputs)) / 30)

    found = profile(seeded(Scaled), batches(draw(4, labels=LABELS), LABELS, 32))
    assert [layer.name for layer in found.layers] == ["body", "fc"]
    assert found["fc"].train["self_duality"] is not None
    assert any("embed never ran" in text for text in found.warnings)
