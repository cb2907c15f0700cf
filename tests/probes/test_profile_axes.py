"""Which axis holds samples, and which positions: found whatever the lengths are, so no number depends on batch size.

Every network is compared with features taken out by hand from all samples at once, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from collapselab.errors import InputError
from collapselab.probes import Profile, profile
from collapselab.probes.inputs import axes_of_length, leaves, take_samples

STEPS = 6
LABELS = uneven(7, 7, 7)
WHOLE = 21


def statistics(features: Tensor, labels: Tensor) -> tuple[np.ndarray, float]:
    """Class means and share of variance within classes, balanced, straight from their definitions."""
    x, y = features.double().numpy().reshape(len(labels), -1), labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    within = np.mean(
        [((x[y == c] - mean) ** 2).sum(1).mean() for c, mean in zip(np.unique(y), means, strict=True)]
    )
    return means, within / (within + ((means - means.mean(0)) ** 2).sum(1).mean())


def agrees(found: Profile, name: str, features: Tensor, labels: Tensor) -> None:
    means, share = statistics(features, labels)
    measured = found[name].splits["train"].class_means
    assert measured is not None
    assert measured.shape == means.shape, name
    assert np.abs(measured.numpy() - means).max() <= 1e-11 * np.abs(means).max(), name
    assert found[name].train["normalized_within"] == pytest.approx(share, rel=1e-10), name


def inputs_of(model: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """What every linear and convolution layer reads in one forward pass over all samples."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[..., None]:
        return lambda _module, args: caught.update([(name, args[0].clone())])

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    handles = [module.register_forward_pre_hook(catch(name)) for name, module in layers]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return caught


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
    found = profile(model, time_first(size))
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
    wanted = profile(model, time_first(7))
    for axis in (1, {0: 1}):
        found = profile(model, time_first(STEPS), batch_axis=axis)
        for layer in wanted.layers:
            assert found[layer.name].train["vci"] == pytest.approx(layer.train["vci"], rel=1e-9)
    with pytest.raises(InputError, match=r"^batch_axis=0: no input has 7 entries"):
        profile(model, time_first(7), batch_axis=0)
    with pytest.raises(InputError, match=r"^batch_axis='first': give the number of an axis"):
        profile(model, time_first(7), batch_axis="first")  # pyright: ignore[reportArgumentType] on purpose


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
    found = profile(model, list(zip(sequences.split(6, 1), labels.split(6), strict=True)))
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
    found = profile(model, [(inputs, LABELS)])
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
    found = profile(model, list(zip(inputs.split(10), LABELS.split(10), strict=True)))
    assert [layer.name for layer in found.layers] == ["hidden", "fc"]
    assert any(text.startswith("layers: inner reads") and "another order" in text for text in found.warnings)
    with pytest.raises(InputError, match=r"^layers: inner reads .*another order"):
        profile(model, [(inputs, LABELS)], layers="inner")


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
    found = profile(model, [(Opaque(x), y) for x, y in parts])
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
    found = profile(model, loader)
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
        profile(model, one)
    with pytest.raises(
        InputError, match=r"^batch_axis: no input is named 'promts'; did you mean 'prompts'\?"
    ):
        profile(model, one, batch_axis={"promts": None})
    found = profile(model, one, batch_axis={"prompts": None})
    assert [layer.name for layer in found.layers] == ["image", "image_head"]


# ---------------------------------------------------------------- labels of pixels

SIDE = 8
PIXEL_LABELS = torch.randint(0, 3, (9, SIDE, SIDE), generator=torch.Generator().manual_seed(3))
PICTURES = draw(3, labels=PIXEL_LABELS.flatten()).reshape(9, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()


class EncoderDecoder(nn.Module):
    """Maps of two resolutions; as many channels as the map is high, and as the small map is high."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, SIDE, 3, padding=1), nn.Conv2d(SIDE, SIDE, 2, stride=2)
        self.inner, self.up = nn.Conv2d(SIDE, SIDE, 3, padding=1), nn.ConvTranspose2d(SIDE, SIDE, 2, stride=2)
        self.mix, self.head = nn.Linear(2 * SIDE, SIDE), nn.Conv2d(SIDE, 3, 1)

    def forward(self, maps: Tensor) -> dict[str, Tensor]:
        first = self.first(maps).relu()
        up = self.up(self.inner(self.down(first)).relu())
        both = torch.cat([first, up], 1).movedim(1, -1)
        return {"out": self.head(self.mix(both).relu().movedim(-1, 1))}


@pytest.mark.parametrize("size", [1, 2, 3, SIDE, 9])
def test_pixels_are_samples_whatever_the_channels_are(size: int) -> None:
    model = seeded(EncoderDecoder).eval()
    found = profile(model, list(zip(PICTURES.split(size), PIXEL_LABELS.split(size), strict=True)))
    features = inputs_of(model, lambda: model(PICTURES))
    labels = PIXEL_LABELS.flatten()
    assert [layer.name for layer in found.layers] == ["first", "down", "mix", "head"]
    for name in ("first", "down", "head"):
        agrees(found, name, features[name].movedim(1, -1).flatten(0, 2), labels)
    agrees(found, "mix", features["mix"].flatten(0, 2), labels)
    assert any("inner" in text and "other positions" in text for text in found.warnings)
    assert found["head"].train["self_duality"] is not None
    assert found["head"].train["ncc_agreement"] is not None


def test_rectangular_maps_that_are_turned_inside() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1)

        def forward(self, maps: Tensor) -> Tensor:
            return self.head(self.first(maps).relu().transpose(2, 3)).transpose(2, 3)

    model = seeded(Turned)
    found = profile(model, [(PICTURES, PIXEL_LABELS)])
    assert [layer.name for layer in found.layers] == ["first"]  # its classifier reads rows as columns
    assert any("head" in text and "left out" in text for text in found.warnings)


# ---------------------------------------------------------------- labels of tokens

TOKEN_LABELS = torch.randint(0, 3, (12, STEPS), generator=torch.Generator().manual_seed(4))
TOKENS = draw(4, labels=TOKEN_LABELS.flatten()).reshape(12, STEPS, 4)


class Tagger(nn.Module):
    """Reads tokens one by one after folding them with the samples, in either order."""

    def __init__(self, is_time_first: bool = False) -> None:
        super().__init__()
        self.mix, self.hidden, self.fc = (
            nn.Conv1d(4, STEPS, 3, padding=1),
            nn.Linear(STEPS, 5),
            nn.Linear(5, 3),
        )
        self.is_time_first = is_time_first

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.mix(tokens.transpose(1, 2)).transpose(1, 2).tanh()
        n, length = mixed.shape[:2]
        if self.is_time_first:
            folded = self.hidden(mixed.transpose(0, 1).reshape(n * length, -1)).tanh()
            return self.fc(folded).reshape(length, n, 3).transpose(0, 1)
        return self.fc(self.hidden(mixed.reshape(n * length, -1)).tanh()).reshape(n, length, 3)


@pytest.mark.parametrize("is_time_first", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, STEPS, 12])
def test_folded_tokens_meet_their_own_labels(size: int, is_time_first: bool) -> None:
    model = seeded(Tagger, is_time_first).eval()
    found = profile(model, list(zip(TOKENS.split(size), TOKEN_LABELS.split(size), strict=True)))
    features = inputs_of(model, lambda: model(TOKENS))
    assert [layer.name for layer in found.layers] == ["mix", "hidden", "fc"]
    agrees(found, "mix", TOKENS.flatten(0, 1), TOKEN_LABELS.flatten())
    labels = TOKEN_LABELS.T.flatten() if is_time_first else TOKEN_LABELS.flatten()
    for name in ("hidden", "fc"):
        agrees(found, name, features[name], labels)
    assert found["fc"].train["ncc_agreement"] is not None


class Translator(nn.Module):
    """Source and target of one length; what the encoder reads has no label."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.memory = nn.Linear(4, 5), nn.Linear(5, 5)
        self.decoder, self.fc = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.memory(self.encoder(source).relu())
        decoded = self.decoder(target)
        weights = torch.softmax(decoded @ memory.transpose(1, 2), -1)
        return self.fc(decoded + weights @ memory)


@pytest.mark.parametrize("names", [("source", "target"), ("target", "source")])
def test_layers_that_read_another_sequence_of_the_same_length_are_left_out(names: tuple[str, str]) -> None:
    model = seeded(Translator)
    source = draw(4, labels=TOKEN_LABELS.flatten(), seed=7).reshape(12, STEPS, 4)
    given = {"source": source, "target": TOKENS}
    found = profile(model, [{**{name: given[name] for name in names}, "labels": TOKEN_LABELS}])
    assert [layer.name for layer in found.layers] == ["decoder", "fc"]
    assert any(text.startswith("layers: encoder, memory read") for text in found.warnings)
    agrees(found, "decoder", TOKENS.flatten(0, 1), TOKEN_LABELS.flatten())


def test_a_model_of_one_length_only_is_read_by_the_kind_of_its_layers() -> None:
    class OneLength(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(STEPS, 4))
            self.first, self.fc = nn.Linear(4, STEPS), nn.Linear(STEPS, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.fc(self.first(tokens + self.places).relu())

    model = seeded(OneLength)
    found = profile(model, [(TOKENS[:STEPS], TOKEN_LABELS[:STEPS]), (TOKENS[STEPS:], TOKEN_LABELS[STEPS:])])
    features = inputs_of(model, lambda: model(TOKENS))
    for name in ("first", "fc"):
        agrees(found, name, features[name].flatten(0, 1), TOKEN_LABELS.flatten())
    assert any("axes of positions are assumed" in text for text in found.warnings)


@pytest.mark.parametrize(
    "error", [MemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_want_of_memory_for_larger_maps_ends_the_trial_only(error: Exception) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Conv2d(2, 5, 1), nn.Conv2d(5, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            if images.shape[-1] > 4:
                raise error
            return self.head(self.inner(images).relu())

    pixels = torch.arange(6 * 4 * 4).reshape(6, 4, 4) % 3
    images = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double() + pixels[:, None]
    found = profile(seeded(Small), batches(images, pixels, 3))
    assert [(layer.name, layer.dim) for layer in found.layers] == [("inner", 2), ("head", 5)]
    assert found.num_samples == {"train": 96}
