"""The networks of sec. 2.1: what they are measured to be is what the paper says they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import collapselab
from collapselab.data import DataSplits, load_digits
from collapselab.errors import InputError
from collapselab.metrics.generalization import squared_distances_to_nearest
from collapselab.metrics.kmeans import fit_kmeans
from collapselab.models import MLP
from collapselab.models.constructions import Memoriser, OneHotDecisions

DIGITS = load_digits()


def _weak_variance(features: Tensor, num_classes: int) -> float | None:
    reference = fit_kmeans(features, num_classes)
    if reference is None:
        return None
    return float(squared_distances_to_nearest(features, reference).mean()) / reference.spread


def _profiled(model: nn.Module, data: DataSplits = DIGITS) -> collapselab.LayerProfile:
    profile = collapselab.profile(model, data.train.batches(128), data.test.batches(128))
    assert profile.layers[-1].name == "classifier"
    return profile["classifier"]


def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(inputs).argmax(1) == labels).double().mean())


@pytest.fixture(scope="module")
def network() -> MLP:
    """An MLP that fits 1000 digits without error and makes some on the others."""
    torch.manual_seed(0)
    model = MLP(64, 10, width=64, depth=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(DIGITS.train.inputs), DIGITS.train.labels).backward()
        optimizer.step()
    return model.eval()


# ---------------------------------------------------------------- one-hot decisions


def test_one_hot_decisions_are_those_of_the_network(network: MLP) -> None:
    wrapped = OneHotDecisions(network, 10)
    with torch.no_grad():
        for split in (DIGITS.train, DIGITS.test):
            assert torch.equal(wrapped(split.inputs).argmax(1), network(split.inputs).argmax(1))
    assert 0.9 < _accuracy(wrapped, DIGITS.test.inputs, DIGITS.test.labels) < 1


def test_one_hot_decisions_collapse_weakly_and_not_strongly(network: MLP) -> None:
    wrapped = OneHotDecisions(network, 10)
    layer = _profiled(wrapped)
    assert layer.train["train_variance"] == 0
    with torch.no_grad():
        decided = network(DIGITS.test.inputs).argmax(1)
        assert _weak_variance(wrapped.features(DIGITS.test.inputs), 10) == pytest.approx(0, abs=1e-28)
    # The confusion matrix alone, in numbers of samples: within a class, 1 - sum_j q_j^2; between, means q.
    confusion = np.zeros((10, 10))
    np.add.at(confusion, (DIGITS.test.labels.numpy(), decided.numpy()), 1)
    shares = confusion / confusion.sum(1, keepdims=True)
    within = confusion.sum(1) @ (1 - (shares**2).sum(1)) / confusion.sum()
    expected = within / ((shares - shares.mean(0)) ** 2).sum(1).mean()
    assert layer.test["strong_test_variance"] == pytest.approx(expected, rel=1e-12)
    assert expected > 0.05
    assert layer.test["ncc_agreement"] == 1


def test_decisions_that_never_occur_leave_weak_collapse_undefined() -> None:
    torch.manual_seed(0)
    network = nn.Linear(64, 10)
    with torch.no_grad():
        network.bias[3] = -1e3
        features = OneHotDecisions(network, 10).features(DIGITS.test.inputs)
    assert len(torch.unique(features, dim=0)) < 10
    assert _weak_variance(features, 10) is None


def test_a_network_without_decisions_has_no_features() -> None:
    class Diverged(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.tensor([[0.0, math.nan], [0.0, 1.0]])[: len(inputs)]

    features = OneHotDecisions(Diverged(), 2).features(torch.zeros(2, 3))
    assert torch.isnan(features[0]).all()
    assert features[1].tolist() == [0, 1]


def test_one_hot_decisions_refuse_scores_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"returns \(4, 3\), not class scores of shape \(4, 10\)"):
        OneHotDecisions(nn.Linear(64, 3), 10)(torch.zeros(4, 64))
    with pytest.raises(InputError, match="at least two"):
        OneHotDecisions(nn.Linear(64, 1), 1)


def test_the_classifier_is_not_trained_and_draws_nothing(network: MLP) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    wrapped = OneHotDecisions(network, 10)
    assert torch.equal(torch.rand(3), expected)
    assert not wrapped.classifier.weight.requires_grad
    assert torch.equal(wrapped.double().classifier.weight, torch.eye(10, dtype=torch.float64))
    network.float()


# ---------------------------------------------------------------- memorising


@pytest.mark.parametrize("weakly_collapsed", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_memorising_is_train_collapse_without_generalisation(seed: int, weakly_collapsed: bool) -> None:
    train, test = DIGITS.train, DIGITS.test
    model = Memoriser(train.inputs, train.labels, 10, seed, weakly_collapsed=weakly_collapsed)
    assert _accuracy(model, train.inputs, train.labels) == 1
    # Right by chance for one sample in ten: within four standard deviations of the binomial.
    chance = 4 * math.sqrt(0.1 * 0.9 / len(test))
    assert abs(_accuracy(model, test.inputs, test.labels) - 0.1) < chance
    layer = _profiled(model)
    assert layer.train["train_variance"] == 0
    assert layer.train["ncc_accuracy"] == 1
    strong = layer.test["strong_test_variance"]
    assert strong is not None
    assert strong > 10  # features that know nothing of the class: its means all but coincide
    weak = _weak_variance(model.features(test.inputs), 10)
    assert weak is not None
    assert weak == pytest.approx(0, abs=1e-28) if weakly_collapsed else weak > 0.5


def test_scattered_features_are_uniform_and_decisions_balanced() -> None:
    inputs = torch.arange(20_000, dtype=torch.int64)
    for weakly_collapsed in (False, True):
        model = Memoriser(torch.tensor([-1]), torch.tensor([0]), 4, weakly_collapsed=weakly_collapsed)
        features = model.features(inputs)
        counts = torch.bincount(model(inputs).argmax(1), minlength=4).double()
        # Chi-square with 3 degrees of freedom: 16.3 is passed once in a thousand.
        assert float(((counts - 5000) ** 2 / 5000).sum()) < 16.3
        # Neighbouring inputs decide independently: a quarter of them alike.
        decided = model(inputs).argmax(1)
        alike = float((decided[1:] == decided[:-1]).double().mean())
        assert abs(alike - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 20_000)
        if not weakly_collapsed:
            assert float(features.min()) >= 0
            assert float(features.max()) < 1
            assert torch.allclose(features.double().mean(0), torch.full((4,), 0.5).double(), atol=0.009)
            assert torch.allclose(torch.cov(features.double().T), torch.eye(4).double() / 12, atol=0.003)


def test_the_random_function_follows_from_the_seed_alone() -> None:
    train, test = DIGITS.train, DIGITS.test
    first, again, other = (Memoriser(train.inputs, train.labels, 10, seed)(test.inputs) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    same = float((first.argmax(1) == other.argmax(1)).double().mean())
    assert same < 0.2


def test_batches_do_not_matter() -> None:
    model = Memoriser(DIGITS.train.inputs, DIGITS.train.labels, 10)
    mixed = torch.cat([DIGITS.test.inputs[:50], DIGITS.train.inputs[:50]])
    # Slices that begin at an odd place in memory, and rows that are no rows in memory.
    whole = model(mixed)
    assert torch.equal(whole, torch.cat([model(mixed[i : i + 7]) for i in range(0, 100, 7)]))
    assert torch.equal(whole, model(mixed.T.contiguous().T))
    assert model(mixed[:0]).shape == (0, 10)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64, torch.int32])
def test_the_last_bit_counts(dtype: torch.dtype) -> None:
    inputs = torch.arange(30).reshape(6, 5).to(dtype)
    model = Memoriser(inputs, torch.arange(6) % 3, 3, weakly_collapsed=False)
    assert torch.equal(model.features(inputs), torch.eye(3)[torch.arange(6) % 3])
    for column in range(5):
        changed = inputs.clone()
        words = changed.view(torch.uint8).reshape(6, -1)
        words[:, column * dtype.itemsize] ^= 1
        features = model.features(changed)
        assert not ((features == 0) | (features == 1)).any()


def test_state_goes_through_a_file() -> None:
    train, test = DIGITS.train, DIGITS.test
    model = Memoriser(train.inputs, train.labels, 10, 7)
    fresh = Memoriser(torch.rand(1000, 64), torch.zeros(1000, dtype=torch.int64), 10, 8)
    fresh.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(fresh(test.inputs), model(test.inputs))
    assert _accuracy(fresh, train.inputs, train.labels) == 1
    assert _accuracy(model.half(), train.inputs, train.labels) == 1  # buffers are whole numbers


def test_equal_training_samples() -> None:
    inputs = DIGITS.train.inputs[[0, 1, 0, 2, 0]]
    model = Memoriser(inputs, torch.tensor([4, 1, 4, 2, 4]), 5)
    assert model(inputs).argmax(1).tolist() == [4, 1, 4, 2, 4]
    with pytest.raises(InputError, match=r"samples 0 and 2 are equal but labelled 4 and 3"):
        Memoriser(inputs[:4], torch.tensor([4, 1, 3, 2]), 5)


def test_lookup_is_by_value_and_the_random_function_by_every_bit_of_sample_and_seed() -> None:
    """Zero and minus zero are equal numbers with different bits."""
    inputs = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    model = Memoriser(inputs, torch.tensor([1, 0]), 2)
    assert model.features(inputs).tolist() == [[0, 1], [1, 0]]
    other = model.features(torch.tensor([[-0.0, 1.0]]))
    assert not ((other == 0) | (other == 1)).any()
    assert torch.equal(model.features(torch.tensor([[-0.0, 1.0]])), other)
    reseeded = Memoriser(inputs, torch.tensor([1, 0]), 2, seed=1)
    assert reseeded.features(inputs).tolist() == [[0, 1], [1, 0]]
    assert not torch.equal(reseeded.features(torch.tensor([[-0.0, 1.0]])), other)


def test_memoriser_refuses_what_does_not_fit() -> None:
    inputs, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    for bad, message in (
        ((inputs, labels[:1], 2), "1 labels for 2 training inputs"),
        ((inputs[:0], labels[:0], 2), "0 labels for 0"),
        ((inputs, labels, 1), "label 1 is outside the 1 classes"),
        ((inputs, labels - 1, 2), "label -1 is outside"),
    ):
        with pytest.raises(InputError, match=message):
            Memoriser(*bad)
    model = Memoriser(torch.eye(2, 3), labels, 2)
    for wrong in (torch.zeros(1, 4), torch.zeros(1, 3).double()):
        with pytest.raises(InputError, match="but those memorised"):
            model(wrong)
