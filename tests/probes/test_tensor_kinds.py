"""Complex, sparse, packed, nested and masked tensors: measured as what they are, or left out with the reason."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import assert_equals_oracle
from probe_networks import batches, draw, seeded, uneven
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from collapselab.errors import InputError
from collapselab.probes import profile
from collapselab.probes.tensors import UnreadableError, ordinary
from collapselab.probes.weights import weight_matrix

LABELS = uneven(20, 25, 15)


def read(model: nn.Module, name: str, loader: Any) -> Tensor:
    """What a module reads in its first call, all batches together; sparse features as dense ones."""
    caught: list[Tensor] = []
    module = model.get_submodule(name)
    with module.register_forward_pre_hook(lambda _, args: caught.append(args[0])), torch.no_grad():
        for inputs, _ in loader:
            model(inputs)
    return torch.cat([part.to_dense() for part in caught])


# ---------------------------------------------------------------- complex


def complex_inputs(*shape: int) -> Tensor:
    """The classes differ in their imaginary parts alone, which a cast to real would drop."""
    real = torch.randn(len(LABELS), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return torch.complex(real, draw(*shape, labels=LABELS))


class ComplexMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6, dtype=torch.complex128)
        self.second = nn.Linear(6, 4, dtype=torch.complex128)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(torch.tanh(self.first(inputs))).abs())


class ComplexConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 2, dtype=torch.complex128)
        self.second = nn.Conv2d(4, 3, 2, dtype=torch.complex128)
        self.head = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs)).abs().mean((2, 3)))


class Fourier(nn.Module):
    """A real network with a spectral layer of its own, as in Fourier neural operators."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.spectral = nn.Linear(5, 5, bias=False, dtype=torch.complex128)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.fft.irfft(self.spectral(torch.fft.rfft(self.lift(inputs))), n=8))


def complex_network(kind: str) -> tuple[nn.Module, Tensor, tuple[str, ...]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "dense":
            model, inputs, names = ComplexMLP(), complex_inputs(5), ("first", "second")
        elif kind == "convolution":
            model, inputs, names = ComplexConvolution(), complex_inputs(2, 4, 4), ("first", "second")
        else:
            model, inputs, names = Fourier(), draw(8, labels=LABELS), ("spectral",)
    for layer in (model.head, getattr(model, "lift", model.head)):
        layer.double()
    return model, inputs, names


@pytest.mark.parametrize("reduce", ["flatten", "gap"])
@pytest.mark.parametrize("kind", ["dense", "convolution", "spectral"])
def test_complex_features_have_the_geometry_of_complex_vectors(kind: str, reduce: str) -> None:
    model, inputs, names = complex_network(kind)
    train = batches(inputs, LABELS, 16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Casting complex")
        found = profile(model, train, reduce=reduce)
    for name in names:
        features = read(model, name, train)
        if reduce == "gap" and features.ndim == 4:
            features = features.mean((2, 3))
        assert_equals_oracle(found[name], features, LABELS)
        rows = features.flatten(1).numpy()
        means = np.stack([rows[LABELS.numpy() == c].mean(0) for c in range(3)])
        distances = np.abs(rows - means[LABELS.numpy()]) ** 2
        within = np.mean([distances[LABELS.numpy() == c].sum(1).mean() for c in range(3)])
        assert found[name].train["within_trace"] == pytest.approx(within, rel=1e-9)


@pytest.mark.parametrize("kind", ["dense", "convolution", "spectral"])
def test_metrics_of_a_complex_weight_are_null_and_said(kind: str) -> None:
    model, inputs, names = complex_network(kind)
    found = profile(model, batches(inputs, LABELS, 16))
    for name in names:
        assert found[name].train["alignment"] is None
        assert found[name].train["weight_stable_rank"] is None
        assert any(name in text and "the weight is complex" in text for text in found.warnings)
    assert found["head"].train["alignment"] is not None


@pytest.mark.parametrize("phase", [0.3, np.pi / 2])
def test_a_common_phase_changes_nothing(phase: float) -> None:
    model, inputs, _ = complex_network("dense")
    turned = inputs * torch.exp(torch.tensor(1j * phase))
    one, other = (
        profile(model, batches(x, LABELS, 20), layers="first")["first"].train for x in (inputs, turned)
    )
    for metric in (
        "normalized_within",
        "fuzziness",
        "equinorm",
        "cosine_similarity",
        "stable_rank",
        "ncc_accuracy",
    ):
        assert one[metric] == pytest.approx(other[metric], rel=1e-9), metric


def test_complex_class_scores_decide_nothing() -> None:
    model = nn.Linear(5, 3, dtype=torch.complex128)
    found = profile(nn.Sequential(model), batches(complex_inputs(5), LABELS, 20))
    assert found["0"].train["ncc_agreement"] is None
    assert any("no class scores" in text for text in found.warnings)


# ---------------------------------------------------------------- sparse


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Linear(30, 6), nn.Linear(6, 3)

    def forward(self, counts: Tensor) -> Tensor:
        return self.head(self.words(counts).relu())


class Normalised(BagOfWords):
    def forward(self, counts: Tensor) -> Tensor:
        return super().forward(counts * 0.5)


class TwoTowers(nn.Module):
    """Two layers read the same sparse tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(30, 4), nn.Linear(30, 4), nn.Linear(4, 3)

    def forward(self, counts: Tensor) -> Tensor:
        return self.head(self.one(counts).tanh() * self.two(counts).tanh())


def counts_of_words() -> Tensor:
    return (draw(30, labels=LABELS) - 1).relu()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc], ids=str)
@pytest.mark.parametrize("network", [BagOfWords, Normalised, TwoTowers], ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_features_have_the_numbers_of_dense_ones(network: Any, layout: torch.layout) -> None:
    model, inputs = seeded(network), counts_of_words()
    train = [(x.to_sparse(layout=layout), y) for x, y in batches(inputs, LABELS, 16)]
    found, dense = profile(model, train), profile(model, batches(inputs, LABELS, 16))
    for layer in dense.layers:
        for metric, value in layer.train.items():
            wanted = None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
            assert found[layer.name].train[metric] == wanted, metric
        assert_equals_oracle(found[layer.name], read(model, layer.name, train), LABELS)


def test_sparse_features_that_do_not_fit_are_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr("collapselab.probes.tensors._MAX_DENSE_BYTES", 2**10)
    train = [(x.to_sparse(), y) for x, y in batches(counts_of_words(), LABELS, 16)]
    found = profile(seeded(BagOfWords), train)
    assert [layer.name for layer in found.layers] == ["head"]
    assert any("words is left out: it reads a sparse tensor" in text for text in found.warnings)
    with pytest.raises(
        InputError, match=r"layers: words cannot be measured: it reads a sparse tensor .* smaller batches"
    ):
        profile(seeded(BagOfWords), train, layers="words")


def test_a_sparse_weight_is_that_of_a_dense_one() -> None:
    layer = nn.Linear(4, 3)
    dense = layer.weight.detach().relu()
    layer.weight = nn.Parameter(dense.to_sparse(), requires_grad=False)
    found = weight_matrix(layer)
    assert found is not None
    assert torch.equal(found, dense)


# ---------------------------------------------------------------- packed sequences

LENGTHS = [2 + index * 7 % 5 for index in range(len(LABELS))]


def packed(size: int, width: int = 4) -> list[tuple[PackedSequence, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    sequences = [
        torch.randn(length, width, generator=generator, dtype=torch.float64) + label
        for length, label in zip(LENGTHS, LABELS, strict=True)
    ]
    return [
        (pack_sequence(sequences[start : start + size], enforce_sorted=False), LABELS[start : start + size])
        for start in range(0, len(LABELS), size)
    ]


class Classifier(nn.Module):
    def __init__(self, recurrent: Any = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.middle, self.head = recurrent(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, sequences: PackedSequence) -> Tensor:
        last = self.rnn(sequences)[1]
        return self.head(self.middle(last[0][-1] if isinstance(last, tuple) else last[-1]).relu())


class Tagger(nn.Module):
    """One label for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

    def forward(self, sequences: PackedSequence) -> Tensor:
        return self.head(self.rnn(sequences)[0].data)


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_packed_sequence_reaches_the_model_whole(recurrent: Any) -> None:
    model, train = seeded(Classifier, recurrent), packed(16)
    found = profile(model, train)
    for name in ("middle", "head"):
        assert_equals_oracle(found[name], read(model, name, train), LABELS)
    with pytest.raises(
        InputError, match="layers: rnn cannot be measured: it reads a packed sequence, which has no row"
    ):
        profile(model, train, layers="rnn")


def test_one_token_per_sequence_is_still_in_another_order_than_the_labels() -> None:
    labels = LABELS[:40]
    tokens = draw(4, labels=labels)
    train = [(pack_sequence(list(tokens.split(1)), enforce_sorted=False), labels)]
    with pytest.raises(InputError, match="no row per label"):
        profile(seeded(Classifier), train, layers="rnn")


def test_labels_that_are_packed_as_the_tokens_are() -> None:
    model, train = seeded(Tagger), packed(16)
    tags = [
        (inputs, pack_sequence([torch.full((length,), int(label)) for length, label in zip(lengths, labels, strict=True)], enforce_sorted=False))
        for (inputs, labels), lengths in zip(train, (LENGTHS[at : at + 16] for at in range(0, 60, 16)), strict=True)
    ]  # fmt: skip
    found = profile(model, tags, layers=["rnn", "head"])
    labels = torch.cat([tag.data for _, tag in tags])
    assert_equals_oracle(found["rnn"], torch.cat([inputs.data for inputs, _ in train]), labels)
    assert_equals_oracle(found["head"], read(model, "head", train), labels)


# ---------------------------------------------------------------- nested, masked, transformed, labels


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, sequences: Tensor) -> Tensor:
        return self.head(self.tokens(sequences).to_padded_tensor(0.0).sum(1))


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_layer_that_reads_a_nested_tensor_is_left_out(layout: torch.layout) -> None:
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in LENGTHS]
    train = [
        (torch.nested.nested_tensor(sequences[at : at + 20], layout=layout), LABELS[at : at + 20])
        for at in range(0, 60, 20)
    ]
    model = seeded(Pooled)
    found = profile(model, train)
    assert [layer.name for layer in found.layers] == ["head"]
    assert_equals_oracle(found["head"], read(model, "head", train), LABELS)
    assert any("tokens is left out: it reads a nested tensor" in text for text in found.warnings)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_a_layer_that_reads_a_masked_tensor_is_left_out() -> None:
    class Filling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.head = nn.Identity(), nn.Linear(5, 3)

        def forward(self, inputs: Any) -> Tensor:
            return self.head(self.look(inputs).to_tensor(0.0))

    inputs = draw(5, labels=LABELS)
    train = [(torch.masked.masked_tensor(x, x > 0), y) for x, y in batches(inputs, LABELS, 20)]
    found = profile(seeded(Filling), train, layers=lambda name, _: name != "")
    assert_equals_oracle(found["head"], inputs.relu(), LABELS)
    assert any("look is left out: it reads a masked tensor" in text for text in found.warnings)
    with pytest.raises(InputError) as refused:
        profile(seeded(nn.Linear, 5, 3), train)
    assert len(str(refused.value)) <= 300


def test_masked_labels_are_refused() -> None:
    labels = np.ma.masked_array(LABELS.numpy(), mask=LABELS.numpy() == 1)
    with pytest.raises(InputError, match="train, batch 0: labels are masked"):
        profile(seeded(nn.Linear, 5, 3), [(draw(5, labels=LABELS), labels)])


def test_a_layer_inside_vmap_is_left_out() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(torch.func.vmap(self.inner)(inputs))

    model, train = seeded(Mapped), batches(draw(5, labels=LABELS), LABELS, 20)
    found = profile(model, train)
    assert_equals_oracle(found["head"], read(model, "head", train), LABELS)
    assert any(
        "inner is left out: it reads a tensor inside a torch.func transform" in w for w in found.warnings
    )


def test_a_tensor_subclass_is_read_as_a_tensor() -> None:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    inputs = draw(3, 4, 4, labels=LABELS)
    train = [(tv_tensors.Image(x), y) for x, y in batches(inputs, LABELS, 20)]
    model = seeded(nn.Sequential, nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(18, 3))
    assert_equals_oracle(profile(model, train)["0"], inputs, LABELS)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_eight_bit_floats_are_read_exactly(dtype: torch.dtype) -> None:
    values = torch.randn(4, 3).to(dtype)
    assert torch.equal(ordinary(values), values.float())


def test_a_tensor_on_the_meta_device_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="meta device"):
        ordinary(torch.ones(2, device="meta"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn], ids=str)
def test_metrics_of_a_quantised_weight_are_of_what_it_codes_for(dtype: torch.dtype) -> None:
    class Quantised(nn.Linear):
        """Multiplies with a matrix that its stored weight only codes for."""

        def __init__(self) -> None:
            super().__init__(5, 4)
            self.weight = nn.Parameter((20 * self.weight).to(dtype), requires_grad=False)

        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input, self.weight.to(input.dtype) / 20)

    model, inputs = nn.Sequential(Quantised(), nn.Linear(4, 3).double()), draw(5, labels=LABELS)
    found = profile(model, batches(inputs, LABELS, 20))
    assert_equals_oracle(found["0"], inputs, LABELS)
    plain = nn.Linear(5, 4)
    plain.weight = nn.Parameter(model.get_parameter("0.weight").detach().float() / 20)
    wanted = profile(nn.Sequential(plain, nn.Linear(4, 3)), batches(inputs.float(), LABELS, 20))["0"].train
    for metric in ("alignment", "weight_stable_rank"):
        assert found["0"].train[metric] == pytest.approx(wanted[metric], rel=1e-5)
