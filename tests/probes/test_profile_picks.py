"""The axis of samples is found where single values tell nothing: one-hot features; masks that are added to scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from collapselab import profile


def share(rows: Tensor, labels: Tensor) -> float:
    """Tr Sigma_W / Tr Sigma_T of balanced weights, float64."""
    rows = rows.double()
    means = torch.stack([rows[labels == c].mean(0) for c in labels.unique()])
    within = torch.stack([(rows[labels == c] - means[c]).square().sum(1).mean() for c in labels.unique()])
    between = (means - means.mean(0)).square().sum(1).mean()
    return float(within.mean() / (within.mean() + between))


class Folded(nn.Module):
    """Reads tokens time first, folded with the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(900, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens.transpose(0, 1).flatten(0, 1)).tanh()
        return self.out(hidden).unflatten(0, (tokens.shape[1], -1)).transpose(0, 1)


def test_the_order_of_folded_one_hot_tokens_is_found() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (40, 5))
    words = 300 * labels + torch.randint(0, 300, labels.shape)
    tokens = nn.functional.one_hot(words, 900).float()
    found = profile(Folded(), list(zip(tokens.split(10), labels.split(10), strict=True)))
    expected = share(tokens.flatten(0, 1), labels.flatten())
    assert found["embed"].train["normalized_within"] == pytest.approx(expected, rel=1e-6)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = (attention_mask == 0)[:, :, None]
        return self.out((self.mix(self.embed(input_ids)) * kept).sum(1) / kept.sum(1))


def test_a_mask_that_is_added_to_attention_scores_marks_padding_by_negative_values() -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    padding = torch.arange(7) >= torch.randint(2, 7, (60, 1))
    ids = torch.randint(4, 20, (60, 7))
    ids[:, 0] = 1 + labels
    model, mask = Pooled(), padding * -1e4
    batches = [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids.split(20), mask.split(20), labels.split(20), strict=True)
    ]
    found = profile(model, batches, layers="mix", reduce="mean")["mix"].train["normalized_within"]
    with torch.no_grad():
        rows = (model.embed(ids) * ~padding[:, :, None]).sum(1) / (~padding).sum(1)[:, None]
    assert found == pytest.approx(share(rows, labels), rel=1e-5)


class SortsByLength(nn.Module):
    """Sorts its samples by length, as for a packed sequence, and restores their order before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        order = length.argsort(descending=True, stable=True)
        hidden = self.embed(tokens[order]).tanh().mean(1)
        return self.out(self.middle(hidden).tanh()[order.argsort()])


@pytest.mark.parametrize("is_bucketed", [True, False])
def test_layers_that_read_samples_in_another_order_are_left_out(is_bucketed: bool) -> None:
    """The first batch alone would not show it where its samples have one length."""
    torch.manual_seed(0)
    labels = torch.arange(80) % 3
    tokens, length = torch.randn(80, 6, 5) + labels[:, None, None], torch.randint(2, 7, (80,))
    if is_bucketed:
        length[:20] = 6
    model = SortsByLength()
    found = profile(model, list(zip(tokens.split(20), length.split(20), labels.split(20), strict=True)))
    assert [layer.name for layer in found.layers] == ["out"]
    assert any("embed, middle" in text and "another order" in text for text in found.warnings)
    with torch.no_grad():
        rows = model.middle(model.embed(tokens).tanh().mean(1)).tanh()
    assert found["out"].train["normalized_within"] == pytest.approx(share(rows, labels), rel=1e-5)


class NeedsSortedLengths(nn.Module):
    """Packs its sequences, which must come from the longest to the shortest, and reads them time first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.middle, self.out = nn.LSTM(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(tokens.transpose(0, 1), length)
        hidden = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], total_length=tokens.shape[1])[0]
        return self.out(self.middle(hidden).tanh().mean(0))


@pytest.mark.parametrize("size", [6, 8, 15])
def test_networks_that_need_sorted_samples_are_measured(size: int) -> None:
    """Also where a batch has as many samples as its sequences have tokens, six."""
    torch.manual_seed(0)
    labels = torch.arange(120) % 3
    tokens, length = torch.randn(120, 6, 5) + labels[:, None, None], torch.randint(2, 7, (120,))
    length[::size] = 6
    length = torch.cat([part.sort(descending=True).values for part in length.split(size)])
    model = NeedsSortedLengths()
    data = list(zip(tokens.split(size), length.split(size), labels.split(size), strict=True))
    found = profile(model, data, reduce="gap")
    rows = []
    with torch.no_grad():
        for part, lengths, _ in data:
            packed = nn.utils.rnn.pack_padded_sequence(part.transpose(0, 1), lengths)
            rows.append(nn.utils.rnn.pad_packed_sequence(model.rnn(packed)[0], total_length=6)[0].mean(0))
    assert found["middle"].train["normalized_within"] == pytest.approx(
        share(torch.cat(rows), labels), rel=1e-5
    )
