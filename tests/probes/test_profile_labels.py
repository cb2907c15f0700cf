"""What labels mean: next tokens, what is padding, columns and one-hot rows, labels that a decoder needs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import batches, draw, read_slowly, seeded, uneven
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes import Profile, profile
from oracles import Oracle, nearest

transformers = pytest.importorskip("transformers")

TOKENS, VOCABULARY = 7, 11
IDS = torch.randint(1, VOCABULARY, (20, TOKENS), generator=torch.Generator().manual_seed(0))


def small(name: str, config: str, **kwargs: Any) -> nn.Module:
    sizes = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return seeded(getattr(transformers, name), getattr(transformers, config)(**{**sizes, **kwargs})).eval()


LLAMA = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
GPT = {"n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}
BART = {
    "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 32, "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}  # fmt: skip


@cache
def llama() -> nn.Module:
    return small("LlamaForCausalLM", "LlamaConfig", **LLAMA)


def fed(labels: Tensor, size: int = 5, **more: Tensor) -> list[dict[str, Tensor]]:
    columns = {"input_ids": IDS, **more, "labels": labels}
    return [
        {name: value[at : at + size] for name, value in columns.items()} for at in range(0, len(IDS), size)
    ]


def agrees(found: Profile, model: nn.Module, labels: Tensor, name: str = "lm_head") -> None:
    """Counts, means and nearest centres of a layer, where `labels` are those of each position."""
    features, scores = read_slowly(model, [{"input_ids": IDS}], name)
    kept = labels.flatten() >= 0
    x, y = features.flatten(0, 1)[kept].numpy(), labels.flatten()[kept].numpy()
    decided = scores.flatten(0, 1)[kept].argmax(1).numpy()
    oracle, split = Oracle(x, y), found[name].splits["train"]
    assert split.counts.tolist() == oracle.counts.tolist()
    assert split.class_means is not None
    assert np.abs(split.class_means.numpy() - oracle.means).max() <= 1e-12 * np.abs(oracle.means).max()
    centres = oracle.classes[nearest(x, oracle.means)]
    assert split.metrics["ncc_agreement"] == pytest.approx(np.mean(centres == decided), abs=1e-15)


def next_tokens(labels: Tensor) -> Tensor:
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1)


PADDED = IDS.masked_fill(torch.arange(TOKENS) >= 3 + torch.arange(20)[:, None] % 5, -100)


# ---------------------------------------------------------------- next tokens


@pytest.mark.parametrize("labels", [IDS, PADDED], ids=["copies", "padded copies"])
def test_input_tokens_as_labels_of_a_causal_model_are_shifted_once(labels: Tensor) -> None:
    found = profile(llama(), fed(labels), fed(labels, size=3))
    agrees(found, llama(), next_tokens(labels))
    assert found["lm_head"].test["ncc_accuracy"] == found["lm_head"].train["ncc_accuracy"]
    said = [
        text for text in found.warnings if text.startswith("labels: LlamaForCausalLM predicts the next token")
    ]
    assert len(said) == 1
    assert "shift_labels=False" in said[0]


def test_labels_that_are_next_tokens_already_stay() -> None:
    longer = torch.randint(1, VOCABULARY, (20, 1), generator=torch.Generator().manual_seed(1))
    labels = torch.cat([IDS[:, 1:], longer], 1)
    found = profile(llama(), fed(labels))
    agrees(found, llama(), labels)
    assert not any("next token" in text for text in found.warnings)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_caller_decides(wanted: bool) -> None:
    found = profile(llama(), fed(PADDED), shift_labels=wanted)
    agrees(found, llama(), next_tokens(PADDED) if wanted else PADDED)


@pytest.mark.parametrize(
    ("name", "config", "kwargs", "shifts"),
    [
        ("GPT2LMHeadModel", "GPT2Config", GPT, True),
        ("BartForCausalLM", "BartConfig", BART, None),
        ("BertForMaskedLM", "BertConfig", {**LLAMA, "num_key_value_heads": None}, False),
    ],
)
def test_models_shift_as_their_own_loss_does(
    name: str, config: str, kwargs: Any, shifts: bool | None
) -> None:
    model = small(name, config, **{key: value for key, value in kwargs.items() if value is not None})
    with torch.no_grad():
        out = model(input_ids=IDS, labels=PADDED)
        losses = [
            nn.functional.cross_entropy(out["logits"].flatten(0, 1), labels.flatten())
            for labels in (PADDED, next_tokens(PADDED))
        ]
    own = bool((losses[1] - out["loss"]).abs() < (losses[0] - out["loss"]).abs())
    assert shifts in (None, own)
    agrees(profile(model, fed(PADDED)), model, next_tokens(PADDED) if own else PADDED, _head(model))


def _head(model: nn.Module) -> str:
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    return next(name for name in names if name.endswith(("lm_head", "decoder")))


def test_wrapped_causal_models_are_recognised() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = llama()

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.inner(input_ids=input_ids).logits

    found = profile(Wrapped().eval(), [(x["input_ids"], x["labels"]) for x in fed(PADDED)])
    alone = profile(llama(), fed(PADDED))
    assert found["inner.lm_head"].train["normalized_within"] == alone["lm_head"].train["normalized_within"]
    assert any("shifted by one" in text for text in found.warnings)


def test_a_model_of_ones_own_is_asked_about() -> None:
    model = seeded(nn.Sequential, nn.Embedding(VOCABULARY, 6), nn.Linear(6, VOCABULARY))
    train = batches(IDS, IDS, 5)
    found = profile(model, train)
    assert any("all labels equal the input tokens; give shift_labels=True" in text for text in found.warnings)
    shifted = profile(model, train, shift_labels=True)
    assert shifted.num_samples["train"] == 20 * (TOKENS - 1)
    assert not any("input tokens" in text for text in shifted.warnings)


def test_only_labels_of_tokens_are_shifted() -> None:
    with pytest.raises(InputError, match=r"^train, batch 0: shift_labels=True needs labels of tokens"):
        profile(nn.Linear(3, 3), [(torch.ones(6, 3), torch.arange(6) % 3)], shift_labels=True)
    with pytest.raises(InputError, match=r"^shift_labels=2: give True, False"):
        profile(nn.Linear(3, 3), [], shift_labels=2)  # pyright: ignore[reportArgumentType] on purpose


# ---------------------------------------------------------------- encoder and decoder


@pytest.mark.parametrize("length", [TOKENS, 4])
def test_a_decoder_gets_the_labels_and_source_tokens_do_not(length: int) -> None:
    model = small("BartForConditionalGeneration", "BartConfig", **BART)
    targets = torch.randint(1, VOCABULARY, (20, length), generator=torch.Generator().manual_seed(2))
    targets[:, -1] = torch.where(torch.arange(20) % 3 == 0, -100, targets[:, -1])
    found = profile(model, fed(targets, attention_mask=torch.ones_like(IDS)))
    read = [layer.name for layer in found.layers]
    assert read
    assert not any("model.encoder" in name or "encoder_attn.k_proj" in name for name in read)
    assert any("encoder.layers.0" in text and "left out" in text for text in found.warnings)
    caught: list[Tensor] = []
    handle = model.get_submodule("lm_head").register_forward_pre_hook(lambda _m, args: caught.append(args[0]))
    with torch.no_grad():
        decided = model(input_ids=IDS, labels=targets).logits.argmax(-1)
    handle.remove()
    kept = targets.flatten() >= 0
    x, y = caught[0].flatten(0, 1)[kept].numpy(), targets.flatten()[kept].numpy()
    oracle, layer = Oracle(x, y), found["lm_head"]
    assert layer.train["normalized_within"] == pytest.approx(oracle.normalized_within(), rel=1e-9)
    centres = oracle.classes[nearest(x, oracle.means)]
    agreement = np.mean(centres == decided.flatten()[kept].numpy())
    assert layer.train["ncc_agreement"] == pytest.approx(agreement, abs=1e-15)
    assert not any("next token" in text for text in found.warnings)


# ---------------------------------------------------------------- padding, columns, one-hot rows

LABELS = uneven(20, 20, 20)
IMAGES = draw(3, 5, 5, labels=LABELS)


def convolutions(width: int = 3) -> nn.Module:
    return seeded(
        nn.Sequential,
        nn.Conv2d(3, width, 3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )


@pytest.mark.parametrize("padding", [255, 3, -1])
@pytest.mark.parametrize("as_data_set", [True, False])
def test_padding_can_have_another_label(padding: int, as_data_set: bool) -> None:
    labels = torch.where(torch.arange(60) % 7 == 0, padding, LABELS)
    data = torch.utils.data.TensorDataset(IMAGES, labels)
    train: Any = torch.utils.data.DataLoader(data, 16) if as_data_set else batches(IMAGES, labels, 16)
    model = convolutions()
    found = profile(model, train, ignore_index=padding)
    kept = labels != padding
    wanted = profile(model, batches(IMAGES[kept], labels[kept], 16))
    assert found.classes == (0, 1, 2)
    for layer in wanted.layers:
        for name in ("normalized_within", "ncc_agreement", "self_duality"):
            value = layer.train[name]
            assert found[layer.name].train[name] == (
                None if value is None else pytest.approx(value, rel=1e-10)
            )


def test_a_column_of_labels_and_maps_with_one_channel_of_them() -> None:
    model = convolutions()
    wanted = profile(model, batches(IMAGES, LABELS, 16))
    found = profile(model, batches(IMAGES, LABELS[:, None], 16))
    assert found == wanted
    assert found.layers[0].train["ncc_agreement"] is not None
    pixels = torch.randint(0, 2, (60, 5, 5), generator=torch.Generator().manual_seed(1))
    model = seeded(nn.Sequential, nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 1, 1))
    found = profile(model, batches(IMAGES, pixels[:, None], 16))
    assert found == profile(model, batches(IMAGES, pixels, 16))
    assert found["2"].train["ncc_agreement"] is not None  # one logit for each pixel


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("classes", [3, 5])
def test_one_hot_rows_are_refused(width: int, classes: int) -> None:
    rows = torch.eye(classes, dtype=torch.int64)[LABELS]
    with pytest.raises(
        InputError, match=r"one-hot rows; give class numbers, such as labels\.argmax\(1\)"
    ) as caught:
        profile(convolutions(width), batches(IMAGES, rows, 16))
    assert len(str(caught.value)) <= 300


def test_rows_of_several_labels_are_refused() -> None:
    rows = torch.eye(3, dtype=torch.int64)[LABELS] | torch.eye(3, dtype=torch.int64)[(LABELS + 1) % 3]
    with pytest.raises(InputError, match="rows of several labels; give one class number per sample"):
        profile(convolutions(), batches(IMAGES, rows, 16))
