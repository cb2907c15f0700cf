"""How the data come does not matter: batch sizes, orders, weightings, where class counts are from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_networks import (
    OF_WEIGHT,
    assert_equals_measure,
    batches,
    draw,
    measured,
    read_slowly,
    seeded,
    uneven,
)
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from collapselab.errors import InputError
from collapselab.models import MLP
from collapselab.probes import Profile, plan, profile

SIZES = (13, 50, 27)
LABELS = uneven(*SIZES)
INPUTS = draw(5, labels=LABELS)
MODEL = seeded(MLP, 5, 3, width=7, depth=1)


def same(found: Profile, wanted: Profile, rel: float = 1e-10) -> None:
    """float64 sums in another order differ by rounding, times condition numbers of at most 1e4."""
    assert [layer.name for layer in found.layers] == [layer.name for layer in wanted.layers]
    for a, b in zip(found.layers, wanted.layers, strict=True):
        assert a.train.keys() == b.train.keys()
        for name, value in b.train.items():
            other = a.train[name]
            assert (other is None) == (value is None), name
            if value is not None:
                assert other == pytest.approx(value, rel=rel, abs=rel), (a.name, name)


@cache
def in_one_batch(weighting: Any) -> Profile:
    return profile(MODEL, batches(INPUTS, LABELS, 90), class_counts=SIZES, weighting=weighting)


@given(size=st.integers(1, 100), seed=st.integers(0, 1000), weighting=st.sampled_from(["balanced", "sample"]))
@settings(max_examples=8)
def test_batch_size_and_order_do_not_matter(size: int, seed: int, weighting: Any) -> None:
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    mixed = batches(INPUTS[order], LABELS[order], size)
    same(profile(MODEL, mixed, class_counts=SIZES, weighting=weighting), in_one_batch(weighting))


@pytest.mark.parametrize("scatter", ["per_class", "full"])
@pytest.mark.parametrize("weighting", ["balanced", "sample"])
def test_unbalanced_classes_in_either_weighting(
    weighting: Any, scatter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scatter == "full":  # as of so many classes that a matrix for each would be too much
        monkeypatch.setattr(plan, "MAX_PER_CLASS_ENTRIES", 0)
    train = batches(INPUTS, LABELS, 32)
    found = profile(MODEL, train, class_counts=SIZES, weighting=weighting)
    features, scores = read_slowly(MODEL, train, "layers.1")
    weight = MODEL.layers[1].weight.detach()
    wanted = measured((features, LABELS, scores.argmax(1)), weight=weight, weighting=weighting)
    layer = found["layers.1"]
    assert (found.weighting, layer.scatter) == (weighting, scatter)
    if scatter == "full":
        wanted["train"] |= dict.fromkeys(("stable_rank_per_class", "stable_rank_published"))
    assert_equals_measure(layer, wanted)


def test_balanced_and_sample_weighting_differ_on_unbalanced_classes() -> None:
    """So that the tests above can fail."""
    one, other = (
        profile(MODEL, batches(INPUTS, LABELS, 20), class_counts=SIZES, weighting=weighting)
        for weighting in ("balanced", "sample")
    )
    a, b = (found["layers.1"].train["within_trace"] for found in (one, other))
    assert a is not None
    assert b is not None
    assert abs(a - b) > 1e-3 * a


# ---------------------------------------------------------------- where class counts are from


class WithTargets(Dataset[tuple[Tensor, int]]):
    targets = LABELS.tolist()

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return INPUTS[index], int(LABELS[index])


WIDER = TensorDataset(torch.cat([INPUTS, INPUTS + 1]), torch.cat([LABELS, LABELS]))
KNOWN: dict[str, Any] = {
    "TensorDataset": lambda: DataLoader(TensorDataset(INPUTS, LABELS), 32),
    "shuffled": lambda: DataLoader(TensorDataset(INPUTS, LABELS), 32, shuffle=True),
    "Subset": lambda: DataLoader(Subset(WIDER, range(90)), 32),
    "Subset of a Subset": lambda: DataLoader(Subset(Subset(WIDER, range(1, 180)), range(89, 179)), 32),
    "data set with targets": lambda: DataLoader(WithTargets(), 32),
}
UNKNOWN: dict[str, Any] = {
    "list": lambda: batches(INPUTS, LABELS, 32),
    "sampled with replacement": lambda: DataLoader(
        TensorDataset(INPUTS, LABELS), 32, sampler=WeightedRandomSampler([1.0] * 90, 90)
    ),
    "drop_last": lambda: DataLoader(TensorDataset(INPUTS, LABELS), 32, drop_last=True),
    "batch sampler": lambda: DataLoader(
        TensorDataset(INPUTS, LABELS), batch_sampler=BatchSampler(SequentialSampler(range(90)), 32, True)
    ),
}


def pooled(loader: Any, *args: Any, **kwargs: Any) -> Profile:
    """With scatter that is pooled over classes, so that the weighting must be known beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MAX_PER_CLASS_ENTRIES", 0)
        return profile(MODEL, loader, *args, **kwargs)


@pytest.mark.parametrize("kind", KNOWN)
def test_class_counts_are_read_from_the_data_set(kind: str) -> None:
    loader = KNOWN[kind]()
    found = pooled(loader)
    assert found.weighting == "balanced"
    assert not any("weighting" in text for text in found.warnings)
    labels = torch.cat([batch[1] for batch in loader])
    same(found, pooled(loader, class_counts=torch.bincount(labels)))


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_class_counts_fall_back_to_sample_weighting_and_say_so(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = pooled(UNKNOWN[kind](), metrics=["within_trace", "components_90"])
    assert found.weighting == "sample"
    assert any("sample weighting is used" in text and "class_counts=" in text for text in found.warnings)


def test_traces_need_no_counts_to_be_balanced() -> None:
    loader = UNKNOWN["list"]()
    found = pooled(loader, metrics=["within_trace", "cdnv"])
    assert found.weighting == "balanced"
    assert {layer.scatter for layer in found.layers} == {"trace"}
    counts = torch.bincount(torch.cat([batch[1] for batch in loader]))
    known = pooled(loader, metrics=["within_trace", "cdnv"], class_counts=counts)
    for layer, other in zip(found.layers, known.layers, strict=True):
        # In another order of rows, up to rounding.
        assert layer.train == pytest.approx(other.train, rel=1e-12)


def test_balanced_classes_need_no_counts() -> None:
    labels = uneven(20, 20, 20)
    found = pooled(batches(draw(5, labels=labels), labels, 16))
    assert found.weighting == "balanced"


def test_the_labels_that_split_batch_gives_are_the_ones_that_count() -> None:
    """The data set's last tensor is another set of labels."""
    other = (LABELS + 1) % 2
    loader = DataLoader(TensorDataset(INPUTS, LABELS, other), 32)
    found = profile(MODEL, loader, split_batch=lambda batch: (batch[0], batch[1]))
    assert found.classes == (0, 1, 2)
    assert found["layers.0"].splits["train"].counts.tolist() == list(SIZES)


def test_test_counts_that_are_unknown_weight_the_test_split_by_sample() -> None:
    test_labels = uneven(10, 4, 9, seed=3)
    test = batches(draw(5, labels=test_labels, seed=5), test_labels, 7)
    found = pooled(batches(INPUTS, LABELS, 32), test, class_counts=SIZES)
    assert found.weighting == "balanced"
    assert any(text.startswith("test: sample weighting is used") for text in found.warnings)


def test_classes_of_one_sample_are_warned_of() -> None:
    labels = uneven(1, 20, 1)
    found = profile(MODEL, batches(draw(5, labels=labels), labels, 16))
    assert any("2 classes have one sample" in text for text in found.warnings)


# ---------------------------------------------------------------- what can be read once


@pytest.mark.usefixtures("reads_twice")
def test_an_iterator_has_no_second_pass() -> None:
    whole = profile(MODEL, batches(INPUTS, LABELS, 32), class_counts=SIZES)
    found = profile(MODEL, iter(batches(INPUTS, LABELS, 32)), class_counts=SIZES)
    for layer in found.layers:
        for name, value in whole[layer.name].train.items():
            assert layer.train[name] == (None if name.startswith("ncc_") else value), name
    assert any("can be read once" in text for text in found.warnings)


def test_a_generator_of_test_data_is_enough() -> None:
    """Nearest centres are found in the first pass over test data."""

    def generated() -> Iterator[Any]:
        yield from batches(INPUTS, LABELS, 32)

    found = profile(MODEL, batches(INPUTS, LABELS, 32), generated(), class_counts=SIZES)
    assert found["layers.1"].test["ncc_accuracy"] == found["layers.1"].train["ncc_accuracy"]
    assert found["layers.1"].test["ncc_agreement"] == found["layers.1"].train["ncc_agreement"]


class Once:
    """Can be iterated over once, and does not say so."""

    def __init__(self) -> None:
        self.begun = iter(batches(INPUTS, LABELS, 32))

    def __iter__(self) -> Iterator[Any]:
        return self.begun


@pytest.mark.usefixtures("reads_twice")
def test_a_loader_that_yields_other_data_the_second_time_is_refused() -> None:
    with pytest.raises(InputError, match="second time"):
        profile(MODEL, Once(), class_counts=SIZES)


@pytest.mark.parametrize("weighting", ["balanced", "sample"])
def test_pooled_scatter_of_equal_classes_with_gaps(weighting: Any) -> None:
    """Labels without samples have no weight: 0 and 2 are two balanced classes, as 0 and 1 are."""
    labels = uneven(30, 30)
    inputs = draw(5, labels=labels)
    whole, gaps = (
        pooled(DataLoader(TensorDataset(inputs, numbers), 32), weighting=weighting)
        for numbers in (labels, 2 * labels)
    )
    assert gaps.classes == (0, 2)
    for layer in whole.layers:
        for name in ("fuzziness", "vci", "stable_rank", "components_90", "within_trace"):
            assert gaps[layer.name].train[name] == pytest.approx(layer.train[name], rel=1e-12), name


def test_classes_with_gaps() -> None:
    """Labels 0, 3 and 7 of a network with nine outputs."""
    labels = torch.tensor([0, 3, 7])[LABELS]
    model = seeded(MLP, 5, 9, width=7, depth=1)
    train = batches(INPUTS, labels, 32)
    found = profile(model, train, train)
    assert found.classes == (0, 3, 7)
    features, scores = read_slowly(model, train, "layers.1")
    decided = scores.argmax(1)
    # A decision outside the classes agrees with no centre: `measure` knows no such decisions.
    centres = torch.stack([features[labels == c].mean(0) for c in (0, 3, 7)])
    nearest = torch.tensor([0, 3, 7])[torch.cdist(features, centres).argmin(1)]
    layer = found["layers.1"]
    for values in (layer.train, layer.test):
        assert values["ncc_agreement"] == pytest.approx(
            float((nearest == decided).double().mean()), abs=1e-15
        )
        assert values["self_duality"] is None
    wanted = measured((features, labels, labels))
    skip = sorted(OF_WEIGHT | {"ncc_agreement", "ncc_mismatch"})
    assert_equals_measure(layer, {"train": wanted["train"]} | {"test": layer.test}, skip=skip)
    assert any("9 outputs for 3 classes" in text for text in found.warnings)
