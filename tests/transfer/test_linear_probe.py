"""The linear probe: what is chosen on which samples, and what is reported of which."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from collapselab import InputError
from collapselab.transfer import fit_logistic, linear_probe

C, P = 3, 20


def samples(seed: int, n: int, spread: float = 0.7) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).normal(size=(C, P))
    labels = np.arange(n) % C
    return torch.from_numpy(rng.normal(size=(n, P)) + spread * means[labels]), torch.from_numpy(labels)


def scaled(split: tuple[Any, Any], units: Any) -> tuple[Any, Any]:
    return split[0] * torch.as_tensor(units, dtype=torch.float64), split[1]


def reference(*, standardize: bool, penalty: float, n: int) -> Any:
    # Its L-BFGS stops when the loss is still by rounding, which at a large penalty decides a sample or two.
    model = LogisticRegression(C=1 / (n * penalty), tol=1e-12, solver="newton-cholesky")
    return make_pipeline(StandardScaler(), model) if standardize else model


@pytest.mark.parametrize("standardize", [True, False])
def test_the_whole_protocol_is_that_of_scikit_learn(standardize: bool) -> None:
    # Features of different units: only with standardisation are those of the small ones used.
    units = np.geomspace(1e-2, 10, P)
    train, validation, test = (scaled(samples(seed, n), units) for seed, n in ((1, 60), (2, 45), (3, 90)))
    found = linear_probe(train, test, validation=validation, num_penalties=13, standardize=standardize)
    scores = {
        float(penalty): reference(standardize=standardize, penalty=penalty, n=60)
        .fit(*train)
        .score(*validation)
        for penalty in np.geomspace(1e6, 1e-6, 13)
    }
    assert found.validation == pytest.approx(scores)
    best = max(scores, key=lambda penalty: scores[penalty])  # the first of equals: the largest penalty
    assert found.penalty == best
    both = tuple(np.concatenate(parts) for parts in zip(train, validation, strict=True))
    refit = reference(standardize=standardize, penalty=best, n=105).fit(*both)
    assert found.accuracy == refit.score(*test)
    assert np.array_equal(found.classifier.predict(test[0]).numpy(), refit.predict(test[0]))
    if standardize:
        weight = refit[-1].coef_ / refit[0].scale_
        np.testing.assert_allclose(found.classifier.weight.numpy(), weight, rtol=1e-4)


# ---------------------------------------------------------------- invariances

UNITS = st.one_of(
    st.floats(-6, 6).map(lambda power: np.full(P, 10.0**power)),  # of all features
    st.lists(st.floats(-6, 6), min_size=P, max_size=P).map(
        lambda powers: 10.0 ** np.array(powers)
    ),  # of each
)


def same(one: Any, other: Any) -> None:
    assert other.validation == one.validation
    assert (other.penalty, other.accuracy) == (one.penalty, one.accuracy)


@settings(max_examples=8)
@given(UNITS, st.floats(-100, 100))
def test_the_unit_and_the_origin_of_features_change_nothing(units: Any, origin: float) -> None:
    train, test = samples(1, 60, 0.4), samples(3, 60, 0.4)
    moved = [((split[0] + origin) * torch.from_numpy(units), split[1]) for split in (train, test)]
    found, wanted = linear_probe(*moved, num_penalties=7), linear_probe(train, test, num_penalties=7)
    same(wanted, found)
    weight = found.classifier.weight * torch.from_numpy(units)
    np.testing.assert_allclose(weight, wanted.classifier.weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1e-130, 1e-30, 1e30, 1e120])
def test_features_of_extreme_size_are_probed_as_any_others(size: float) -> None:
    train, test = samples(1, 60), samples(3, 60)
    wanted = linear_probe(train, test, num_penalties=5)
    same(wanted, linear_probe(scaled(train, size), scaled(test, size), num_penalties=5))


@pytest.mark.parametrize("ids", [(0, 1, 9999), (7, 8, 9), (5, 1_000_003, 20_000_000), (2, 2**40, 2**62)])
def test_labels_are_names_of_classes(ids: tuple[int, int, int]) -> None:
    train, test = samples(1, 60), samples(3, 60)
    named = [(split[0], torch.tensor(ids)[split[1]]) for split in (train, test)]
    found, wanted = linear_probe(*named, num_penalties=5), linear_probe(train, test, num_penalties=5)
    same(wanted, found)
    assert torch.equal(found.classifier.weight, wanted.classifier.weight)
    assert found.classifier.classes.tolist() == list(ids)
    right = found.classifier.predict(test[0]) == named[1][1]
    assert float(right.double().mean()) == found.accuracy


def test_the_order_of_samples_changes_nothing() -> None:
    splits: dict[str, Any] = {"train": samples(1, 60), "validation": samples(2, 45), "test": samples(3, 60)}
    wanted = linear_probe(**splits, num_penalties=7)
    order = {
        name: torch.randperm(len(split[1]), generator=torch.manual_seed(0)) for name, split in splits.items()
    }
    mixed: dict[str, Any] = {
        name: (split[0][order[name]], split[1][order[name]]) for name, split in splits.items()
    }
    same(wanted, linear_probe(**mixed, num_penalties=7))


def test_a_rotation_changes_nothing_of_features_as_they_are() -> None:
    rotation = torch.linalg.qr(torch.randn(P, P, dtype=torch.float64, generator=torch.manual_seed(0)))[0]
    train, test = samples(1, 60), samples(3, 60)
    turned = [(split[0] @ rotation, split[1]) for split in (train, test)]
    options: dict[str, Any] = {"num_penalties": 7, "standardize": False}
    same(linear_probe(train, test, **options), linear_probe(*turned, **options))


def test_constant_features_are_left_out() -> None:
    train, test = samples(1, 60), samples(3, 60)
    wanted = linear_probe(train, test, num_penalties=5)
    rounding = 1e6 + 0.05 * torch.rand(60, 1, generator=torch.manual_seed(0))  # what float32 makes of 1e6
    widened = [
        (torch.cat([split[0].float(), torch.full((60, 1), 0.1), added], dim=1), split[1])
        for split, added in ((train, rounding), (test, rounding + 1e3))
    ]
    found = linear_probe(*widened, num_penalties=5)
    assert found.accuracy == wanted.accuracy
    assert found.classifier.weight[:, P:].eq(0).all()
    assert found.classifier.weight.isfinite().all()


def test_features_that_are_all_constant_give_the_largest_class() -> None:
    labels = torch.arange(60) % 4 // 2 + (torch.arange(60) % 4 == 3).long()  # half of them 0
    found = linear_probe((torch.ones(60, 2), labels), (torch.ones(60, 2), labels), num_penalties=3)
    assert found.classifier.predict(torch.ones(5, 2)).tolist() == [0] * 5
    assert found.accuracy == 0.5


# ---------------------------------------------------------------- kinds of arrays

KINDS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "tensors in lists": lambda x, y: ([row.requires_grad_() for row in x.clone()], list(y)),
    "frame": lambda x, y: (pd.DataFrame(x.numpy()), pd.Series(y.numpy(), dtype="Int64")),
    "sparse": lambda x, y: (scipy.sparse.csr_array(x.numpy()), y),
    "sparse tensor": lambda x, y: (x.to_sparse(), y.to(torch.uint8)),
    "gradient": lambda x, y: (x.clone().requires_grad_(), y.double()),
    "float32": lambda x, y: (x.float(), y.int()),
    "a list of both": lambda x, y: (x, y.numpy().astype(np.uint16)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_taken_in_every_container(kind: str) -> None:
    train, test = samples(1, 60), samples(3, 60)
    found = linear_probe(KINDS[kind](*train), list(KINDS[kind](*test)), num_penalties=5)
    same(linear_probe(train, test, num_penalties=5), found)


# ---------------------------------------------------------------- the grid


def test_a_penalty_at_the_edge_of_the_grid_is_reported() -> None:
    # Only five features of small variance depend on the class: penalties that let the fit use them are small.
    spread, units = torch.ones(P), torch.full((P,), 0.03)
    spread[5:], units[5:] = 0, 1
    train, test = (weakly_separated(seed, spread, units) for seed in (1, 3))
    options: dict[str, Any] = {"num_penalties": 13, "standardize": False}
    found = linear_probe(scaled(train, 3e-2), scaled(test, 3e-2), **options)
    assert found.penalty == pytest.approx(1e-6)
    assert any(
        "at the edge of the grid; one that is smaller may be better" in text for text in found.warnings
    )
    lost = linear_probe(scaled(train, 1e-4), scaled(test, 1e-4), **options)
    assert any("even the smallest penalty of the grid, 1e-06, limits" in text for text in lost.warnings)
    assert linear_probe(scaled(train, 1e-4), scaled(test, 1e-4), num_penalties=13).warnings == ()


def weakly_separated(seed: int, spread: Any, units: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    means = torch.from_numpy(np.random.default_rng(0).normal(size=(C, P))) * spread
    labels = torch.arange(900) % C
    return (torch.from_numpy(rng.normal(size=(900, P))) + means[labels]) * units, labels


def test_a_plateau_that_reaches_the_edge_is_not_reported() -> None:
    labels = torch.arange(30) % C
    features = torch.eye(C, dtype=torch.float64)[labels]
    found = linear_probe((features, labels), (features, labels), num_penalties=13)
    assert found.penalty == pytest.approx(1e6)
    assert found.warnings == ()


def test_there_are_97_penalties_of_8_per_decade() -> None:
    found = linear_probe(samples(1, 30), samples(2, 30))
    penalties = list(found.validation)
    assert len(penalties) == 97
    assert (penalties[0], penalties[-1]) == pytest.approx((1e6, 1e-6))
    assert penalties[0] / penalties[8] == pytest.approx(10)


def test_of_equally_good_penalties_the_largest_is_taken() -> None:
    labels = torch.arange(30) % C
    features = torch.eye(C, dtype=torch.float64)[labels]
    found = linear_probe((features, labels), (features, labels), num_penalties=13)
    equal = [
        penalty for penalty, score in found.validation.items() if score == max(found.validation.values())
    ]
    assert found.penalty == max(equal)
    assert len(equal) > 1


def test_the_test_split_chooses_nothing() -> None:
    train, test = samples(1, 60), samples(3, 60)
    wrong = (test[0], test[1].roll(1))
    one, other = (linear_probe(train, held, num_penalties=7, seed=4) for held in (test, wrong))
    assert one.penalty == other.penalty
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.accuracy != other.accuracy


def test_the_split_is_stratified_seeded_and_has_no_sample_twice() -> None:
    from collapselab.transfer.linear_probe import _split

    features = torch.arange(60, dtype=torch.float64)[:, None]
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    (left, left_labels), (kept, kept_labels) = _split((features, labels), 0.2, 3)
    assert kept_labels.bincount().tolist() == [8, 3, 1]
    assert left_labels.bincount().tolist() == [32, 12, 4]
    assert sorted(torch.cat([left, kept]).flatten().tolist()) == list(range(60))
    again, other = _split((features, labels), 0.2, 3)[1][0], _split((features, labels), 0.2, 4)[1][0]
    assert torch.equal(again, kept)
    assert not torch.equal(other, kept)


def test_the_classifier_is_fitted_on_train_and_validation() -> None:
    train, validation, test = samples(1, 60), samples(2, 45), samples(3, 30)
    found = linear_probe(train, test, validation=validation, num_penalties=5)
    both = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
    centred = (both[0] - both[0].mean(0)) / both[0].std(0, correction=0)
    alone = fit_logistic(centred, both[1], C, found.penalty)
    np.testing.assert_allclose(
        found.classifier.weight * both[0].std(0, correction=0), alone.weight, atol=1e-12
    )


def test_mean_per_class_accuracy_counts_classes_not_samples() -> None:
    train = samples(1, 60)
    features, labels = samples(3, 90, spread=0.2)
    kept = (labels != 2) | (torch.arange(90) < 12)
    test = features[kept], labels[kept]
    found = linear_probe(train, test, num_penalties=3, score="mean_per_class")
    right = (found.classifier.predict(test[0]) == test[1]).numpy()
    expected = np.mean([right[test[1].numpy() == label].mean() for label in range(C)])
    assert found.accuracy == pytest.approx(expected)
    assert found.accuracy != right.mean()


def test_progress_counts_every_fit() -> None:
    calls: list[tuple[int, int]] = []
    linear_probe(samples(1, 30), samples(2, 30), num_penalties=4, progress=lambda a, b: calls.append((a, b)))
    assert calls == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_half_precision_features_are_probed_in_float64() -> None:
    train, test = samples(1, 30), samples(2, 30)
    half = (train[0].half(), train[1])
    found = linear_probe(half, (test[0].half(), test[1]), num_penalties=3)
    exact = linear_probe((half[0].double(), train[1]), (test[0].half().double(), test[1]), num_penalties=3)
    assert torch.equal(found.classifier.weight, exact.classifier.weight)


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (samples(1, 30), (samples(2, 30)[0], torch.arange(30) % 4), {}, "no train sample has label 3"),
        (
            samples(1, 30),
            (samples(2, 30)[0][:, :3], torch.arange(30) % C),
            {},
            "3 features per sample, but train has 20",
        ),
        (
            samples(1, 30),
            (samples(2, 30)[0], torch.arange(29) % C),
            {},
            "29 labels for 30 rows of features",
        ),
        (samples(1, 30), (samples(2, 30)[0][:0], torch.arange(0)), {}, "features are empty"),
        ((samples(1, 30)[0] * float("nan"), samples(1, 30)[1]), samples(2, 30), {}, "linear probe, train"),
        ((samples(1, 3)[0], torch.arange(3)), samples(2, 30), {}, "none can be held out"),
        (samples(1, 30), samples(2, 30), {"validation_share": 1.0}, "between 0 and 1"),
        (samples(1, 30), samples(2, 30), {"num_penalties": 0}, "whole number from 1"),
        (samples(1, 30), samples(2, 30), {"num_penalties": 10**9}, "to 10000"),
        (samples(1, 30), samples(2, 30), {"seed": -1}, "seed is -1; give a whole number from 0"),
        (samples(1, 30), samples(2, 30)[0], {}, "test: a Tensor is no pair of arrays"),
        (samples(1, 30), (samples(2, 30)[0], ["a"] * 30), {}, "number the classes"),
        (
            samples(1, 30),
            (np.ma.masked_less(samples(2, 30)[0].numpy(), 0), np.arange(30) % C),
            {},
            "are masked",
        ),
        (
            (samples(1, 30)[0], torch.zeros(30)),
            samples(2, 30),
            {},
            "no train sample has label 1, which 20 samples",
        ),
        (samples(1, 30), samples(2, 30), {"score": "f1"}, "unknown score"),
    ],
)
def test_wrong_input_is_refused(train: Any, test: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        linear_probe(train, test, **options)
