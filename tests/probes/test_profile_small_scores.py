"""One logit, embeddings, batches of one sample, and layers with an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals_oracle
from probe_networks import EXACT, batches, draw, measured, read_slowly, seeded
from test_profile_scores import BINARY, INPUTS, LABELS, TRAIN
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from collapselab import InputError
from collapselab.probes import profile

# ---------------------------------------------------------------- one logit, embeddings


@pytest.mark.parametrize("form", ["(n, 1)", "(n,)", "a probability", "a mapping"])
def test_one_logit_is_two_classes(form: str) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(6, 8), nn.Linear(8, 1)

        def forward(self, inputs: Tensor) -> Any:
            logit = self.fc(self.body(inputs).tanh())
            return {
                "(n, 1)": logit, "(n,)": logit.squeeze(), "a probability": logit.sigmoid(), "a mapping": {"logits": logit}
            }[form]  # fmt: skip

    model = seeded(One)
    with torch.no_grad():  # both classes occur, and every probability is above zero
        model.fc.bias -= model.fc(model.body(INPUTS).tanh()).median()
    found = profile(model, batches(INPUTS, BINARY, 59))
    hidden = model.body(INPUTS).tanh().detach()
    decided = (model.fc(hidden).flatten() > 0).long()
    assert 0 < decided.sum() < 60
    wanted = measured((hidden, BINARY, decided))["train"]["ncc_agreement"]
    assert found["fc"].train["ncc_agreement"] == pytest.approx(wanted, abs=1e-15)
    assert found.layers[-1].name == "fc"
    assert found["fc"].train["self_duality"] is None
    assert any("1 outputs for 2 classes" in text for text in found.warnings)


def test_one_value_for_more_than_two_classes_is_no_score() -> None:
    found = profile(seeded(nn.Sequential, nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)), TRAIN)
    assert found["2"].train["ncc_agreement"] is None
    assert any("1 values for 3 classes: an embedding" in text for text in found.warnings)


def test_an_embedding_narrower_than_the_classes_decides_nothing() -> None:
    labels = torch.arange(120) % 30
    inputs = draw(6, labels=labels)
    model = seeded(nn.Sequential, nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5))
    found = profile(model, batches(inputs, labels, 60))
    assert len(found.classes) == 30
    assert all(layer.train["ncc_agreement"] is None for layer in found.layers)
    assert all(layer.train["self_duality"] is None for layer in found.layers)
    assert any(
        "5 values for 30 classes: an embedding, and no class scores" in text for text in found.warnings
    )


LATER = {
    "from one": (3, LABELS + 1, "go from 1 to 3: ncc_agreement is undefined; subtract 1 from the labels"),
    "from seven": (3, LABELS + 7, "go from 7 to 9: ncc_agreement is undefined; subtract 7 from the labels"),
    "one logit": (1, BINARY + 1, "has two classes, but labels go from 1 to 2: ncc_agreement is undefined; subtract 1"),
    "with gaps": (3, 2 * LABELS, "go from 0 to 4: ncc_agreement is undefined; number the classes 0 … 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LATER)
@pytest.mark.parametrize("is_known", [True, False])
def test_labels_that_are_not_those_of_the_scores_are_said_and_never_shifted(
    kind: str, is_known: bool
) -> None:
    width, labels, says = LATER[kind]
    model = seeded(nn.Sequential, nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, width))
    loader = batches(INPUTS, labels, 20)
    if is_known:
        loader = DataLoader(TensorDataset(INPUTS, labels), 20)
    elif kind == "with gaps":
        says = "3 values for 5 classes: an embedding"  # other labels may follow
    found = profile(model, loader)
    assert set(found.classes) == set(labels.tolist())
    assert found["2"].train["ncc_agreement"] is None
    assert any(says in text for text in found.warnings)
    assert_equals_oracle(found["2"], model[:2](INPUTS), labels.unique(return_inverse=True)[1])


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (2 * BINARY - 1, "label -1 is negative; number the classes from 0, or give ignore_index=-1"),
        (LABELS.sort().values + 1, "label 3 is outside the 3 outputs of the model .*; number the classes from 0"),
    ],
)  # fmt: skip
def test_labels_outside_the_scores_are_refused_with_the_remedy(labels: Tensor, says: str) -> None:
    model = seeded(nn.Sequential, nn.Linear(6, 3))
    with pytest.raises(InputError, match=says) as caught:
        profile(model, batches(INPUTS, labels, 20))
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("width", [4, 9, 64])
def test_loaders_of_some_classes_with_some_samples_each(width: int) -> None:
    """As metric learning samples them: a batch has 4 of 12 classes. An embedding is no class score at any width."""
    labels = torch.arange(180) % 12
    inputs, model = (
        draw(6, labels=labels),
        seeded(nn.Sequential, nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, width)),
    )
    order = torch.cat([torch.where(labels // 4 == part)[0].view(5, 12) for part in (2, 1, 0)])
    loader = [(inputs[rows], labels[rows]) for rows in order]
    found = profile(model, loader, class_counts=[15] * 12)
    assert_equals_oracle(found["2"], model[:2](inputs), labels)
    if width < 12:
        assert any(f"{width} values for 12 classes: an embedding" in text for text in found.warnings)
    else:  # as scores of a network for more classes would be
        assert any("give scores=False if they are no class scores" in text for text in found.warnings)
    if width == 4:  # at first only labels below the width
        with pytest.raises(InputError, match=r"outside the 4 outputs.*scores=False if the outputs are no"):
            profile(model, loader[::-1])
        found = profile(model, loader[::-1], scores=False)
        assert found["2"].train["ncc_agreement"] is None


# ---------------------------------------------------------------- a last or first batch of one


@pytest.mark.parametrize("sizes", [[20, 20, 19, 1], [1, 20, 20, 19], [1] * 60])
@pytest.mark.parametrize("squeezed", ["end", "middle"])
def test_a_batch_of_one_that_the_model_squeezes(sizes: list[int], squeezed: str) -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(1, 5, 6), nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.conv(inputs[:, None]).tanh()
            if squeezed == "middle":
                return self.fc(hidden.squeeze())
            return self.fc(hidden.squeeze(2)).squeeze()

    model = seeded(Squeezing)
    train = list(zip(INPUTS.split(sizes), LABELS.split(sizes), strict=True))
    found = profile(model, train)
    wanted = profile(model, TRAIN)
    assert found.warnings == wanted.warnings
    for layer in wanted.layers:
        assert found[layer.name].shape == layer.shape
        for name in ("normalized_within", "ncc_agreement", "self_duality", "vci"):
            value = layer.train[name]
            assert found[layer.name].train[name] == (
                None if value is None else pytest.approx(value, rel=1e-9)
            )


# ---------------------------------------------------------------- layers with an adapter


class Adapted(nn.Module):
    """As `peft` writes it: the layer and what is added to it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, outputs, bias=False)})

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base_layer(inputs) + self.lora_B["default"](self.lora_A["default"](inputs))


def test_an_adapted_layer_is_one_layer() -> None:
    model = seeded(nn.Sequential, Adapted(6, 8), nn.Tanh(), Adapted(8, 3))
    found = profile(model, TRAIN)
    assert [(layer.name, layer.dim) for layer in found.layers] == [("0", 6), ("2", 8)]
    features, scores = read_slowly(model, TRAIN, "2")
    wanted = measured((features, LABELS, scores.argmax(1)))["train"]
    for name in ("normalized_within", "ncc_agreement", "vci"):
        assert found["2"].train[name] == pytest.approx(wanted[name], rel=EXACT)
    assert not any("never ran" in text or "classifier" in text for text in found.warnings)


class Wrapped(nn.Module):
    """An adapter of an adapter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = Adapted(inputs, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base_layer(inputs)


def test_an_adapter_of_an_adapter_is_one_layer_too() -> None:
    model = seeded(nn.Sequential, Wrapped(6, 8), nn.Tanh(), Wrapped(8, 3))
    found, plain = profile(model, TRAIN), profile(model, TRAIN, layers=["0.base_layer", "2.base_layer"])
    assert [(layer.name, layer.dim) for layer in found.layers] == [("0", 6), ("2", 8)]
    assert found["2"].train["normalized_within"] == plain["2.base_layer"].train["normalized_within"]
    assert found["2"].train["self_duality"] is not None


def test_a_classifier_whose_name_is_not_unicode_is_found() -> None:
    model = seeded(nn.Sequential, nn.Linear(6, 8), nn.Tanh())
    model.add_module("head\udc80", seeded(nn.Linear, 8, 3))
    for layers in (None, "head\udc80"):
        found = profile(model, TRAIN, layers=layers)
        assert found.layers[-1].name == "head\\udc80"
        assert found.layers[-1].train["self_duality"] is not None
        assert not found.warnings
