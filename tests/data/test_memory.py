"""A recipe's samples in memory: which they are, what they are standardised with, in which form."""

from pathlib import Path

import numpy as np
import pytest
import torch

from collapselab import InputError
from collapselab.data import load_digits
from collapselab.data import memory as memory_module
from collapselab.data.memory import check_samples, fingerprint, load_splits
from collapselab.data.recipe import DataSpec, Sample


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "colours.npz"
    train, test = (rng.integers(0, 256, size=(n, 6, 5, 3), dtype=np.uint8) for n in (30, 12))
    np.savez(path, inputs=train, labels=np.arange(30) % 3, test_inputs=test, test_labels=np.arange(12) % 3)
    return path


def _spec(path: Path, **values: object) -> DataSpec:
    return DataSpec.model_validate({"name": str(path)} | values)


def test_pixels_are_standardised_with_the_samples_trained_on(images: Path) -> None:
    spec = _spec(images, train={"method": "first", "count": 9}, test={"method": "first", "count": 4})
    data = load_splits(spec, 0)
    held = np.load(images)
    train = held["inputs"][:9].astype(np.float64).transpose(0, 3, 1, 2)
    test = held["test_inputs"][:4].astype(np.float64).transpose(0, 3, 1, 2)
    mean, deviation = train.mean(0), train.std(0)
    # float32 inputs of size 3.
    np.testing.assert_allclose(data.train.inputs.numpy(), (train - mean) / deviation, atol=2e-6)
    np.testing.assert_allclose(data.test.inputs.numpy(), (test - mean) / deviation, atol=2e-6)
    assert data.num_classes == 3
    assert data.train.labels.tolist() == [0, 1, 2] * 3


def test_a_copy_is_opened_by_the_short_name(images: Path, tmp_path: Path) -> None:
    labels = np.arange(30) % 10
    path = tmp_path / "small.npz"
    held = np.load(images)
    np.savez(
        path,
        inputs=held["inputs"],
        labels=labels,
        test_inputs=held["test_inputs"],
        test_labels=np.arange(12) % 10,
    )
    data = load_splits(DataSpec(name="cifar10"), 0, copies={"cifar10": path})
    assert data.name == "cifar10"
    assert data.input_shape == (3, 6, 5)


def test_groups_make_a_coarser_task_of_the_same_samples(images: Path) -> None:
    sample = {"method": "balanced", "per_class": 4}
    fine = load_splits(_spec(images, train=sample), 5)
    coarse = load_splits(_spec(images, train=sample, groups=((0, 2), (1,))), 5)
    assert torch.equal(fine.train.inputs, coarse.train.inputs)
    assert coarse.num_classes == 2
    assert coarse.train.labels.tolist() == [{0: 0, 2: 0, 1: 1}[label] for label in fine.train.labels.tolist()]


def test_classes_in_no_group_are_left_out(images: Path) -> None:
    data = load_splits(_spec(images, groups=((2,), (1,))), 0)
    assert len(data.train) == 20
    assert set(data.train.labels.tolist()) == {0, 1}


def test_digits_are_values_or_images_as_the_network_needs_them() -> None:
    spec = DataSpec(train=Sample(method="first", count=20), test=Sample(method="first", count=10))
    flat = load_splits(spec, 0)
    known = load_digits()
    assert torch.equal(flat.train.inputs, known.train.inputs[:20])
    coloured = load_splits(spec, 0, channels=3)
    assert coloured.input_shape == (3, 8, 8)
    assert torch.equal(coloured.train.inputs[:, 2].flatten(1), flat.train.inputs)
    large = load_splits(spec.model_copy(update={"channels": 1, "image_size": (32, 32)}), 0)
    assert large.input_shape == (1, 32, 32)
    assert torch.equal(large.test.inputs[:, :, ::4, ::4].flatten(1), flat.test.inputs)


def test_the_fingerprint_tells_samples_apart(images: Path) -> None:
    data = load_splits(_spec(images), 0)
    assert fingerprint(data) == fingerprint(load_splits(_spec(images), 1))
    other = load_splits(_spec(images), 0)
    other.test.labels[0] = 1
    assert fingerprint(other) != fingerprint(data)


def test_more_values_than_fit_in_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are streamed instead: see test_streamed.py."""
    path = tmp_path / "values.npz"
    values = np.zeros((30, 90), dtype=np.float32)
    np.savez(
        path, inputs=values, labels=np.arange(30) % 3, test_inputs=values[:9], test_labels=np.arange(9) % 3
    )
    monkeypatch.setattr(memory_module, "MEMORY_BYTES", 9 * 90 * 4)
    load_splits(_spec(path, train={"method": "first", "count": 9}), 0)
    with pytest.raises(InputError, match=r"30 samples of \(90,\).*use fewer samples"):
        load_splits(_spec(path), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"method": "first", "count": 31}},
        {"test": {"method": "balanced", "per_class": 5}},
        {"groups": [[0], [7]]},
    ],
)
def test_samples_that_are_not_there_are_known_from_the_labels(
    images: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    spec = _spec(images, **changes)
    with pytest.raises(InputError) as late:
        load_splits(spec, 0)
    monkeypatch.setattr("collapselab.data.pixels.Pixels.read", None)
    with pytest.raises(InputError) as early:
        check_samples(spec, 0)
    assert str(early.value) == str(late.value)
    check_samples(_spec(images), 0)
