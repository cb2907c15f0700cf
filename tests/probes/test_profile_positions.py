"""Which axes hold the positions of labels, pixels and tokens: every network is compared with features taken by hand."""

from __future__ import annotations

import pytest
import torch
from by_hand import agrees, inputs_of
from probe_networks import batches, draw, seeded
from torch import Tensor, nn

from collapselab import InputError
from collapselab.probes import profile

STEPS = 6

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


class TimeFirstTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, steps: Tensor) -> Tensor:
        return self.fc(self.rnn(steps)[0])


@pytest.mark.parametrize("size", [STEPS, STEPS - 1])
def test_labels_with_time_first_are_refused_where_they_could_be_either(size: int) -> None:
    """Samples and steps of one number: nothing tells which axis of the labels is which."""
    model = seeded(TimeFirstTagger)
    turned, labels = TOKENS.transpose(0, 1), TOKEN_LABELS.T
    loader = [(turned[:, i : i + size], labels[:, i : i + size]) for i in range(0, 12, size)]
    if size == STEPS:
        with pytest.raises(InputError, match=r"may be \(samples, tokens\) or \(tokens, samples\)") as caught:
            profile(model, loader)
        assert len(str(caught.value)) <= 300
        loader = [(inputs, labels.T) for inputs, labels in loader]
        found = profile(model, loader, batch_axis=1)
    else:
        found = profile(model, loader)
    features = inputs_of(model, lambda: model(turned))["fc"].transpose(0, 1)
    agrees(found, "fc", features.reshape(72, 5), TOKEN_LABELS.flatten())
