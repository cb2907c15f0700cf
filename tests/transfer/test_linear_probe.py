"""The linear probe: what is chosen on which samples, and what is reported of which."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from collapselab import InputError
from collapselab.transfer import fit_logistic, linear_probe

C, P = 3, 20


def samples(seed: int, n: int, spread: float = 0.7) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(0).normal(size=(C, P))
    labels = np.arange(n) % C
    return torch.from_numpy(rng.normal(size=(n, P)) + spread * means[labels]), torch.from_numpy(labels)


def test_the_whole_protocol_is_that_of_scikit_learn() -> None:
    train, validation, test = samples(1, 60), samples(2, 45), samples(3, 90)
    found = linear_probe(train, test, validation=validation, num_penalties=13)
    scores = {}
    for penalty in np.geomspace(1e6, 1e-6, 13):
        # Its L-BFGS stops when the loss is still by rounding, which at a large penalty decides a sample or two.
        model = LogisticRegression(C=1 / (60 * penalty), tol=1e-12, solver="newton-cholesky").fit(*train)
        scores[float(penalty)] = model.score(*validation)
    assert found.validation == pytest.approx(scores)
    best = max(scores, key=lambda penalty: scores[penalty])  # the first of equals: the largest penalty
    assert found.penalty == best
    both = tuple(np.concatenate(parts) for parts in zip(train, validation, strict=True))
    refit = LogisticRegression(C=1 / (105 * best), tol=1e-12, solver="newton-cholesky").fit(*both)
    assert found.accuracy == refit.score(*test)


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
    alone = fit_logistic(*both, C, found.penalty)
    np.testing.assert_allclose(found.classifier.weight.numpy(), alone.weight.numpy(), atol=1e-12)


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
            r"features \(30, 20\) and labels \(29,\)",
        ),
        (samples(1, 30), (samples(2, 30)[0][:0], torch.arange(0)), {}, "no samples"),
        ((samples(1, 30)[0] * float("nan"), samples(1, 30)[1]), samples(2, 30), {}, "linear probe, train"),
        ((samples(1, 3)[0], torch.arange(3)), samples(2, 30), {}, "none can be held out"),
        (samples(1, 30), samples(2, 30), {"validation_share": 1.0}, "between 0 and 1"),
        (samples(1, 30), samples(2, 30), {"num_penalties": 0}, "at least 1"),
        (samples(1, 30), samples(2, 30), {"score": "f1"}, "unknown score"),
    ],
)
def test_wrong_input_is_refused(train: Any, test: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        linear_probe(train, test, **options)
