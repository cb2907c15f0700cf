"""Simplex ETFs in the place of collapsed layers: their geometry, what is saved, further training, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import collapselab
from collapselab.errors import InputError
from collapselab.models import MLP, open_model
from collapselab.models.fixed_layers import _telling_features, fix_weight, simplex_etf
from helpers import assert_close

CLASSES, WIDTH, PER_CLASS = 4, 12, 30
Batches = list[tuple[Tensor, Tensor]]


@pytest.mark.parametrize(("outputs", "inputs"), [(2, 2), (4, 4), (4, 9), (64, 64)])
def test_a_simplex_etf_has_unit_rows_at_equal_and_largest_angles(outputs: int, inputs: int) -> None:
    frame = simplex_etf(outputs, inputs).numpy()
    cosines = np.where(np.eye(outputs, dtype=bool), 1.0, -1 / (outputs - 1))
    assert_close(frame @ frame.T, cosines, rel=1e-14, why="float64")
    assert_close(frame.sum(0), np.zeros(inputs), rel=1e-14, scale=1.0, why="float64")
    assert np.linalg.matrix_rank(frame) == outputs - 1
    assert not frame[:, outputs:].any(), "only the first inputs are read"


@pytest.mark.parametrize("kind", ["identity", "orthogonal"])
def test_controls_keep_lengths(kind: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    fix_weight(layer, kind)  # pyright: ignore[reportArgumentType]
    assert_close(layer.weight @ layer.weight.T, np.eye(4), rel=1e-6, why="float32 orthonormal rows")
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (False, True)


def batches(noise: float = 0.6) -> Batches:
    torch.manual_seed(1)
    labels = torch.arange(CLASSES).repeat(PER_CLASS)
    inputs = 3 * torch.eye(CLASSES, WIDTH)[labels] + noise * torch.randn(len(labels), WIDTH)
    return list(zip(inputs.split(20), labels.split(20), strict=True))


def train(model: nn.Module, data: Batches, rate: float) -> float:
    """Return the train accuracy after 40 epochs with mean squared error."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-3)
    for _ in range(40):
        for inputs, labels in data:
            optimizer.zero_grad()
            nn.functional.mse_loss(
                model.train()(inputs), nn.functional.one_hot(labels, CLASSES).float()
            ).backward()
            optimizer.step()
    model.eval()
    return float(torch.cat([model(inputs).argmax(1) == labels for inputs, labels in data]).double().mean())


def trained_mlp() -> MLP:
    torch.manual_seed(0)
    model = MLP(WIDTH, CLASSES, width=WIDTH, depth=3)
    assert train(model, batches(), 0.1) == 1
    return model


def _assert_etfs(fixed: collapselab.FixedNetwork) -> None:
    """Hidden ETFs are canonical; the classifier's reads one feature per class."""
    for name in fixed.layers:
        weight = fixed.model.get_parameter(f"{name}.weight")
        read = weight[:, weight.abs().sum(0) > 0]
        cosines = np.where(np.eye(len(weight), dtype=bool), 1.0, -1 / (len(weight) - 1))
        assert read.shape == (len(weight), len(weight))
        assert_close(read @ read.T, cosines, rel=1e-6, why="float32")
        if name != fixed.layers[-1]:
            assert_close(weight, simplex_etf(*weight.shape), rel=1e-6, why="float32")
        assert not weight.requires_grad


def test_the_classifier_reads_the_features_that_tell_classes_apart() -> None:
    """Feature 5 is large for class 0 alone, 2 for class 1, 7 for class 2; scale and offset of a feature do not matter."""
    means = torch.zeros(3, 9, dtype=torch.float64)
    means[0, 5], means[1, 2], means[2, 7] = 1.0, 100.0, 0.01
    means[:, 3] = torch.tensor([1000.0, 1000.0, 0.0])  # large, but for two classes
    assert _telling_features(means + 4).tolist() == [5, 2, 7]


def test_collapsed_layers_become_etfs_and_the_network_trains_on() -> None:
    data, model = batches(), trained_mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile = collapselab.profile(model, data)
    first = profile.first_collapsed_layer
    names = [layer.name for layer in profile.layers]
    fixed = collapselab.fix_collapsed_layers(model, profile)
    assert fixed.layers == tuple(names[names.index(str(first)) :])
    assert 2 <= len(fixed.layers) <= 3, "neither all layers nor only the classifier"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "a copy"
    _assert_etfs(fixed)
    trainable = sum(one.numel() for one in fixed.model.parameters() if one.requires_grad)
    assert (
        fixed.num_saved
        == fixed.num_parameters - trainable
        == WIDTH**2 * (len(fixed.layers) - 1) + CLASSES * WIDTH
    )
    assert f"{fixed.num_saved:,} of {fixed.num_parameters:,} parameters" in str(fixed)
    assert train(fixed.model, data, 0.02) == 1
    _assert_etfs(fixed)  # neither training nor weight decay changed them
    again = collapselab.profile(fixed.model, data)
    assert [layer.name for layer in again.layers] == names


def _no_layer(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    return model, replace(profile, first_collapsed_layer=None)


def _other_model(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    return nn.Sequential(nn.Linear(3, 3)), profile


def _pixels(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    model.layers[0] = nn.Linear(7, WIDTH)
    return model, replace(profile, first_collapsed_layer="layers.0")


def _shared(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    model.layers[2].weight = model.layers[1].weight
    return model, replace(profile, first_collapsed_layer="layers.2")


def _convolution(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    model.layers[2] = nn.Conv2d(3, 3, 3)
    return model, replace(profile, first_collapsed_layer="layers.2")


def _parametrized(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    parametrizations.weight_norm(model.layers[2])
    return model, replace(profile, first_collapsed_layer="layers.2")


def _more_outputs(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    model.layers[3] = nn.Linear(WIDTH, CLASSES + 1)
    return model, replace(profile, first_collapsed_layer="layers.3")


def _narrow(model: MLP, profile: collapselab.Profile) -> tuple[nn.Module, collapselab.Profile]:
    model.layers[3] = nn.Linear(CLASSES - 1, CLASSES)
    return model, replace(profile, first_collapsed_layer="layers.3")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            _no_layer,
            "no layer is collapsed: the within-class share of the variance at the last one, layers.3, is",
        ),
        (_other_model, "the model has no layer 'layers."),
        (_pixels, "layers.0: collapsed, but cannot be a simplex ETF: it maps 7 features to 12"),
        (_shared, "layers.2: its weight is shared with another layer"),
        (_convolution, "layers.2: collapsed, but cannot be a simplex ETF: it is a Conv2d"),
        (_parametrized, "layers.2: collapsed, but cannot be a simplex ETF: it"),
        (_more_outputs, "layers.3: collapsed, but cannot be a simplex ETF: it has 5 outputs for 4 classes"),
        (_narrow, "layers.3: collapsed, but cannot be a simplex ETF: it maps 3 features to 4 classes"),
    ],
)
def test_networks_that_cannot_be_fixed_are_refused_in_one_line(
    change: Callable[[MLP, collapselab.Profile], tuple[nn.Module, collapselab.Profile]], reason: str
) -> None:
    torch.manual_seed(0)
    model = MLP(WIDTH, CLASSES, width=WIDTH, depth=3)
    profile = collapselab.profile(model, batches(noise=0.01), epsilon=0.9)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        collapselab.fix_collapsed_layers(*change(model, profile))
    assert reason in str(caught.value)


# ---------------------------------------------------------------- option of the MLP


def test_fixed_layers_of_the_mlp_leave_the_initial_weights_of_others_as_they_are() -> None:
    def states(**options: object) -> dict[str, Tensor]:
        sizes = {"width": 8, "depth": 3}
        return open_model(
            "mlp", num_classes=3, input_shape=(5,), seed=4, options=sizes | options
        ).state_dict()

    free, fixed = (
        states(),
        {kind: states(trained=2, fixed=kind) for kind in ("etf", "identity", "orthogonal")},
    )
    for kind, state in fixed.items():
        changed = {name for name, value in state.items() if not torch.equal(value, free[name])}
        assert changed == {"layers.2.weight", "layers.3.weight"}, kind
    assert torch.equal(
        fixed["orthogonal"]["layers.2.weight"], states(trained=2, fixed="orthogonal")["layers.2.weight"]
    )
    assert states(trained=4).keys() == free.keys()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"trained": 0}, "trained 0: give a whole number"), ({"fixed": "simplex"}, "give etf, identity or orthogonal"),
     ({"width": 2, "trained": 1}, "3 classes, but fixed layers of 2 units")],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_model("mlp", num_classes=3, input_shape=(5,), options={"width": 8, "depth": 3} | options)
