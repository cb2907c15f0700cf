"""The bound of sec. 4.1: no classifier passes it, one reaches it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import collapselab
from collapselab.data import load_digits
from collapselab.errors import InputError
from collapselab.metrics.bounds import any_points_bound, super_class_bound
from collapselab.models import MLP
from collapselab.models.constructions import OneHotDecisions
from collapselab.probes.capture import capture_inputs
from collapselab.probes.evaluating import evaluating

SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30)


def best_accuracy(points: Iterable[int], labels: Iterable[int]) -> Fraction:
    """Return the best accuracy of a classifier that sees only the point: it predicts each point's most frequent class."""
    counts = Counter(zip(points, labels, strict=True))
    best = {point: max(count for (at, _), count in counts.items() if at == point) for point, _ in counts}
    return Fraction(sum(best.values()), counts.total())


@given(SAMPLES, st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_no_table_of_decisions_passes_the_bound(samples: list[tuple[int, int]], table: list[int]) -> None:
    correct = sum(table[point] == label for point, label in samples)
    assert Fraction(correct, len(samples)) <= best_accuracy(*zip(*samples, strict=True))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_some_table_reaches_the_bound(samples: list[tuple[int, int]]) -> None:
    """All 27 tables are tried: the best of them is the bound, neither less nor more."""
    best = max(
        sum(table[point] == label for point, label in samples)
        for table in itertools.product(range(3), repeat=3)
    )
    assert best_accuracy(*zip(*samples, strict=True)) == Fraction(best, len(samples))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=8).filter(
        lambda classes: sum(count for _, count in classes) > 0
    )
)
def test_closed_form_is_the_count_of_samples(classes: list[tuple[int, int]]) -> None:
    groups, counts = ([pair[i] for pair in classes] for i in (0, 1))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    bound = super_class_bound(groups, counts)
    assert bound == best_accuracy([groups[label] for label in labels], labels)
    assert bound <= any_points_bound(len(set(groups)), counts)


@given(SAMPLES)
def test_any_points_bound_holds_however_samples_fall(samples: list[tuple[int, int]]) -> None:
    points, labels = zip(*samples, strict=True)
    counts = [labels.count(label) for label in range(5)]
    assert best_accuracy(points, labels) <= any_points_bound(len(set(points)), counts)


def test_two_points_for_ten_balanced_classes() -> None:
    assert super_class_bound([c % 2 for c in range(10)]) == Fraction(1, 5)
    assert super_class_bound([c % 2 for c in range(10)], [7] * 10) == Fraction(1, 5)
    assert super_class_bound(range(10)) == 1
    assert super_class_bound([0, 0, 1], [1, 2, 3]) == Fraction(5, 6)
    assert any_points_bound(2, [3] * 10) == Fraction(1, 5)
    assert any_points_bound(2, [1, 4, 2]) == Fraction(6, 7)


# ---------------------------------------------------------------- a network, and an adversary


@pytest.fixture(scope="module")
def balanced() -> tuple[Tensor, Tensor]:
    """Sixty test digits of each class."""
    test = load_digits().test
    chosen = torch.cat([(test.labels == c).nonzero()[:60, 0] for c in range(10)])
    return test.inputs[chosen], test.labels[chosen]


@pytest.fixture(scope="module")
def parity() -> MLP:
    """Trained to tell odd from even digits."""
    train = load_digits().train
    torch.manual_seed(0)
    model = MLP(64, 2, width=64, depth=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train.inputs), train.labels % 2).backward()
        optimizer.step()
    return model


def _probe_accuracy(features: Tensor, labels: Tensor) -> Fraction:
    """Of logistic regression, almost unpenalised, on the very samples it was fitted to: as strong as it gets."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e3, max_iter=2000).fit(features.numpy(), labels.numpy())
    return Fraction(int((model.predict(features.numpy()) == labels.numpy()).sum()), len(labels))


def test_two_points_do_not_tell_ten_digits(parity: MLP, balanced: tuple[Tensor, Tensor]) -> None:
    inputs, labels = balanced
    collapsed = OneHotDecisions(parity, 2)
    with evaluating(parity):
        rows = collapsed.features(inputs)
        assert torch.equal(rows.argmax(1), parity(inputs).argmax(1))
    bound = best_accuracy(rows.argmax(1).tolist(), labels.tolist())
    assert _probe_accuracy(rows, labels) <= bound <= any_points_bound(2, [60] * 10) == Fraction(1, 5)
    # Nearly all samples are on the point of their parity, and the bound is nearly reached.
    assert bound > Fraction(19, 100)
    assert float((rows.argmax(1) == labels % 2).double().mean()) > 0.9
    assert parity.training


def test_features_that_have_not_collapsed_pass_the_bound(
    parity: MLP, balanced: tuple[Tensor, Tensor]
) -> None:
    """It is the collapse that takes the digits away: the layer before still tells them apart."""
    inputs, labels = balanced
    found: list[Tensor] = []
    with evaluating(parity), capture_inputs({"last": parity.layers[-1]}, lambda _, rows: found.append(rows)):
        parity(inputs)
    assert _probe_accuracy(found[0], labels) > Fraction(1, 2)


def test_its_profile_is_weakly_collapsed(parity: MLP, balanced: tuple[Tensor, Tensor]) -> None:
    inputs, labels = balanced
    profile = collapselab.profile(OneHotDecisions(parity, 2), [(inputs, labels % 2)])
    assert profile.layers[-1].name == "classifier"
    means = profile["classifier"].splits["train"].class_means
    assert means is not None
    assert means.sum(1).tolist() == pytest.approx([1, 1])


def test_bounds_refuse_what_is_none() -> None:
    for call, message in (
        (lambda: super_class_bound([]), "class counts"),
        (lambda: super_class_bound([0, 1], [1]), "2 classes and 1 class counts"),
        (lambda: super_class_bound([0, 1], [1, -1]), "negative"),
        (lambda: any_points_bound(0, [1]), "at least one point"),
    ):
        with pytest.raises(InputError, match=message):
            call()
