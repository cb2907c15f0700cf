"""One token of a sequence: the last that is not padding, the class token, a position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn

from collapselab import InputError
from collapselab.probes import profile
from collapselab.probes.padding import last_position, trimmed
from collapselab.probes.reduce import Reduction

LABELS = uneven(14, 10, 12)
GENERATOR = torch.Generator().manual_seed(5)
LENGTHS = torch.randint(2, 8, (36,), generator=GENERATOR)
WORDS = torch.randint(1, 9, (36, 7), generator=GENERATOR) + 9 * LABELS[:, None]
SIDES = {
    "right": torch.arange(7) < LENGTHS[:, None],
    "left": torch.arange(7) >= 7 - LENGTHS[:, None],
}


def within_share(rows: np.ndarray[Any, Any]) -> float:
    y = LABELS.numpy()
    means = np.stack([rows[y == c].mean(axis=0) for c in range(3)])
    within = np.mean([((rows[y == c] - means[c]) ** 2).sum(axis=1).mean() for c in range(3)])
    return float(within / (within + ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()))


def sequences(model: nn.Module, name: str, **inputs: Tensor) -> np.ndarray[Any, Any]:
    """What the module reads, (n, t, c), in float64."""
    caught: list[Tensor] = []
    module = dict(model.named_modules())[name]
    handle = module.register_forward_pre_hook(
        lambda _m, args, kwargs: caught.append((*args, *kwargs.values())[0].double()), with_kwargs=True
    )
    with torch.no_grad():
        model.eval()(**inputs)
    handle.remove()
    return caught[0].numpy()


class Tagger(nn.Module):
    """A bidirectional network of words; its configuration may name a padding token."""

    def __init__(self, pad: int | None = None) -> None:
        super().__init__()
        self.config = type("Config", (), {"pad_token_id": pad})()
        self.embed, self.mix, self.head = nn.Embedding(40, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.mix(self.embed(input_ids)).tanh()
        return self.head(x + x.mean(1, keepdim=True)).mean(1)


def loader(ids: Tensor, mask: Tensor | None = None, size: int = 10) -> list[dict[str, Tensor]]:
    parts = []
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        part = {"input_ids": ids[rows], "labels": LABELS[rows]}
        parts.append(part if mask is None else part | {"attention_mask": mask[rows].long()})
    return parts


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("marked", ["mask", "pad token", "both"])
@pytest.mark.parametrize("reduce", ["token:last", "mean"])
def test_padding_is_known_from_the_mask_or_the_padding_token(side: str, marked: str, reduce: str) -> None:
    kept = SIDES[side]
    pad = None if marked == "mask" else 0
    model = seeded(Tagger, pad)
    ids = WORDS * kept
    found = profile(
        model, loader(ids, None if marked == "pad token" else kept), layers="mix,head", reduce=reduce
    )
    for name in ("mix", "head"):
        tokens = sequences(model, name, input_ids=ids)
        chosen = [one[where.numpy()] for one, where in zip(tokens, kept, strict=True)]
        rows = np.stack([one[-1] if reduce == "token:last" else one.mean(axis=0) for one in chosen])
        assert found[name].train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)
    assert not [text for text in found.warnings if "reduce" in text]
    assert found.reduction == reduce


@pytest.mark.parametrize("marked", ["mask", "padding_idx"])
def test_padding_is_known_from_inputs_by_position_and_from_an_embedding(marked: str) -> None:
    kept = SIDES["right"]
    ids, model = WORDS * kept, seeded(Tagger)
    inputs = (ids, kept.long()) if marked == "mask" else (ids,)
    if marked == "padding_idx":
        model.embed.padding_idx = 0
    parts = list(zip(*(value.split(10) for value in (*inputs, LABELS)), strict=True))
    found = profile(model, parts, layers="head", reduce="token:last")["head"]
    rows = sequences(model, "head", input_ids=ids)[np.arange(36), LENGTHS.numpy() - 1]
    assert found.train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_last_token_is_the_one_that_a_sequence_classifier_decides_by(side: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    model = seeded(lambda: transformers.LlamaForSequenceClassification(config)).eval()
    kept = SIDES[side]
    ids = WORDS * kept
    found = profile(model, loader(ids, kept), layers="score", reduce="token:last")["score"]
    tokens = sequences(model, "score", input_ids=ids, attention_mask=kept.long())
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=kept.long()).logits.numpy()
    rows = np.stack([one[where.numpy()][-1] for one, where in zip(tokens, kept, strict=True)])
    # The head has no bias: these rows are what the network's own logits come from.
    assert np.allclose(rows @ model.score.weight.detach().numpy().T, logits, atol=1e-12)
    assert found.train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)
    centres = np.stack([rows[LABELS.numpy() == c].mean(axis=0) for c in range(3)])
    nearest = ((rows[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert found.train["ncc_accuracy"] == pytest.approx((nearest == LABELS.numpy()).mean(), abs=1e-12)
    assert found.train["ncc_agreement"] == pytest.approx((nearest == logits.argmax(axis=1)).mean(), abs=1e-12)


def test_a_position_that_is_padding_in_any_batch_is_warned_of() -> None:
    kept = torch.ones(36, 7, dtype=torch.bool)
    model = seeded(Tagger)
    quiet = profile(model, loader(WORDS, kept), layers="head", reduce="token:-1")
    assert not [text for text in quiet.warnings if "padding" in text]
    kept[33, 6] = False  # in the last batch
    found = profile(model, loader(WORDS, kept), layers="head", reduce="token:-1")
    assert [text for text in found.warnings if "token:-1 is padding in some samples; use token:last" in text]
    assert not [
        text
        for text in profile(model, loader(WORDS, kept), layers="head", reduce="token:0").warnings
        if "padding" in text
    ]


def test_a_mask_and_a_padding_token_that_disagree_are_warned_of() -> None:
    """Where the end of a sentence is also the padding, the network's own head reads the token before it."""
    kept = SIDES["right"]
    ids = WORDS * kept
    ids[torch.arange(36), LENGTHS - 1] = 0
    found = profile(seeded(Tagger, 0), loader(ids, kept), layers="head", reduce="token:last")
    assert [text for text in found.warnings if "token:last follows attention_mask" in text]


@pytest.mark.parametrize("reduce", ["token:last", "mean"])
def test_a_sample_of_padding_alone_is_refused(reduce: str) -> None:
    kept = SIDES["right"].clone()
    kept[20] = False
    with pytest.raises(InputError, match="a sample has no token that is not padding") as caught:
        profile(seeded(Tagger), loader(WORDS, kept), layers="head", reduce=reduce)
    assert len(str(caught.value)) <= 300


def test_a_layer_of_another_length_than_the_mask_is_flattened_or_averaged_and_said() -> None:
    class Strided(Tagger):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.head(self.mix(self.embed(input_ids))[:, ::2]).mean(1)

    model = seeded(Strided)
    ids, kept = WORDS * SIDES["right"], SIDES["right"]
    last = profile(model, loader(ids, kept), reduce="token:last")
    assert [(layer.name, layer.dim) for layer in last.layers] == [("mix", 6), ("head", 24)]
    assert any(
        "head: does not read the 7 tokens of the mask: its features are flattened" in t for t in last.warnings
    )
    mean = profile(model, loader(ids, kept), reduce="mean")
    assert any(
        "head: does not read the 7 tokens of the mask: all count in its mean" in t for t in mean.warnings
    )


def test_batches_may_differ_in_length() -> None:
    model = seeded(Tagger)
    kept = SIDES["right"]
    ids = WORDS * kept
    parts = []
    for part in loader(ids, kept, 3):
        longest = int(part["attention_mask"].sum(1).max())
        parts.append({name: value[:, :longest] if value.ndim == 2 else value for name, value in part.items()})
    assert len({part["input_ids"].shape[1] for part in parts}) > 1
    found = profile(model, parts, layers="mix", reduce="token:last")["mix"]
    tokens = sequences(model, "mix", input_ids=ids)
    rows = tokens[np.arange(36), LENGTHS.numpy() - 1]
    assert found.train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)


# ---------------------------------------------------------------- the class token


class TinyViT(nn.Module):
    """A class token before or behind the patches; the head reads it, or the mean of all."""

    def __init__(self, where: int, *, averages: bool = False) -> None:
        super().__init__()
        self.where, self.averages = where, averages
        self.patch, self.cls_token = nn.Conv2d(3, 6, 2, stride=2), nn.Parameter(torch.randn(1, 1, 6))
        self.before, self.mix, self.norm, self.head = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        patches = self.before(self.patch(images).flatten(2).mT)
        token = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([token, patches] if self.where == 0 else [patches, token], 1)
        x = self.norm(self.mix(x + x.mean(1, keepdim=True)).tanh() + x)
        return self.head(x.mean(1) if self.averages else x[:, self.where])


IMAGES = draw(3, 8, 8, labels=LABELS)


@pytest.mark.parametrize(("where", "averages"), [(0, False), (-1, False), (0, True)])
def test_the_class_token_is_the_one_that_the_head_reads(where: int, averages: bool) -> None:
    model = seeded(TinyViT, where, averages=averages)
    found = profile(model, batches(IMAGES, LABELS, 16), layers="before,mix,norm,head", reduce="token:cls")
    for name in ("mix", "norm"):
        rows = sequences(model, name, images=IMAGES)[:, where]
        assert found[name].dim == 6
        assert found[name].train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)
    if not averages:  # patches have no class token yet
        assert found["before"].dim == 96
        assert any(
            "before: does not have the class token: its features are flattened" in t for t in found.warnings
        )


def test_the_class_token_of_bert_is_the_first_also_in_batches_of_other_lengths() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, num_labels=3,
        max_position_embeddings=8,
    )  # fmt: skip
    model = seeded(lambda: transformers.BertForSequenceClassification(config))
    parts = [
        loader(WORDS)[0],
        *({**part, "input_ids": part["input_ids"][:, :5]} for part in loader(WORDS)[1:]),
    ]
    name = "bert.encoder.layer.0.intermediate.dense"
    found = profile(model, parts, layers=name, reduce="token:cls")[name]
    with torch.no_grad():
        rows = np.concatenate([sequences(model, name, input_ids=part["input_ids"])[:, 0] for part in parts])
    assert found.train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)


def test_distilled_networks_have_two_tokens_and_the_first_is_the_class_token() -> None:
    timm = pytest.importorskip("timm")
    model = seeded(
        lambda: timm.create_model(
            "deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, depth=1, embed_dim=12
        )
    ).eval()
    images = draw(3, 32, 32, labels=LABELS)
    found = profile(model, batches(images, LABELS, 18), layers="blocks.0.mlp.fc1", reduce="token:cls")
    rows = sequences(model, "blocks.0.mlp.fc1", x=images)[:, 0]
    assert found.layers[0].train["normalized_within"] == pytest.approx(within_share(rows), rel=1e-9)


def test_a_loop_over_tokens_is_no_class_token() -> None:
    class Loop(Tagger):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            x = self.mix(self.embed(input_ids))
            return self.head(torch.stack([x[:, t].tanh() for t in range(x.shape[1])]).mean(0))

    with pytest.raises(InputError, match="no head of Loop takes one token"):
        profile(seeded(Loop), loader(WORDS), reduce="token:cls")


def test_a_network_without_a_class_token_is_refused() -> None:
    with pytest.raises(InputError, match="reduce='token:cls': no head of Tagger takes one token") as caught:
        profile(seeded(Tagger), loader(WORDS), reduce="token:cls")
    assert len(str(caught.value)) <= 300


# ---------------------------------------------------------------- forms


def test_names_of_reductions() -> None:
    for text in ("flatten", "gap", "mean", "token:0", "token:-2", "token:last", "token:cls"):
        assert str(Reduction.parse(text)) == text
    assert Reduction.parse("token[-1]") == Reduction("token", -1)
    for wrong in ("token:", "token:first", "last", "max"):
        with pytest.raises(InputError, match="unknown reduction"):
            Reduction.parse(wrong)


def test_positions_of_the_last_token_with_padding_on_either_side_and_gaps() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]]).bool()
    assert last_position(mask).tolist() == [1, 3, 2, 3]
    assert trimmed(mask).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]
