"""Forward passes as people write them: what they return, which modules they call, how often and with what."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from by_hand import flat_profile
from probe_networks import (
    OF_WEIGHT,
    assert_equals_measure,
    batches,
    draw,
    measured,
    read_slowly,
    seeded,
    uneven,
)
from torch import Tensor, nn

from collapselab.probes import Profile

LABELS = uneven(30, 30, 30)
INPUTS = draw(6, labels=LABELS)
TRAIN = batches(INPUTS, LABELS, 25)


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(6, 8), nn.Linear(8, outputs)

    def forward(self, inputs: Tensor) -> Any:
        return self.fc(self.hidden(inputs).relu())


def check(found: Profile, model: nn.Module, train: Any = TRAIN, skip: tuple[str, ...] = ()) -> None:
    """Every layer's numbers without weight against `measure`."""
    for layer in found.layers:
        name, _, call = layer.name.partition("#")
        features, scores = read_slowly(model, train, name, call=int(call or 1))
        decided = scores.argmax(1) if scores.shape[1] == 3 else LABELS
        wanted = measured((features.flatten(1), LABELS, decided))
        assert_equals_measure(layer, wanted, skip=[*sorted(OF_WEIGHT), *skip])


# ---------------------------------------------------------------- what a model returns

WRAPPED: dict[str, Any] = {
    "a dict": lambda scores: {"features": scores[:, :1, None], "logits": scores},
    "a dict with another key": lambda scores: {"loss": scores.sum(), "out": scores},
    "a tuple": lambda scores: (scores.sum(), scores),
    "a list": lambda scores: [scores, scores[:, :2]],
    "an object with logits": lambda scores: SimpleNamespace(logits=scores),
    "a tuple in a tuple": lambda scores: (None, (scores,)),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_class_scores_are_found_in(form: str) -> None:
    class Wrapped(Net):
        def forward(self, inputs: Tensor) -> Any:
            return WRAPPED[form](super().forward(inputs))

    found, plain = flat_profile(seeded(Wrapped), TRAIN), flat_profile(seeded(Net), TRAIN)
    for layer in plain.layers:
        assert found[layer.name].train == layer.train
    assert found["fc"].train["ncc_agreement"] is not None
    assert found["fc"].train["self_duality"] is not None


class Opaque:
    """An output of a class of the user's own."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


@pytest.mark.parametrize("is_opaque", [False, True])
@pytest.mark.parametrize("size", [1, 25])
def test_a_model_of_one_batch_size_whatever_it_returns(size: int, is_opaque: bool) -> None:
    class OfOneSize(Net):
        def forward(self, inputs: Tensor) -> Any:
            if len(inputs) != size:
                raise RuntimeError("another size")
            scores = super().forward(inputs)
            return Opaque(scores) if is_opaque else scores

    train = batches(INPUTS[:75], LABELS[:75], size)
    found, plain = flat_profile(seeded(OfOneSize), train), flat_profile(seeded(Net), train)
    assert [layer.name for layer in found.layers] == ["hidden", "fc"]
    for layer in plain.layers:
        assert found[layer.name].train["normalized_within"] == pytest.approx(
            layer.train["normalized_within"], rel=1e-9
        )
        agreement = None if is_opaque else layer.train["ncc_agreement"]
        assert found[layer.name].train["ncc_agreement"] == agreement


def test_a_model_without_class_scores_has_no_agreement() -> None:
    class Silent(Net):
        def forward(self, inputs: Tensor) -> None:
            self.fc(self.hidden(inputs).relu())

    found = flat_profile(seeded(Silent), TRAIN)
    for layer in found.layers:
        assert layer.train["ncc_agreement"] is None
        assert layer.train["ncc_mismatch"] is None
        assert layer.train["ncc_accuracy"] is not None
    assert any("returns no class scores" in text for text in found.warnings)


def test_more_outputs_than_classes_leave_self_duality_undefined() -> None:
    model = seeded(Net, 10)
    found = flat_profile(model, TRAIN)
    assert found["fc"].train["self_duality"] is None
    assert any("10 outputs for 3 classes" in text for text in found.warnings)
    check(found, model, skip=("ncc_agreement", "ncc_mismatch"))


# ---------------------------------------------------------------- which modules are called, and how


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


# ---------------------------------------------------------------- attention


def test_a_transformer_encoder_shows_the_layers_that_it_calls() -> None:
    """Its fast path would call none of them, and attention reads its own projection without calling it."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.fc = nn.Linear(6, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.fc(self.encoder(tokens)[:, 0])

    model, train = seeded(Encoder).train(), batches(draw(3, 6, labels=LABELS), LABELS, 25)
    found = flat_profile(model, train)
    names = [f"encoder.layers.{i}.linear{j}" for i in range(2) for j in (1, 2)]
    assert [layer.name for layer in found.layers] == [*names, "fc"]
    assert any("out_proj" in text and "never ran" in text for text in found.warnings)
    check(found, model, train)


# ---------------------------------------------------------------- dtypes, memory, modes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_models_of_low_precision(dtype: torch.dtype) -> None:
    model, train = seeded(Net, dtype=dtype), [(x.to(dtype), y) for x, y in TRAIN]
    found = flat_profile(model, train)
    # Features are the same numbers to both; up to 256 of them are summed in float64.
    for layer in found.layers:
        features, scores = read_slowly(model, train, layer.name)
        wanted = measured((features.double(), LABELS, scores.argmax(1)))
        assert_equals_measure(layer, wanted, skip=sorted(OF_WEIGHT))
    assert found["fc"].train["self_duality"] is not None


def test_memory_format_does_not_matter() -> None:
    model = seeded(nn.Sequential, nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    inputs = draw(3, 3, 3, labels=LABELS)
    plain = flat_profile(model, batches(inputs, LABELS, 25))
    last = model.to(memory_format=torch.channels_last)
    found = flat_profile(
        last, [(x.to(memory_format=torch.channels_last), y) for x, y in batches(inputs, LABELS, 25)]
    )
    for layer in plain.layers:
        for name, value in layer.train.items():  # other kernels add in another order
            wanted = None if value is None else pytest.approx(value, rel=1e-9, abs=1e-9)
            assert found[layer.name].train[name] == wanted, name


def test_dropout_and_batch_norm_are_in_evaluation_mode_and_back_in_training_mode() -> None:
    model = seeded(nn.Sequential, nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model.train()
    model[1].eval()  # frozen, in a model that trains
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    found = flat_profile(model, TRAIN)
    assert [part.training for part in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    check(found, model)


def test_a_model_that_is_a_single_layer() -> None:
    model = seeded(nn.Linear, 6, 3)
    found = flat_profile(model, TRAIN)
    assert len(found.layers) == 1
    wanted = measured((INPUTS, LABELS, model(INPUTS).argmax(1)), weight=model.weight.detach())
    assert_equals_measure(found.layers[0], wanted)


class Branches(Net):
    """One of two branches, chosen by a value, as `torch.cond` does once it has traced them."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden(inputs)
        branch = torch.ops.higher_order.cond(hidden.sum() > -1e9, torch.relu, torch.tanh, (hidden,))
        return self.fc(branch)


def test_a_model_with_branches_is_followed() -> None:
    found, plain = flat_profile(seeded(Branches), TRAIN), flat_profile(seeded(Net), TRAIN)
    assert found["fc"].train["self_duality"] == plain["fc"].train["self_duality"]
    assert found.warnings == plain.warnings


@pytest.mark.parametrize("is_inference", [False, True])
def test_a_product_after_the_last_layer_is_seen_in_inference_mode_too(is_inference: bool) -> None:
    """Even where it changes nothing."""

    class Product(Net):
        def forward(self, inputs: Tensor) -> Tensor:
            with torch.inference_mode(is_inference):
                return super().forward(inputs).matmul(torch.eye(3, dtype=inputs.dtype))

    found = flat_profile(seeded(Product), TRAIN)
    assert found["fc"].train["self_duality"] is None
    assert any("computed by an operation that is no layer" in text for text in found.warnings)
