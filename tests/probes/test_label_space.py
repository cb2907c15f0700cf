"""Labels of any size: results, memory and time follow the labels that occur."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from by_hand import assert_equals_oracle
from probe_networks import batches, draw, read_slowly, seeded, uneven
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from collapselab.errors import InputError
from collapselab.models import MLP
from collapselab.probes import Profile, profile
from collapselab.probes.label_space import LabelSpace

LABELS = uneven(30, 22, 25, 13)
INPUTS = draw(6, labels=LABELS)
IDS = torch.tensor([3, 70_001, 1_000_003, 19_999_999])


class Embedding(nn.Module):
    """No class scores: distances of these outputs are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 9), nn.Tanh()), nn.Linear(9, 5)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"embeddings": nn.functional.normalize(self.head(self.body(inputs)), dim=1)[:, :, None]}


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 4, 2), nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        return [self.head(self.conv(inputs.unflatten(1, (2, 3))).relu().flatten(1))[:, :, None]]


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        one, two = inputs.chunk(2, dim=1)
        return (self.twin(one) - self.twin(two)).square().sum()


NETWORKS = pytest.mark.parametrize(
    "network", [Embedding, Convolutional, Siamese], ids=lambda kind: kind.__name__
)


def generator(labels: Tensor) -> Iterator[Any]:
    yield from batches(INPUTS, labels, 16)


LOADERS: dict[str, Callable[[Tensor], Any]] = {
    "list": lambda labels: batches(INPUTS, labels, 16),
    "data set": lambda labels: DataLoader(TensorDataset(INPUTS, labels), 16),
    "iterator": generator,
}
every_loader = pytest.mark.parametrize("kind", LOADERS)


def numbers(found: Profile) -> list[Any]:
    """Everything but the labels themselves."""
    values = found.to_dict()
    del values["classes"]
    return [values, [layer.splits["train"].class_means for layer in found.layers]]


@every_loader
@NETWORKS
def test_ids_give_the_numbers_of_dense_labels_bit_for_bit(kind: str, network: Any) -> None:
    model, make = seeded(network), LOADERS[kind]
    dense, ids = profile(model, make(LABELS)), profile(model, make(IDS[LABELS]))
    assert (dense.classes, ids.classes) == ((0, 1, 2, 3), tuple(IDS.tolist()))
    (expected, means), (found, ids_means) = numbers(dense), numbers(ids)
    assert found == expected
    for a, b in zip(means, ids_means, strict=True):
        assert torch.equal(a, b)


@every_loader
@NETWORKS
def test_ids_give_the_numbers_of_a_slow_computation(kind: str, network: Any) -> None:
    model = seeded(network)
    found = profile(model, LOADERS[kind](IDS[LABELS]))
    for layer in found.layers:
        name, _, call = layer.name.partition("#")
        caught: list[Tensor] = []
        module = model.get_submodule(name)
        with module.register_forward_pre_hook(lambda _, args, to=caught: to.append(args[0])):
            model(INPUTS)
        assert_equals_oracle(layer, caught[int(call or 1) - 1], LABELS)


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize("size", [1, 7, 90])
def test_the_order_in_which_labels_come_does_not_matter(order: str, size: int) -> None:
    """All of one class, then the next: the label space grows while the pass goes on."""
    by_label = LABELS.argsort(descending=order == "descending", stable=True)
    model = seeded(Embedding)
    found = profile(model, batches(INPUTS[by_label], IDS[LABELS[by_label]], size))
    assert found.classes == tuple(IDS.tolist())
    assert found["head"].splits["train"].counts.tolist() == [30, 22, 25, 13]
    assert_equals_oracle(found["head"], model.body(INPUTS), LABELS)
    assert found.weighting == "balanced"


def test_many_more_classes_than_in_the_first_batch() -> None:
    """Covariances of single classes are pooled once there are too many of them."""
    labels = torch.arange(40).repeat(4)
    inputs = draw(6, labels=labels)
    model = seeded(Embedding)
    train = batches(inputs[:4], labels[:4] % 2 * 7, 4) + batches(inputs, 1000 * labels, 10)
    found = profile(model, train, train)
    assert found["head"].scatter == "full"
    assert (found.weighting, len(found.classes)) == ("sample", 41)
    assert any("sample weighting is used" in text for text in found.warnings)
    every = torch.cat((labels[:4] % 2 * 7, 1000 * labels))
    features = model.body(torch.cat((inputs[:4], inputs))).detach()
    means = {int(label): features[every == label].mean(0) for label in every.unique()}
    within = float(
        sum((row - means[int(label)]).square().sum() for row, label in zip(features, every, strict=True))
    )
    for split in (found["head"].train, found["head"].test):
        assert split["within_trace"] == pytest.approx(within / len(every), rel=1e-9)
        assert split["vci"] is not None


def test_the_test_split_is_compared_by_id() -> None:
    labels, model = IDS[LABELS], seeded(Embedding)
    chosen = LABELS != 1
    for test in (
        batches(INPUTS[chosen], labels[chosen], 11),
        DataLoader(TensorDataset(INPUTS[chosen], labels[chosen]), 11),
    ):
        found = profile(model, LOADERS["list"](labels), test)
        assert found["head"].splits["test"].counts.tolist() == [30, 0, 25, 13]
        features = model.body(INPUTS).detach()
        centres = torch.stack([features[c == LABELS].mean(0) for c in range(4)])
        right = torch.cdist(features[chosen], centres).argmin(1) == LABELS[chosen]
        assert found["head"].test["ncc_accuracy"] == pytest.approx(float(right.double().mean()), abs=1e-15)
        assert any(
            "1 of the training classes have no samples here, the first is 70001" in w for w in found.warnings
        )


@pytest.mark.parametrize("kind", ["list", "data set"])
def test_a_test_id_without_training_samples_is_refused(kind: str) -> None:
    train = LOADERS["list"](IDS[LABELS.clamp(max=2)])
    with pytest.raises(
        InputError, match="test: 13 samples have labels that no training sample has, the first is 19999999"
    ):
        profile(seeded(Embedding), train, LOADERS[kind](IDS[LABELS]))


def test_declared_counts_of_ids() -> None:
    counts = torch.zeros(70_002, dtype=torch.int64)
    counts[3], counts[70_001] = 40, 50
    labels = torch.tensor([3, 70_001])[torch.arange(90).ge(40).long()]
    model = seeded(Embedding)
    found = profile(model, batches(INPUTS, labels, 16), scatter="full", class_counts=counts)
    assert (found.classes, found.weighting) == ((3, 70_001), "balanced")
    assert_equals_oracle(found["head"], model.body(INPUTS), (labels > 3).long())
    counts[5], counts[3] = 1, 39
    with pytest.raises(InputError, match="class 3 was declared with 39 samples but 40 came"):
        profile(model, batches(INPUTS, labels, 16), class_counts=counts)
    counts[3] = 0
    with pytest.raises(InputError, match="train, batch 0: label 3 is outside the 2 classes known beforehand"):
        profile(model, batches(INPUTS, labels, 16), class_counts=counts)


@pytest.mark.parametrize("kind", [dict, collections.Counter])
def test_declared_counts_by_label(kind: Any) -> None:
    ids, model = IDS[LABELS], seeded(Embedding)
    counts = kind(dict(zip(IDS.tolist(), (30, 22, 25, 13), strict=True)))
    train = LOADERS["list"](ids)
    found = profile(model, train, scatter="full", class_counts=counts)
    assert (found.weighting, found.classes) == ("balanced", tuple(IDS.tolist()))
    assert_equals_oracle(found["head"], model.body(INPUTS), LABELS)
    counts[IDS[1].item()] = 21
    with pytest.raises(InputError, match="class 70001 was declared with 21 samples but 22 came"):
        profile(model, train, class_counts=counts)


def test_agreement_with_decisions_is_by_label() -> None:
    """Outputs are numbered as labels are, not as the classes that occur."""
    model = seeded(MLP, 6, 12, width=7, depth=1)
    labels = torch.tensor([2, 3, 8, 11])[LABELS]
    found = profile(model, batches(INPUTS, labels, 16))
    features, scores = read_slowly(model, batches(INPUTS, labels, 16), "layers.1")
    centres = torch.stack([features[labels == c].mean(0) for c in (2, 3, 8, 11)])
    nearest = torch.tensor([2, 3, 8, 11])[torch.cdist(features, centres).argmin(1)]
    agreement = (nearest == scores.argmax(1)).double().mean()
    assert found["layers.1"].train["ncc_agreement"] == pytest.approx(float(agreement), abs=1e-15)


def test_a_large_vocabulary_takes_the_memory_of_its_tokens() -> None:
    """Three tokens of 50,000 occur; means of all would take 26 MB for each of several sums."""
    model = seeded(nn.Linear, 64, 50_000, dtype=torch.float32)
    tokens = torch.tensor([5, 777, 49_999])[torch.arange(60) % 3]
    inputs = draw(64, labels=torch.arange(60) % 3, dtype=torch.float32)
    grown = LabelSpace.open(tokens, 50_000)
    assert grown.room == 12
    found = profile(model, batches(inputs, tokens, 20), metrics=["within_trace", "ncc_agreement"])
    assert found.classes == (5, 777, 49_999)
    assert_equals_oracle(found.layers[0], inputs, torch.arange(60) % 3, rel=1e-6, metrics=["within_trace"])


def test_high_ids_take_no_more_memory_than_dense_labels() -> None:
    """A table over all labels would take 160 MB: allocations are watched as torch makes them."""

    def largest_allocation(labels: Tensor) -> int:
        train, test = LOADERS["data set"](labels), LOADERS["list"](labels)
        with torch.profiler.profile(profile_memory=True) as watched:
            profile(seeded(Embedding), train, test)
        return max(event.cpu_memory_usage for event in watched.events() or ())

    assert largest_allocation(IDS[LABELS]) <= 1.01 * largest_allocation(LABELS)


@pytest.mark.parametrize("labels", [[5, 2, 9, 2], [7], []])
def test_a_space_numbers_labels_as_they_come(labels: list[int]) -> None:
    space = LabelSpace.open(torch.tensor(labels, dtype=torch.int64), None)
    space.add(torch.tensor(labels, dtype=torch.int64))
    space.add(torch.tensor([1, 5, 2]))
    before = space.values.tolist()
    assert space.numbers(torch.tensor([3, 1])).tolist() == [len(before), before.index(1)]
    order = space.settle()
    assert order is not None
    assert space.values.tolist() == sorted(before) == [before[at] for at in order]
    assert space.settle() is None
