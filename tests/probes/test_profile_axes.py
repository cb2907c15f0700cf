"""Which axis holds samples, and which positions: found whatever the lengths are, so no number depends on batch size.

Every network is compared with features taken out by hand from all samples at once, in float64.
"""

from __future__ import annotations

import pytest
import torch
from by_hand import agrees, assert_equals_oracle, flat_profile, inputs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import draw, seeded, uneven
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from collapselab.errors import InputError
from collapselab.probes.inputs import axes_of_length, leaves, take_samples

STEPS = 6
LABELS = uneven(7, 7, 7)
WHOLE = 21


# ---------------------------------------------------------------- sequences with time first


class Recurrent(nn.Module):
    """Reads (steps, n, 4); its hidden layer reads every step, its classifier the last."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.hidden, self.fc = nn.GRU(4, 5), nn.Linear(5, STEPS), nn.Linear(STEPS, 3)

    def forward(self, steps: Tensor) -> Tensor:
        return self.fc(self.hidden(self.rnn(steps)[0]).tanh()[-1])


class BatchSecond(nn.Module):
    """Attention over (steps, n, 4), without positions: shuffled steps are other steps of the same sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, STEPS, dropout=0.0)
        self.fc = nn.Linear(4, 3)

    def forward(self, steps: Tensor) -> Tensor:
        return self.fc(self.encoder(steps).mean(0))


class PerStep(nn.Module):
    """Steps do not see each other before their mean: slices along the steps agree with the whole too."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(4, 7), nn.Linear(7, 3)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(steps).relu()
        return self.fc(hidden.mean(0)), hidden


TIME_FIRST: dict[str, tuple[type[nn.Module], list[str]]] = {
    "recurrent": (Recurrent, ["hidden"]),
    "batch-second attention": (BatchSecond, ["encoder.linear1", "encoder.linear2"]),
    "steps apart": (PerStep, ["hidden"]),
}
SEQUENCES = draw(STEPS, 4, labels=LABELS).transpose(0, 1).contiguous()


def time_first(size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(SEQUENCES.split(size, 1), LABELS.split(size), strict=True))


@pytest.mark.parametrize("kind", TIME_FIRST)
@given(size=st.sampled_from([1, 2, 4, 5, STEPS, 7, WHOLE]))
@settings(max_examples=7, deadline=None)
def test_sequences_with_time_first_are_arranged_by_samples(kind: str, size: int) -> None:
    build, names = TIME_FIRST[kind]
    model = seeded(build).eval()
    found = flat_profile(model, time_first(size))
    features = inputs_of(model, lambda: model(SEQUENCES))
    assert found.layers[-1].name == "fc"
    assert found["fc"].train["ncc_agreement"] is not None
    agrees(found, "fc", features["fc"], LABELS)
    for name in names:
        assert found[name].shape == (STEPS, features[name].shape[-1])
        agrees(found, name, features[name].transpose(0, 1), LABELS)
    assert not any(text.startswith("layers:") for text in found.warnings if "out_proj" not in text)


def test_the_axis_can_be_said_by_hand() -> None:
    model = seeded(Recurrent)
    wanted = flat_profile(model, time_first(7))
    for axis in (1, {0: 1}):
        found = flat_profile(model, time_first(STEPS), batch_axis=axis)
        for layer in wanted.layers:
            assert found[layer.name].train["vci"] == pytest.approx(layer.train["vci"], rel=1e-9)
    with pytest.raises(InputError, match=r"^batch_axis=0: no input has 7 entries"):
        flat_profile(model, time_first(7), batch_axis=0)
    with pytest.raises(InputError, match=r"^batch_axis='first': give the number of an axis"):
        flat_profile(model, time_first(7), batch_axis="first")  # pyright: ignore[reportArgumentType] on purpose


class FixedSize(nn.Module):
    """Takes batches of 6 only, as models with a state for each sample do."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(4, 5), nn.Linear(5, 3)
        self.state = nn.Parameter(torch.zeros(STEPS, 1, 5), requires_grad=False)

    def forward(self, steps: Tensor) -> Tensor:
        hidden = self.hidden(steps).tanh() + self.state.view(1, -1, 5)
        return self.fc((hidden * torch.arange(1, STEPS + 1)[:, None, None]).mean(0))


def test_a_model_that_takes_one_size_is_given_samples_in_another_order() -> None:
    model = seeded(FixedSize)
    sequences, labels = SEQUENCES[:, :18], LABELS[:18]
    found = flat_profile(model, list(zip(sequences.split(6, 1), labels.split(6), strict=True)))
    assert found["hidden"].shape == (6, 4)
    agrees(found, "hidden", sequences.transpose(0, 1), labels)
    assert not any("assumed" in text for text in found.warnings)


class WithBatchStatistics(nn.Module):
    """No sample is independent of the others, also in evaluation mode: only the shapes tell."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.norm(self.hidden(inputs)))


def test_features_that_depend_on_other_samples_are_arranged_by_shapes() -> None:
    model, inputs = seeded(WithBatchStatistics), draw(4, labels=LABELS)
    found = flat_profile(model, [(inputs, LABELS)])
    features = inputs_of(model, lambda: model(inputs))
    agrees(found, "fc", features["fc"], LABELS)
    assert not any("assumed" in text for text in found.warnings)


class Sorting(nn.Module):
    """Works on the samples in the order of their norms, and puts them back in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.inner, self.fc = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        order = inputs.norm(dim=1).argsort()
        inner = self.inner(self.hidden(inputs)[order])
        return self.fc(inner[order.argsort()])


def test_a_layer_that_reads_samples_in_another_order_is_left_out() -> None:
    model, inputs = seeded(Sorting), draw(4, labels=LABELS)
    found = flat_profile(model, list(zip(inputs.split(10), LABELS.split(10), strict=True)))
    assert [layer.name for layer in found.layers] == ["hidden", "fc"]
    assert any(text.startswith("layers: inner reads") and "another order" in text for text in found.warnings)
    with pytest.raises(InputError, match=r"^layers: inner reads .*another order"):
        flat_profile(model, [(inputs, LABELS)], layers="inner")


class Opaque:
    """Inputs that cannot be divided, such as a graph."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs


class ReadsOpaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, given: Opaque) -> Tensor:
        return self.fc(self.hidden(given.inputs).tanh().mean(0))


@pytest.mark.parametrize(("sizes", "is_known"), [([6, 7, 8], True), ([7, 7, 7], False)])
def test_inputs_that_cannot_be_divided_are_compared_with_the_next_batch(
    sizes: list[int], is_known: bool
) -> None:
    model = seeded(ReadsOpaque)
    parts = zip(SEQUENCES.split(sizes, 1), LABELS.split(sizes), strict=True)
    found = flat_profile(model, [(Opaque(x), y) for x, y in parts])
    features = inputs_of(model, lambda: model(Opaque(SEQUENCES)))
    agrees(found, "fc", features["fc"], LABELS)
    agrees(found, "hidden", SEQUENCES.transpose(0, 1), LABELS)
    assert any("axes of samples are assumed" in text for text in found.warnings) != is_known


def test_texts_and_packed_sequences_are_divided_by_samples() -> None:
    sequences = [torch.randn(2 + number % 3, 4) for number in range(5)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    inputs = {"texts": ["a", "b", "c", "d", "e"], "packed": packed, "size": 5}
    assert [(path, axes_of_length(leaf, 5)) for path, leaf in leaves(inputs)] == [
        (("texts",), [0]),
        (("packed",), [0]),
    ]
    index = torch.tensor([3, 1, 1])
    taken = take_samples(inputs, {("texts",): 0, ("packed",): 0}, index)
    assert (taken["texts"], taken["size"]) == (["d", "b", "b"], 5)
    padded, lengths = pad_packed_sequence(taken["packed"])
    assert lengths.tolist() == [2, 3, 3]
    for place, number in enumerate(index):
        assert torch.equal(padded[: lengths[place], place], sequences[number])


# ---------------------------------------------------------------- an image and prompts


class Matching(nn.Module):
    """Scores of images against prompts, as in CLIP; the prompts are no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.image_head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.text, self.text_head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, prompts: Tensor, images: Tensor) -> dict[str, Tensor]:
        image = nn.functional.normalize(self.image_head(self.image(images).relu()))
        text = nn.functional.normalize(self.text_head(self.text(prompts).relu()))
        return {"image_embeds": image, "text_embeds": text, "logits_per_image": image @ text.T}


PROMPTS = torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
IMAGES = draw(5, labels=LABELS)


@pytest.mark.parametrize("size", [2, 3, 4, 8, WHOLE])
def test_prompts_are_no_samples_however_many_they_are(size: int) -> None:
    model = seeded(Matching).eval()
    loader = [
        {"prompts": PROMPTS, "images": x, "labels": y}
        for x, y in zip(IMAGES.split(size), LABELS.split(size), strict=True)
    ]
    found = flat_profile(model, loader)
    assert [layer.name for layer in found.layers] == ["image", "image_head"]
    features = inputs_of(model, lambda: model(PROMPTS, IMAGES))
    agrees(found, "image_head", features["image_head"], LABELS)
    decided = model(PROMPTS, IMAGES)["logits_per_image"].argmax(1)
    x = features["image_head"]
    centres = torch.stack([x[c == LABELS].mean(0) for c in range(3)])
    wanted = (torch.cdist(x, centres).argmin(1) == decided).double().mean()
    assert found["image_head"].train["ncc_agreement"] == pytest.approx(float(wanted), abs=1e-15)
    assert any("no layer is the classifier" in text for text in found.warnings)


def test_two_inputs_that_could_both_hold_the_samples_are_not_guessed() -> None:
    class Symmetric(Matching):
        def forward(self, prompts: Tensor, images: Tensor) -> dict[str, Tensor]:
            out = super().forward(prompts, images)
            return {**out, "logits_per_text": out["logits_per_image"].T}

    model = seeded(Symmetric)
    one = [{"prompts": PROMPTS, "images": IMAGES[:3], "labels": torch.tensor([0, 1, 2])}]
    with pytest.raises(InputError, match=r"^either images or prompts could hold the samples; .*batch_axis="):
        flat_profile(model, one)
    with pytest.raises(
        InputError, match=r"^batch_axis: no input is named 'promts'; did you mean 'prompts'\?"
    ):
        flat_profile(model, one, batch_axis={"promts": None})
    found = flat_profile(model, one, batch_axis={"prompts": None})
    assert [layer.name for layer in found.layers] == ["image", "image_head"]


def test_pairs_of_images_and_texts_hold_samples_in_both_inputs() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Linear(6, 5), nn.Linear(4, 5)

        def forward(self, images: Tensor, texts: Tensor) -> Tensor:
            return self.image(images) @ self.text(texts).T

    labels = torch.arange(60) % 3
    images, texts, model = draw(6, labels=labels), draw(4, labels=labels, seed=2), seeded(Pairs)
    loader = list(zip(*(one.split(12) for one in (images, texts, labels)), strict=True))
    with pytest.raises(InputError, match=r"such as batch_axis=\{1: None\}, or batch_axis=0 if all do"):
        flat_profile(model, loader)
    only_images = flat_profile(model, loader, batch_axis={1: None}, scores=False)
    assert [layer.name for layer in only_images.layers] == ["image"]
    both = flat_profile(model, loader, batch_axis=0)
    assert_equals_oracle(both["image"], images, labels)
    assert_equals_oracle(both["text"], texts, labels)
    assert both["image"].train["ncc_agreement"] is None
