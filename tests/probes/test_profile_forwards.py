"""Forward passes as people write them: what they return, attention, dtypes, memory and modes."""

from __future__ import annotations

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
