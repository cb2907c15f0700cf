"""Reductions keep digits, and average along the axes that hold positions, however a network lays out its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn

from collapselab import InputError
from collapselab.probes import Profile, profile
from collapselab.probes.channels import parse_channel_axis
from collapselab.probes.layout import Layout, regroup
from collapselab.probes.reduce import Reduction

LABELS = uneven(14, 10, 12)
Rows = np.ndarray[Any, np.dtype[np.float64]]


def within_share(rows: Rows, labels: Tensor = LABELS) -> float:
    """normalized_within with equal class weights, from float64 rows (n, p)."""
    y = labels.numpy()
    means = np.stack([rows[y == c].mean(axis=0) for c in np.unique(y)])
    within = np.mean(
        [((rows[y == c] - means[i]) ** 2).sum(axis=1).mean() for i, c in enumerate(np.unique(y))]
    )
    between = ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()
    return float(within / (within + between))


def read(model: nn.Module, inputs: Any, name: str) -> Rows:
    """What the module reads, all samples at once, in float64."""
    caught: list[Tensor] = []
    module = dict(model.named_modules())[name]
    handle = module.register_forward_pre_hook(lambda _m, args: caught.append(args[0].double().clone()))
    model.eval()
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    handle.remove()
    return caught[0].numpy()


def share(found: Profile, name: str) -> float:
    value = found[name].train["normalized_within"]
    assert value is not None
    return float(value)


# ---------------------------------------------------------------- digits


@pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float16, 3e-7), (torch.bfloat16, 3e-7), (torch.float32, 3e-7)]
)
@pytest.mark.parametrize("kind", ["gap", "mean"])
def test_means_of_half_precision_neither_overflow_nor_lose_digits(
    kind: Any, dtype: torch.dtype, rel: float
) -> None:
    """In half precision the sum of 4096 positions of size 500 is infinite, and in bfloat16 it has three digits."""
    features = (500 + 40 * torch.randn(6, 4096, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    mask = torch.arange(4096) < torch.tensor([4096, 4000, 3000, 2000, 900, 1])[:, None]
    masks = (None, mask) if kind == "mean" else (None,)
    for used in masks:
        rows = Reduction(kind)(features, channel_axis=-1, mask=used)
        exact = features.double().numpy()
        kept = np.ones((6, 4096), bool) if used is None else used.numpy()
        wanted = np.stack([one[chosen].mean(axis=0) for one, chosen in zip(exact, kept, strict=True)])
        assert rows.dtype == torch.float32
        assert np.allclose(rows.numpy(), wanted, rtol=rel, atol=0)
    wide = Reduction(kind)(features.double(), channel_axis=-1)
    assert wide.dtype == torch.float64


def test_autocast_does_not_round_means() -> None:
    features = 100 + torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 50, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        rows = Reduction("mean")(features, channel_axis=-1, mask=mask)
    assert np.allclose(rows.numpy(), features.double().numpy().mean(axis=1), rtol=3e-7, atol=0)


def test_padding_that_is_not_a_number_does_not_count() -> None:
    features = torch.ones(2, 3, 4)
    features[1, 2] = float("nan")
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    assert torch.equal(Reduction("mean")(features, channel_axis=-1, mask=mask), torch.ones(2, 4))


def test_a_network_in_half_precision_is_averaged_in_float32() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.LeakyReLU(), nn.Conv2d(4, 3, 1)), dtype=torch.bfloat16
    )
    images = (300 + 20 * draw(2, 48, 48, labels=LABELS)).to(torch.bfloat16)
    found = profile(model, batches(images, LABELS, 12), layers="0,2", reduce="gap")
    for name in ("0", "2"):
        assert share(found, name) == pytest.approx(
            within_share(read(model, images, name).mean((2, 3))), rel=1e-4
        )


# ---------------------------------------------------------------- layouts


class ConvTextNet(nn.Module):
    """Words as (n, t, c), convolved as (n, c, t): normalised in either layout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(20, 6), nn.Dropout(0.1)
        self.conv, self.norm, self.act = nn.Conv1d(6, 5, 3, padding=1), nn.BatchNorm1d(5), nn.GELU()
        self.pool, self.back, self.head = nn.AvgPool1d(2), nn.Identity(), nn.Linear(5, 3)

    def forward(self, words: Tensor) -> Tensor:
        maps = self.act(self.norm(self.conv(self.drop(self.embed(words)).transpose(1, 2))))
        return self.head(self.back(self.pool(maps).movedim(1, 2)).mean(1))


class MixerNet(nn.Module):
    """Linear layers along tokens and along channels in turn; channels stay last."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.tokens, self.channels = (
            nn.Conv2d(3, 7, 2, stride=2),
            nn.Linear(16, 16),
            nn.Linear(7, 7),
        )
        self.mix, self.act, self.out = nn.Identity(), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = self.tokens(x.transpose(1, 2)).transpose(1, 2) + x
        return self.out(self.act(self.mix(x) + self.channels(x)).mean(1))


class Attention(nn.Module):
    """Heads are split and merged again, by einsum and as a scaled dot product."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(3, 8), nn.Linear(8, 24)
        self.first, self.second, self.head = nn.Identity(), nn.Tanh(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("nhid,nhjd->nhij", q, k).softmax(-1)
        x = x + self.first(torch.einsum("nhij,nhjd->nihd", scores, v).flatten(2))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.head(self.second(x + mixed)[:, 0])


class ParametersOfOwn(nn.Module):
    """No layer at all: products with parameters, from the right and from the left."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(5, 6))
        self.a, self.b, self.head = nn.Identity(), nn.Identity(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x @ self.right)
        return self.head(self.b(self.left @ x.transpose(1, 2)).amax(2))


class MapsLast(nn.Module):
    """Channels last maps, downsampled by folding four positions into channels; recurrent at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.act, self.merge = nn.Conv2d(3, 4, 2, stride=2), nn.SiLU(), nn.Linear(16, 6)
        self.drop, self.rnn, self.seq = nn.Dropout2d(0.1), nn.LSTM(6, 5, batch_first=True), nn.ReLU()
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.patch(images).permute(0, 2, 3, 1))
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = self.drop(self.merge(torch.cat(corners, -1)))
        return self.head(self.seq(self.rnn(x.flatten(1, 2))[0])[:, -1])


class Patches(nn.Module):
    """Patches cut out by unfold; a window slid along an axis afterwards leaves the layout open."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cut, self.act = nn.Conv2d(3, 5, 1), nn.Unfold(2, stride=2), nn.ReLU()
        self.flat, self.slid, self.head = nn.Identity(), nn.Identity(), nn.Linear(20, 3)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.flat(self.cut(self.act(self.stem(images))))
        return self.head(self.slid(patches.mT.unfold(1, 4, 4)).mean((1, 3)))


WORDS = torch.randint(0, 7, (36, 8), generator=torch.Generator().manual_seed(3)) + 5 * LABELS[:, None]
IMAGES = draw(3, 8, 8, labels=LABELS)
# network, inputs, then for every module the axes of positions in what it reads
LAYOUTS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any]]] = {
    "text": (ConvTextNet, WORDS, {"drop": 1, "norm": 2, "act": 2, "pool": 2, "back": 1}),
    "mixer": (MixerNet, IMAGES, {"mix": 1, "act": 1}),
    "attention": (Attention, draw(6, 3, labels=LABELS), {"first": 1, "second": 1}),
    "parameters": (ParametersOfOwn, draw(7, 4, labels=LABELS), {"a": 1, "b": 2}),
    "patches": (Patches, IMAGES, {"cut": (2, 3), "act": (2, 3), "flat": 2}),
    "maps last": (MapsLast, IMAGES, {"act": (1, 2), "drop": (1, 2), "rnn": 1, "seq": 1}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_gap_averages_positions_in_the_layout_that_the_network_made(kind: str) -> None:
    build, inputs, positions = LAYOUTS[kind]
    model = seeded(build)
    found = profile(model, batches(inputs, LABELS, 18), layers=list(positions), reduce="gap")
    assert not [text for text in found.warnings if "assumed" in text]
    for name, axes in positions.items():
        rows = read(model, inputs, name).mean(axis=axes)
        assert found[name].dim == rows.shape[1], name
        assert share(found, name) == pytest.approx(within_share(rows), rel=1e-9), name


@pytest.mark.parametrize("size", [3, 7, 36])
def test_the_layout_does_not_depend_on_the_batch_size(size: int) -> None:
    """Also where a batch has as many samples as a sequence has tokens or channels."""
    build, inputs, positions = LAYOUTS["maps last"]
    model = seeded(build)
    found = profile(model, [(x, c) for x, c in zip(inputs.split(size), LABELS.split(size), strict=True)],
                    layers=list(positions), reduce="gap")  # fmt: skip
    for name, axes in positions.items():
        assert share(found, name) == pytest.approx(
            within_share(read(model, inputs, name).mean(axis=axes)), rel=1e-9
        )


@pytest.mark.parametrize("counts", [None, [14, 10, 12]], ids=["labels unknown", "labels known"])
def test_inference_mode_inside_forward_is_followed_too(counts: list[int] | None) -> None:
    class Frozen(ConvTextNet):
        @torch.inference_mode()
        def forward(self, words: Tensor) -> Tensor:
            return super().forward(words)

    found, same = (
        profile(
            seeded(kind), batches(WORDS, LABELS, 18), layers="act,back", reduce="gap", class_counts=counts
        )
        for kind in (Frozen, ConvTextNet)
    )
    for one, other in zip(found.layers, same.layers, strict=True):
        assert (one.name, one.dim) == (other.name, 5)
        values, wanted = ({k: v for k, v in layer.train.items() if v is not None} for layer in (one, other))
        assert values == pytest.approx(wanted, rel=1e-9)


def test_a_layout_that_an_operation_leaves_open_is_said() -> None:
    found = profile(seeded(Patches), batches(IMAGES, LABELS, 18), layers="slid", reduce="gap")
    assert any("slid: channels are assumed on axis -3" in text for text in found.warnings)
    by_hand = profile(
        seeded(Patches), batches(IMAGES, LABELS, 18), layers="slid", reduce="gap", channel_axis=2
    )
    rows = read(seeded(Patches), IMAGES, "slid").mean((1, 3))
    assert share(by_hand, "slid") == pytest.approx(within_share(rows), rel=1e-9)


class NormOfMaps(nn.LayerNorm):
    """As in ConvNeXt: a layer norm that reads channels first."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def starts_with_a_norm() -> nn.Module:
    return nn.Sequential(NormOfMaps(3), nn.Flatten(2), nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(256, 3))


def test_an_input_that_no_layer_made_is_assumed_and_said_or_given_by_hand() -> None:
    model = seeded(starts_with_a_norm)
    loader = batches(IMAGES, LABELS, 18)
    found = profile(model, loader, layers="0,1", reduce="gap")
    assert [layer.dim for layer in found.layers] == [3, 3]
    assert any(
        "channels are assumed on axis -3" in text and "channel_axis=" in text for text in found.warnings
    )
    for given, dims in ((1, [3, 3]), (-1, [8, 8]), ({"0": 2, "1": 1}, [8, 3]), ("0=-1,[1]=1", [8, 3])):
        by_hand = profile(model, loader, layers="0,1", reduce="gap", channel_axis=given)
        assert [layer.dim for layer in by_hand.layers] == dims
        assert not [text for text in by_hand.warnings if "assumed" in text]
    rows = read(model, IMAGES, "0").mean((1, 2))
    last = profile(model, loader, layers="0", reduce="gap", channel_axis=-1)
    assert share(last, "0") == pytest.approx(within_share(rows), rel=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nor*": 1}, "no measured layer matches 'nor"),
        ({"2": -1}, "2 is a weight layer that reads channels along axis -2"),
        ({"0": 4}, "0 reads 4 axes; axis 4 is none"),
        (0, "channel_axis=0: give an axis other than 0"),
        (True, "channel_axis=True: give an axis"),
        ("0=x", "give an axis other than 0"),
        ("0,2", "channel_axis='0,2': give an axis other than 0"),
        ("foo", "channel_axis='foo': give an axis other than 0"),
        ({}, "give an axis other than 0"),
    ],
    ids=str,
)
def test_a_wrong_channel_axis_is_refused_in_one_line(given: Any, message: str) -> None:
    model = seeded(starts_with_a_norm)
    with pytest.raises(InputError) as caught:
        profile(model, batches(IMAGES, LABELS, 18), layers="0,2", reduce="gap", channel_axis=given)
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_one_channel_axis_for_all_leaves_weight_layers_as_they_are() -> None:
    model = seeded(LAYOUTS["mixer"][0])
    loader = batches(IMAGES, LABELS, 18)
    by_hand = profile(model, loader, layers="channels,mix", reduce="gap", channel_axis=1)
    assert (by_hand["channels"].dim, by_hand["mix"].dim) == (7, 16)


def test_axes_are_split_and_merged_along_their_factors() -> None:
    layout: Layout = (((4, "position"),), ((3, "position"),), ((8, "channel"),))
    heads = regroup(layout, (4, 3, 2, 4))
    assert heads is not None
    assert heads == (((4, "position"),), ((3, "position"),), ((2, "channel"),), ((4, "channel"),))
    assert regroup(heads, (12, 8)) == (((4, "position"), (3, "position")), ((2, "channel"), (4, "channel")))
    assert regroup(layout, (4, 24)) == (((4, "position"),), ((3, "position"), (8, "channel")))
    assert regroup(layout, (16, 6)) is None  # across the border of an axis
    assert parse_channel_axis("-2") == -2
    assert parse_channel_axis("a*=1, b=-1") == {"a*": 1, "b": -1}
