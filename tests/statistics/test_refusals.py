"""What `ClassStats` refuses, and that a refused batch leaves nothing behind."""

from __future__ import annotations

from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from collapselab.statistics import ClassStats
from helpers import accumulate, feed

pytestmark = pytest.mark.usefixtures("checks")

# Run-time shape checks, on in these tests only, may speak before the code does.
REFUSED = (ValueError, jaxtyping.TypeCheckError)


def rows(n: int, dim: int = 5, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64).to(dtype), torch.arange(n) % 2


def assert_unchanged(before: dict[str, Any], stats: ClassStats) -> None:
    after = stats.state_dict()
    for name, value in before["moments"].items():
        assert torch.equal(value, after["moments"][name]), name
    assert torch.equal(before["within"], after["within"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize(
    ("n", "dim", "row"), [(8, 5, 3), (8, 100, 3), (40000, 70, 39999)], ids=["narrow", "wide", "many blocks"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_values_that_are_not_finite(value: float, n: int, dim: int, row: int, dtype: torch.dtype) -> None:
    stats = accumulate(*rows(2, dim, dtype))
    before = stats.state_dict()
    features, labels = rows(n, dim, dtype)
    features[row, 2] = value
    with pytest.raises(ValueError, match=f"NaN or infinity, the first in row {row} "):
        feed(stats, features, labels)
    assert_unchanged(before, stats)


@pytest.mark.parametrize(("n", "row"), [(8, 3), (40000, 39999)], ids=["one block", "many blocks"])
def test_squares_that_overflow_float64(n: int, row: int) -> None:
    stats = accumulate(*rows(2, 70, torch.float64))
    before = stats.state_dict()
    features, labels = rows(n, 70, torch.float64)
    features[row, 2] = -1e200
    with pytest.raises(ValueError, match=r"go up to 1e\+200.*rescale"):
        feed(stats, features, labels)
    assert_unchanged(before, stats)


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]], ids=str)
def test_labels_out_of_range(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="takes 0 to 1"):
        feed(ClassStats(2, 5), rows(2)[0], torch.tensor(labels))


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 5), torch.zeros(4)),
        (torch.zeros(4, 5), torch.zeros(4, dtype=torch.bool)),
    ],
    ids=["1-D", "other dim", "integers", "other length", "float labels", "bool labels"],
)
def test_batches_that_do_not_fit(features: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(REFUSED):
        ClassStats(2, 5).update(features, labels)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"features": np.ma.masked_less(np.zeros((4, 5)), 1)}, "some values are masked"),
        ({"features": [[1.0, 2.0], [3.0]]}, "cannot be read as numbers"),
        ({"features": np.full((4, 5), "a")}, "save them as real numbers"),
        ({"features": np.zeros((4, 6))}, "takes .n, 5"),
        ({"labels": [0, 1, 0.5, 1]}, "not whole numbers"),
        ({"labels": [0, 1, -1, 1]}, "negative"),
        ({"labels": np.array([0, 1, 0])}, "3 labels for 4 rows"),
        ({"labels": ["cat", "dog", "cat", "dog"]}, "use non-negative whole numbers"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_arrays_that_are_no_batch_are_refused_in_one_line(batch: dict[str, Any], message: str) -> None:
    good = {"features": np.ones((4, 5)), "labels": [0, 1, 0, 1]}
    stats = accumulate(*rows(2))
    before = stats.state_dict()
    with pytest.raises(ValueError, match=message) as caught:
        stats.update(**(good | batch))
    assert "\n" not in str(caught.value)
    assert_unchanged(before, stats)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "at least 1"),
        ({"scatter": "diagonal"}, "scatter"),
        ({"product_dtype": torch.float16}, "product_dtype"),
        ({"sketch_size": 0}, "sketch_size"),
        ({"class_counts": [1, 2, 3]}, "class_counts"),
        ({"class_counts": [1, -2]}, "class_counts"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(REFUSED, match=message):
        ClassStats(**(dict[str, Any](num_classes=2, dim=5) | arguments))


def test_an_empty_batch_adds_nothing() -> None:
    stats = accumulate(*rows(4))
    before = stats.state_dict()
    stats.update(*rows(0))
    assert_unchanged(before, stats)


def test_statistics_of_nothing_say_so() -> None:
    with pytest.raises(ValueError, match="seen no samples"):
        _ = ClassStats(2, 5).counts


def test_a_class_without_samples_has_no_covariance() -> None:
    stats = ClassStats(3, 5)
    stats.update(*rows(6))
    with pytest.raises(ValueError, match="1 classes have no samples, the first is class 2"):
        stats.within_covariance()


@pytest.mark.parametrize("name", ["within_covariance", "class_covariances", "within_sketch"])
def test_trace_mode_names_the_mode_to_use(name: str) -> None:
    stats = accumulate(*rows(6), "trace")
    with pytest.raises(ValueError, match="use scatter="):
        getattr(stats, name)()


def test_features_are_read_only_and_not_kept() -> None:
    features, labels = rows(6, 100)
    given = features.clone()
    stats = accumulate(features, labels)
    before = stats.state_dict()
    assert torch.equal(features, given)
    features.zero_()
    assert_unchanged(before, stats)
