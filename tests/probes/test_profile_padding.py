"""Which input marks padding, and whether it marks tokens or padding: never taken for its opposite in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from by_hand import assert_equals_oracle
from probe_networks import seeded, uneven
from torch import Tensor, nn

from collapselab import InputError
from collapselab.probes import profile

LABELS = uneven(14, 10, 12)
GENERATOR = torch.Generator().manual_seed(5)
LENGTHS = torch.randint(2, 8, (36,), generator=GENERATOR)
LENGTHS[9::10] = 7  # some sample of every batch is as long as the batch
WORDS = torch.randint(1, 9, (36, 7), generator=GENERATOR) + 9 * LABELS[:, None]
TOKENS = torch.arange(7) < LENGTHS[:, None]
IDS = WORDS * TOKENS


class Encoder(nn.Module):
    """Reads ids and anything else by keyword; its own use of a mask does not matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(40, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, **_marks: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids)).tanh()).mean(1)


def truth(model: Encoder, ids: Tensor, kept: Tensor, reduce: str) -> float:
    """The within-class share of what `head` reads, in float64, from tokens that are kept."""
    with torch.no_grad():
        tokens = model.double().mix(model.embed(ids)).tanh().numpy()
    model.float()
    chosen = [one[where.numpy()] for one, where in zip(tokens, kept, strict=True)]
    rows = np.stack([one[-1] if reduce == "token:last" else one.mean(axis=0) for one in chosen])
    y = LABELS.numpy()
    means = np.stack([rows[y == c].mean(axis=0) for c in range(3)])
    within = np.mean([((rows[y == c] - means[c]) ** 2).sum(axis=1).mean() for c in range(3)])
    return float(within / (within + ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()))


def batches(ids: Tensor, **marks: Tensor) -> list[dict[str, Tensor]]:
    rows = [slice(start, start + 10) for start in range(0, 36, 10)]
    return [
        {"ids": ids[row], "labels": LABELS[row], **{name: mark[row] for name, mark in marks.items()}}
        for row in rows
    ]


def measured(model: Encoder, loader: Any, reduce: str, **options: Any) -> tuple[float | None, list[str]]:
    found = profile(model, loader, layers="head", reduce=reduce, **options)
    return found["head"].train["normalized_within"], [text for text in found.warnings if "token_mask" in text]


MARKS = {
    "attention_mask": TOKENS,
    "attention_mask, true is padding": ~TOKENS,
    "src_key_padding_mask": ~TOKENS,
    "attention_mask/of attention scores": TOKENS[:, None, None],
    "attention_mask/of tokens": TOKENS[:, :, None].long(),
    "key_padding_mask": torch.zeros(36, 7).masked_fill(~TOKENS, -torch.inf),
    "padding_mask": (~TOKENS).int(),
    "padding_mask, true is a token": TOKENS,
    "pad_mask": (~TOKENS).float(),
}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("reduce", ["token:last", "mean"])
def test_marks_of_usual_names_are_read_as_what_they_leave_as_tokens(mark: str, reduce: str) -> None:
    model = seeded(Encoder)
    found, notes = measured(model, batches(IDS, **{mark.split(",")[0].split("/")[0]: MARKS[mark]}), reduce)
    # Float32 features in a float64 mean.
    assert found == pytest.approx(truth(model, IDS, TOKENS, reduce), rel=1e-6)
    assert len(notes) == mark.count(
        ", "
    )  # padding is all the same token: proof, but against the name is said


@pytest.mark.parametrize(("name", "kept"), [("attention_mask", TOKENS), ("padding_mask", ~TOKENS)])
def test_what_nothing_proves_is_read_by_its_name_and_said(name: str, kept: Tensor) -> None:
    """Padding of noise, and no sample as long as the batch: either way could be meant."""
    kept = kept.clone()
    kept[LENGTHS == 7, 6] = not kept[0, LENGTHS[0] - 1]
    model = seeded(Encoder)
    found, notes = measured(model, batches(WORDS, **{name: kept}), "mean")
    tokens = kept if name == "attention_mask" else ~kept
    assert found == pytest.approx(truth(model, WORDS, tokens, "mean"), rel=1e-6)
    assert len(notes) == 1
    assert f"true in {name} is taken as" in notes[0]
    for option, meant in ((name, kept), (f"~{name}", ~kept), (lambda inputs: inputs[name], kept)):
        found, notes = measured(model, batches(WORDS, **{name: kept}), "mean", token_mask=option)
        assert found == pytest.approx(truth(model, WORDS, meant, "mean"), rel=1e-6)
        assert not notes


def test_a_mask_that_comes_after_the_first_batch_is_read_too() -> None:
    model, loader = seeded(Encoder), batches(IDS, src_key_padding_mask=~TOKENS)
    del loader[0]["src_key_padding_mask"]
    kept = TOKENS.clone()
    kept[:10] = True
    found, _ = measured(model, loader, "mean")
    assert found == pytest.approx(truth(model, IDS, kept, "mean"), rel=1e-6)


PAIRS = TOKENS[:, None] & TOKENS[:, :, None]  # whether a token attends to another


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask", TOKENS), ("valid", TOKENS[..., None].int()), ("lengths", LENGTHS), ("attention_mask", PAIRS)],
)
def test_an_input_of_another_name_that_may_mark_padding_is_said(name: str, value: Tensor) -> None:
    model = seeded(Encoder)
    found, notes = measured(model, batches(IDS, **{name: value}), "mean")
    assert found == pytest.approx(truth(model, IDS, torch.ones_like(TOKENS), "mean"), rel=1e-6)
    assert len(notes) == 1
    assert f"the input {name} tells padding is not known" in notes[0]
    assert not measured(model, batches(IDS, **{name: value}), "flatten")[1]
    if name in ("mask", "valid"):
        found, notes = measured(model, batches(IDS, **{name: value}), "mean", token_mask=name)
        assert found == pytest.approx(truth(model, IDS, TOKENS, "mean"), rel=1e-6)
        assert not notes


def test_a_mask_inside_of_an_input_has_its_place_as_its_name() -> None:
    class Pair(Encoder):
        def forward(self, ids: Any, **_marks: Tensor) -> Tensor:
            return super().forward(ids[0])

    model = seeded(Pair)
    rows = [slice(start, start + 10) for start in range(0, 36, 10)]
    loader = [([IDS[row], TOKENS[row]], LABELS[row]) for row in rows]
    assert any(
        "the input 1 tells padding is not known" in text for text in measured(model, loader, "mean")[1]
    )
    found, notes = measured(model, loader, "mean", token_mask="1")
    with torch.no_grad():
        tokens = model.mix(model.embed(IDS)).tanh()
    rows_by_hand = torch.stack([one[kept].mean(0) for one, kept in zip(tokens, TOKENS, strict=True)])
    assert_equals_oracle(
        profile(model, loader, layers="head", reduce="mean", token_mask="1")["head"], rows_by_hand, LABELS
    )
    assert found is not None
    assert not notes


def test_types_of_tokens_are_no_mask() -> None:
    found = profile(seeded(Encoder), batches(IDS, token_type_ids=TOKENS.long()), layers="head", reduce="mean")
    assert not [text for text in found.warnings if "token_mask" in text]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("absent", "no input of shape .n, tokens. has this name; the inputs are ids, mask"),
        (True, "give the name of the input"),
        (lambda inputs: inputs["none"], "the function raised KeyError"),
        (lambda inputs: None, r"let the function return \(n, tokens\)"),
        ("~mask", "a sample has no token that is not padding.*token_mask="),
    ],
)
def test_an_option_that_does_not_fit_is_refused(option: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        measured(seeded(Encoder), batches(IDS, mask=TOKENS), "token:last", token_mask=option)
    assert len(str(caught.value)) <= 300


class Padded(Encoder):
    """Knows its padding token; ids are its first argument, whatever its name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed.padding_idx = 0


@pytest.mark.parametrize("before", [{}, {"token_type_ids": TOKENS.long()}, {"segments": TOKENS.long()}])
def test_the_padding_token_is_looked_for_among_the_ids_alone(before: dict[str, Tensor]) -> None:
    model = seeded(Padded)
    loader = [
        {**{name: part[name] for name in before}, **part} for part in batches(IDS, **before)
    ]  # other inputs may come first
    found, notes = measured(model, loader, "mean")
    assert found == pytest.approx(truth(model, IDS, TOKENS, "mean"), rel=1e-6)
    assert not notes


class TimeFirst(nn.Module):
    """Sequences (t, n, d) or ids (t, n), as torch's recurrent and attention layers read them by default."""

    def __init__(self, *, turns: bool) -> None:
        super().__init__()
        self.turns = turns
        self.embed, self.mix, self.last = nn.Embedding(40, 4, padding_idx=0), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, sequences: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        is_padding = sequences == 0 if padding_mask is None else padding_mask
        is_padding = is_padding.T if self.turns else is_padding
        if not sequences.is_floating_point():
            sequences = self.embed(sequences)
        hidden = self.mix(sequences).tanh().masked_fill(is_padding[:, :, None], 0)
        return self.last(hidden.sum(0) / (~is_padding).sum(0)[:, None])


@pytest.mark.parametrize("steps", [12, 7])  # as many as samples, and fewer
@pytest.mark.parametrize("marked", ["mask with time first", "mask with samples first", "padding token"])
def test_masks_and_ids_with_time_first_mark_the_tokens_of_their_samples(steps: int, marked: str) -> None:
    generator, model = torch.Generator().manual_seed(1), seeded(TimeFirst, turns="samples" in marked)
    lengths = torch.randint(1, steps + 1, (36,), generator=generator)
    lengths[::12] = steps
    kept = torch.arange(steps) < lengths[:, None]
    ids = torch.randint(1, 40, (36, steps), generator=generator) * kept
    vectors = model.embed(ids).detach()
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, 36, 12):
        rows = slice(start, start + 12)
        mask = ~kept[rows] if "samples" in marked else ~kept[rows].T
        inputs = (ids[rows].T,) if marked == "padding token" else (vectors[rows].transpose(0, 1), mask)
        parts.append((*inputs, LABELS[rows]))
    found = profile(model, parts, layers="mix", reduce="mean")
    rows = torch.stack([one[where].mean(0) for one, where in zip(vectors, kept, strict=True)])
    assert_equals_oracle(found["mix"], rows, LABELS)
