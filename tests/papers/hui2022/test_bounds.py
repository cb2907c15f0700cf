"""The bound of sec. 4.1: no classifier passes it, one reaches it."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import collapselab
from collapselab.data import load_digits
from collapselab.errors import InputError
from collapselab.models import MLP
from collapselab.papers.hui2022.bounds import (
    any_points_bound,
    best_accuracy_of_points,
    collapsed_representation,
    super_class_bound,
)
from collapselab.papers.hui2022.constructions import OneHotDecisions
from collapselab.probes.capture import capture_inputs
from collapselab.probes.evaluating import evaluating

SAMPLES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30)


@given(SAMPLES, st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_no_table_of_decisions_passes_the_bound(samples: list[tuple[int, int]], table: list[int]) -> None:
    points, labels = (torch.tensor(column) for column in zip(*samples, strict=True))
    correct = sum(table[point] == label for point, label in samples)
    assert Fraction(correct, len(samples)) <= best_accuracy_of_points(points, labels)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_some_table_reaches_the_bound(samples: list[tuple[int, int]]) -> None:
    """All 27 tables are tried: the best of them is the bound, neither less nor more."""
    points, labels = (torch.tensor(column) for column in zip(*samples, strict=True))
    best = max(
        sum(table[point] == label for point, label in samples)
        for table in itertools.product(range(3), repeat=3)
    )
    assert best_accuracy_of_points(points, labels) == Fraction(best, len(samples))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=8).filter(
        lambda classes: sum(count for _, count in classes) > 0
    )
)
def test_closed_form_is_the_count_of_samples(classes: list[tuple[int, int]]) -> None:
    groups, counts = ([pair[i] for pair in classes] for i in (0, 1))
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    bound = super_class_bound(groups, counts)
    assert bound == best_accuracy_of_points(torch.tensor(groups)[labels], labels)
    assert bound <= any_points_bound(len(set(groups)), counts)


@given(SAMPLES)
def test_any_points_bound_holds_however_samples_fall(samples: list[tuple[int, int]]) -> None:
    points, labels = (torch.tensor(column) for column in zip(*samples, strict=True))
    counts = torch.bincount(labels).tolist()
    assert best_accuracy_of_points(points, labels) <= any_points_bound(len(points.unique()), counts)


def test_two_points_for_ten_balanced_classes() -> None:
    assert super_class_bound([c % 2 for c in range(10)]) == Fraction(1, 5)
    assert super_class_bound([c % 2 for c in range(10)], [7] * 10) == Fraction(1, 5)
    assert super_class_bound(range(10)) == 1
    assert super_class_bound([0, 0, 1], [1, 2, 3]) == Fraction(5, 6)
    assert any_points_bound(2, [3] * 10) == Fraction(1, 5)
    assert any_points_bound(2, [1, 4, 2]) == Fraction(6, 7)


def test_points_are_equal_rows() -> None:
    rows = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [1.0, 1e-30]])
    assert best_accuracy_of_points(rows, torch.tensor([0, 1, 2, 3])) == Fraction(3, 4)
    assert best_accuracy_of_points(rows[:2, 0], torch.tensor([0, 1])) == Fraction(1, 2)
    assert best_accuracy_of_points(rows.bfloat16(), torch.tensor([0, 1, 2, 3])) == Fraction(3, 4)


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
    batches = list(zip(inputs.split(100), labels.split(100), strict=True))
    found = collapsed_representation(parity, 2, batches)
    assert found.num_points == 2
    assert torch.equal(found.labels, labels)
    assert _probe_accuracy(found.features, labels) <= found.bound <= Fraction(1, 5)
    # Nearly all samples are on the point of their parity, and the bound is nearly reached.
    assert found.bound > Fraction(19, 100)
    with evaluating(parity):
        assert torch.equal(found.features.argmax(1), parity(inputs).argmax(1))
        accuracy = float((found.features.argmax(1) == labels % 2).double().mean())
    assert accuracy > 0.9
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
        (lambda: best_accuracy_of_points(torch.zeros(0), torch.zeros(0).long()), "0 points and 0 labels"),
        (lambda: best_accuracy_of_points(torch.zeros(2), torch.zeros(3).long()), "2 points and 3 labels"),
        (lambda: best_accuracy_of_points(torch.full((2,), np.nan), torch.zeros(2).long()), "are NaN"),
        (lambda: super_class_bound([]), "class counts"),
        (lambda: super_class_bound([0, 1], [1]), "2 classes and 1 class counts"),
        (lambda: super_class_bound([0, 1], [1, -1]), "negative"),
        (lambda: any_points_bound(0, [1]), "at least one point"),
        (lambda: collapsed_representation(nn.Linear(3, 2), 2, []), "batches are empty"),
    ):
        with pytest.raises(InputError, match=message):
            call()
