"""What passes over the data are made: never more than two, features never kept, float64 where float32 was too coarse."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from probe_networks import assert_equals_measure, batches, draw, measured, seeded, uneven
from torch import Tensor, nn

from collapselab.probes import profile

P = 300  # above the width up to which products are float64 anyway
LABELS, TEST_LABELS = uneven(120, 140, 160), uneven(110, 120, 130, seed=1)

pytestmark = pytest.mark.usefixtures("reads_twice")


# By id of the loader, whose own attributes `profile` restores.
BEGUN: Counter[int] = Counter()
YIELDED: Counter[int] = Counter()


class Counted:
    """A loader that counts how often it is begun and what it yields."""

    def __init__(self, inputs: Tensor, labels: Tensor, size: int = 60) -> None:
        self.batches = batches(inputs, labels, size)
        BEGUN[id(self)] = YIELDED[id(self)] = 0

    @property
    def begun(self) -> int:
        return BEGUN[id(self)]

    @property
    def yielded(self) -> int:
        return YIELDED[id(self)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        BEGUN[id(self)] += 1
        for batch in self.batches:
            YIELDED[id(self)] += 1
            yield batch


def far_from_the_origin(labels: Tensor, seed: int) -> Tensor:
    """Collapsed features, float32: classes 1 apart and 1e-3 wide about 300."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(3, P, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise = 1e-3 * torch.randn(len(labels), P, generator=generator, dtype=torch.float64)
    return (300 + means[labels] + noise).float()


def wide_spectrum(labels: Tensor, seed: int) -> Tensor:
    """Standard deviations from 1 to 1e-4, rotated; class means along the small ones too."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(5)
    scale = torch.logspace(0, -4, P, dtype=torch.float64)
    means = torch.randn(3, P, generator=fixed, dtype=torch.float64) * scale
    rotation = torch.linalg.qr(torch.randn(P, P, generator=fixed, dtype=torch.float64))[0]
    noise = torch.randn(len(labels), P, generator=generator, dtype=torch.float64) * scale
    return ((means[labels] + noise) @ rotation).float()


@pytest.mark.parametrize(
    ("draw_features", "passes", "rel"),
    [
        # Centred before they are multiplied, they are trusted to 1e-6 without another pass.
        (far_from_the_origin, (2, 1), 2e-6),
        # In float64: eps64 times the condition number 1e8 of a covariance, times 419/119 for adjusted VCI.
        (wide_spectrum, (2, 2), 4e-7),
    ],
)
def test_covariances_that_float32_is_too_coarse_for_are_taken_again(
    draw_features: Any, passes: tuple[int, int], rel: float
) -> None:
    inputs, test_inputs = draw_features(LABELS, 1), draw_features(TEST_LABELS, 2)
    model = seeded(nn.Sequential, nn.Linear(P, 3), dtype=torch.float32)
    train, test = Counted(inputs, LABELS), Counted(test_inputs, TEST_LABELS)
    found = profile(model, train, test, class_counts=torch.bincount(LABELS))
    assert (train.begun, test.begun) == passes
    with torch.no_grad():
        decided = [torch.cat([model(x) for x, _ in loader.batches]).argmax(1) for loader in (train, test)]
    weight = model[0].weight.detach()
    wanted = measured((inputs, LABELS, decided[0]), (test_inputs, TEST_LABELS, decided[1]), weight=weight)
    assert_equals_measure(found.layers[0], wanted, rel=rel)
    assert not any("only good to about" in text for text in found.warnings)


def test_features_that_float32_products_are_good_enough_for_cost_test_data_one_pass() -> None:
    inputs, test_inputs = (
        draw(P, labels=labels, seed=seed, dtype=torch.float32)
        for labels, seed in ((LABELS, 1), (TEST_LABELS, 2))
    )
    model = seeded(nn.Sequential, nn.Linear(P, 3), dtype=torch.float32)
    train, test = Counted(inputs, LABELS), Counted(test_inputs, TEST_LABELS)
    metrics = ["normalized_within", "vci", "stable_rank", "ncc_accuracy"]
    profile(model, train, test, class_counts=torch.bincount(LABELS), metrics=metrics)
    assert (train.begun, test.begun) == (2, 1)
    assert train.yielded == 2 * len(train.batches)


@pytest.mark.parametrize(
    ("scatter", "metrics", "passes"),
    [
        ("auto", ["normalized_within", "vci"], (1, 1)),
        ("auto", ["ncc_accuracy"], (2, 1)),
        ("trace", None, (2, 1)),
        ("sketch", ["normalized_within"], (1, 1)),
        ("sketch", ["stable_rank"], (2, 2)),
        ("sketch", None, (2, 2)),
    ],
)
def test_no_pass_more_than_the_wanted_metrics_need(
    scatter: Any, metrics: Any, passes: tuple[int, int]
) -> None:
    labels = LABELS[:200]
    inputs = draw(80, labels=labels)
    model = seeded(nn.Sequential, nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 3))
    train, test = Counted(inputs, labels), Counted(inputs, labels)
    counts = torch.bincount(labels)
    found = profile(model, train, test, scatter=scatter, metrics=metrics, class_counts=counts)
    assert (train.begun, test.begun) == passes
    for layer in found.layers:
        for split in (layer.train, layer.test):
            assert all(split[name] is not None for name in metrics or ["normalized_within", "ncc_accuracy"])


def test_sketched_test_data_are_refined_about_their_own_means() -> None:
    inputs, test_inputs = draw(P, labels=LABELS), 3 * draw(P, labels=TEST_LABELS, seed=2)
    model = seeded(nn.Sequential, nn.Linear(P, 3))
    found = profile(
        model,
        batches(inputs, LABELS, 60),
        batches(test_inputs, TEST_LABELS, 60),
        scatter="sketch",
        weighting="sample",
    )
    with torch.no_grad():
        splits = [(x, y, model(x).argmax(1)) for x, y in ((inputs, LABELS), (test_inputs, TEST_LABELS))]
    wanted = measured(splits[0], splits[1], weighting="sample")
    for split, values in wanted.items():
        metrics = found.layers[0].splits[split].metrics
        low, high = metrics["stable_rank_low"], metrics["stable_rank_high"]
        assert low is not None
        assert high is not None
        assert low <= values["stable_rank"] <= high
        for name in ("within_trace", "between_trace", "cdnv", "ncc_accuracy", "ncc_agreement"):
            assert metrics[name] == pytest.approx(values[name], rel=1e-10), name


@pytest.mark.usefixtures("fast_collection")
def test_features_are_gone_when_the_next_batch_comes() -> None:
    """Two hidden tensors of every batch, one of them read by two layers."""
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(70, 80), nn.Linear(80, 80)
            self.other, self.fc = nn.Linear(80, 80), nn.Linear(80, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            nonlocal most
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            hidden = self.first(inputs).relu()
            later = (self.second(hidden) + self.other(hidden)).relu()
            alive.extend(weakref.ref(tensor.untyped_storage()) for tensor in (hidden, later))
            held.extend(weakref.ref(tensor) for tensor in (hidden, later))
            return self.fc(later)

    held: list[weakref.ref[Any]] = []
    labels = LABELS[:200]
    train = Counted(draw(70, labels=labels), labels, 25)
    found = profile(seeded(Watched), train, train, scatter="sketch", class_counts=torch.bincount(labels))
    gc.collect()
    assert len(held) == 2 * (2 + 1 + 4 * len(train.batches))  # looks at the first two batches, four passes
    assert most == 0
    assert all(ref() is None for ref in held)
    assert [layer.name for layer in found.layers] == ["first", "second", "other", "fc"]
    assert found["second"].train["within_trace"] == found["other"].train["within_trace"]


def test_progress_says_what_is_done_and_how_far() -> None:
    labels = LABELS[:100]
    calls: list[tuple[str, int, int]] = []
    train = batches(draw(5, labels=labels), labels, 40)
    counts = torch.bincount(labels)
    profile(
        seeded(nn.Linear, 5, 3), train, train, class_counts=counts, progress=lambda *call: calls.append(call)
    )
    steps = (40, 80, 100)
    assert calls[:3] == [("train: class statistics", done, 100) for done in steps]
    assert calls[3] == ("train: metrics", 1, 1)
    assert calls[4:7] == [("train: nearest class means", done, 100) for done in steps]
    assert calls[7:10] == [("test: nearest class means", done, 0) for done in steps]
    assert calls[10:] == [("test: metrics", 1, 1)]
