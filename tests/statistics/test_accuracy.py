"""Class statistics against float64 two-pass sums on the same inputs, where one-pass float32 sums would fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from collapselab.statistics import WEIGHTINGS, ClassStats, Weighting
from helpers import EPS32, EPS64, accumulate, assert_close, tensors, uneven_labels
from oracles import Oracle, as_double

pytestmark = pytest.mark.usefixtures("checks")

TRACE = 1e-6
TRACE_WHY = (
    "a float32 square of a deviation is good to eps32, its sum over 256 features to 1e-7 as a rule, and the "
    "deviation itself is exact"
)

weightings = pytest.mark.parametrize("weighting", WEIGHTINGS)


def collapsed(
    offset: float, spread: float, *, dim: int = 96, counts: tuple[int, ...] = (300, 120, 200, 40)
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 features of unit-distance class means, the spread relative to it, about a common offset."""
    rng = np.random.default_rng(1)
    labels = uneven_labels(rng, list(counts))
    means = rng.standard_normal((len(counts), dim)) / np.sqrt(2 * dim)
    noise = rng.standard_normal((len(labels), dim)) / np.sqrt(dim)
    return tensors(offset + means[labels] + spread * noise, labels)


@weightings
@pytest.mark.parametrize("batch", [1, 33, None], ids=["rows", "batches", "whole"])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6], ids="spread{}".format)
@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0], ids="offset{}".format)
def test_traces_of_collapsed_features(
    offset: float, spread: float, batch: int | None, weighting: Weighting
) -> None:
    features, labels = collapsed(offset, spread)
    stats = accumulate(features, labels, "trace", batch=batch)
    oracle = Oracle(as_double(features), labels.numpy(), weighting)
    assert_close(stats.within_trace(weighting), oracle.within_trace(), rel=TRACE, why=TRACE_WHY)
    between = float(stats.between_covariance(weighting).trace())
    assert_close(between, oracle.between_trace(), rel=TRACE, why=TRACE_WHY)


@pytest.mark.parametrize("dim", [65, 256, 300, 2048])
def test_traces_at_any_width(dim: int) -> None:
    features, labels = collapsed(1000.0, 1e-2, dim=dim)
    oracle = Oracle(as_double(features), labels.numpy())
    within = accumulate(features, labels, "trace", batch=50).within_trace()
    assert_close(within, oracle.within_trace(), rel=TRACE, why=TRACE_WHY)


def test_many_rows_of_few_classes_far_from_the_origin() -> None:
    """The plain float32 sum of thousands of rows at 1000 is off by more than their spread of 1e-3."""
    features, labels = collapsed(1000.0, 1e-3, dim=128, counts=(20000, 20000))
    oracle = Oracle(as_double(features), labels.numpy())
    assert_close(accumulate(features, labels).within_trace(), oracle.within_trace(), rel=TRACE, why=TRACE_WHY)


def test_offset_100_with_class_means_003_apart() -> None:
    """E[x^2] - E[x]^2 in float32 is off by 850x here."""
    rng = np.random.default_rng(2)
    labels = uneven_labels(rng, [200, 200, 200])
    means = rng.standard_normal((3, 64))
    means *= 0.03 / np.linalg.norm(means[0] - means[1])
    features, targets = tensors(100 + means[labels] + 0.001 * rng.standard_normal((600, 64)), labels)
    stats = accumulate(features, targets, batch=64)
    oracle = Oracle(as_double(features), labels)
    between = float(stats.between_covariance().trace())
    assert_close(between, oracle.between_trace(), rel=TRACE, why=TRACE_WHY)
    assert_close(stats.within_trace(), oracle.within_trace(), rel=TRACE, why=TRACE_WHY)


def test_the_global_mean_adds_no_direction_to_the_between_covariance() -> None:
    """A global mean rounded to float32 gives Sigma_B a direction of size (offset eps32)^2, here 1e-10 of
    what is there: float64 leaves (offset eps64)^2.
    """
    features, labels = collapsed(1000.0, 1.0)
    stats = accumulate(features, labels)
    values = torch.linalg.eigvalsh(stats.between_covariance()).flip(0)
    # Entries of float64 means near 1000 round by 1e-13, so Sigma_B of unit size by a few p times that.
    rounding = 10 * 96 * EPS64
    assert float(values[3:].abs().max()) < rounding * float(values[0])


@weightings
@pytest.mark.parametrize("offset", [0.0, 1000.0], ids="offset{}".format)
def test_total_is_within_plus_between(offset: float, weighting: Weighting) -> None:
    features, labels = collapsed(offset, 0.3)
    stats = accumulate(features.double(), labels, "per_class")
    total = stats.within_covariance(weighting) + stats.between_covariance(weighting)
    oracle = Oracle(as_double(features), labels.numpy(), weighting)
    assert_close(total, oracle.sigma_t, rel=1e-9, why="float64 sums of 660 rows about an offset of 1000")


@weightings
def test_pooled_scatter_in_both_weightings(weighting: Weighting) -> None:
    features, labels = collapsed(10.0, 0.3)
    counts = torch.bincount(labels) if weighting == "balanced" else None
    oracle = Oracle(as_double(features), labels.numpy(), weighting)
    within = accumulate(features, labels, class_counts=counts, batch=100).within_covariance(weighting)
    assert_close(within, oracle.sigma_w, rel=8 * EPS32, why="float32 products: eps32, row scales eps32 more")


@weightings
def test_sketch_is_the_covariance_times_the_gaussian(weighting: Weighting) -> None:
    features, labels = collapsed(10.0, 0.3)
    counts = torch.bincount(labels) if weighting == "balanced" else None
    stats = accumulate(features, labels, "sketch", class_counts=counts, sketch_size=5)
    sketch, omega = stats.within_sketch(weighting)
    expected = Oracle(as_double(features), labels.numpy(), weighting).sigma_w @ omega.cpu().numpy()
    assert_close(sketch, expected, rel=50 * EPS32, why="two float32 products, sums over 96 features")


def test_balanced_data_serves_both_weightings() -> None:
    features, labels = collapsed(0.0, 1.0, counts=(50, 50, 50))
    stats = accumulate(features, labels)
    assert torch.equal(stats.within_covariance("balanced"), stats.within_covariance("sample"))


def test_balanced_covariance_of_unbalanced_data_asks_for_class_counts() -> None:
    stats = accumulate(*collapsed(0.0, 1.0))
    with pytest.raises(ValueError, match="class_counts"):
        stats.within_covariance("balanced")


def test_sample_covariance_after_class_counts_is_refused() -> None:
    features, labels = collapsed(0.0, 1.0)
    stats = accumulate(features, labels, class_counts=torch.bincount(labels))
    with pytest.raises(ValueError, match="omit class_counts"):
        stats.within_covariance("sample")


def test_counts_that_do_not_match_are_refused() -> None:
    features, labels = collapsed(0.0, 1.0)
    stats = accumulate(features, labels, class_counts=torch.bincount(labels) + 1)
    with pytest.raises(ValueError, match="class 0 was declared with 301"):
        stats.within_covariance("balanced")


# ---------------------------------------------------------------- dtypes, ranges, switches


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dim", [8, 96], ids="p{}".format)
def test_every_float_dtype(dtype: torch.dtype, dim: int) -> None:
    features, labels = collapsed(3.0, 1.0, dim=dim)
    features = features.to(dtype)
    stats = accumulate(features, labels, batch=64)
    oracle = Oracle(as_double(features), labels.numpy(), "sample")
    within = stats.within_covariance("sample")
    assert_close(
        within,
        oracle.sigma_w,
        rel=660 * EPS32 / 2,
        why="a float32 sum of 660 products, raised from half precision",
    )
    assert_close(stats.class_means, oracle.means, rel=EPS32, why="sums about the centre, per class")


@pytest.mark.parametrize("size", [1e-25, 1e-21, 1e-12, 1e12, 1e25], ids=str)
@pytest.mark.parametrize("dim", [8, 96], ids="p{}".format)
def test_sizes_whose_squares_leave_float32(size: float, dim: int) -> None:
    features, labels = collapsed(0.5, 0.5, dim=dim)
    features = (features.double() * size).float()
    stats = accumulate(features, labels)
    scaled = Oracle(as_double(features) / size, labels.numpy(), "sample")
    within = stats.within_covariance("sample") / size / size
    assert_close(
        within, scaled.sigma_w, rel=8 * EPS32, why="products are taken on rows scaled by a power of two"
    )
    assert_close(stats.within_trace("sample") / size / size, scaled.within_trace(), rel=TRACE, why=TRACE_WHY)
    assert_close(stats.unit_means, scaled.unit_means(), rel=4 * EPS32, why="unit vectors have no size")


def test_values_at_both_ends_of_float32() -> None:
    """A difference of two such values does not exist in float32."""
    rng = np.random.default_rng(0)
    features, labels = tensors(rng.choice([-3e38, 3e38], (40, 70)), np.arange(40) % 2)
    within = accumulate(features, labels).within_covariance()
    oracle = Oracle(as_double(features) / 1e38, labels.numpy())
    assert_close(
        within / 1e38 / 1e38, oracle.sigma_w, rel=8 * EPS32, why="scaled before the centre is subtracted"
    )


@contextlib.contextmanager
def float32_precision(value: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("scatter", ["full", "sketch", "per_class"])
@pytest.mark.parametrize("precision", ["medium", "high"])
def test_fast_float32_products_do_not_reach_the_scatter(precision: str, scatter: str) -> None:
    features, labels = collapsed(0.0, 1.0)
    # Read here: rows that wait are multiplied when they are read.
    plain = accumulate(features, labels, scatter).state_dict()["within"]  # pyright: ignore[reportArgumentType]
    with float32_precision(precision):
        switched = accumulate(features, labels, scatter)  # pyright: ignore[reportArgumentType]
        assert torch.equal(plain, switched.state_dict()["within"])
        assert torch.get_float32_matmul_precision() == precision


@pytest.mark.parametrize("scatter", ["full", "sketch", "per_class"])
def test_autocast_does_not_reach_the_scatter(scatter: str) -> None:
    features, labels = collapsed(0.0, 1.0)
    # Read here: rows that wait are multiplied when they are read.
    plain = accumulate(features, labels, scatter).state_dict()["within"]  # pyright: ignore[reportArgumentType]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        switched = accumulate(features, labels, scatter)  # pyright: ignore[reportArgumentType]
        assert torch.equal(plain, switched.state_dict()["within"])
        assert torch.is_autocast_enabled("cpu")


def test_autocast_would_change_an_unguarded_product() -> None:
    """The guard above is worth something: the same product without it differs."""
    features, _ = collapsed(0.0, 1.0)
    plain = features.T @ features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(plain, (features.T @ features).float())


# ---------------------------------------------------------------- poor first centres


def outlier_first(dim: int, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first row of every class is a thousand spreads away from the others."""
    rng = np.random.default_rng(3)
    labels = np.arange(3 * per_class) % 3
    features = rng.standard_normal((len(labels), dim)) + rng.standard_normal((3, dim))[labels]
    features[:3] += 1000
    return tensors(features, labels)


# Batches that fill a product's chunk in the middle of a block, and some that end with it.
@pytest.mark.parametrize(
    ("dim", "per_class", "batch"),
    [(70, 40, 3), (70, 400, 3), (70, 3000, 100), (260, 3500, 512), (260, 3500, 700), (70, 3000, 9000)],
    ids=str,
)
def test_an_outlier_first(dim: int, per_class: int, batch: int) -> None:
    features, labels = outlier_first(dim, per_class)
    stats = ClassStats(3, dim)
    stats.update(features[:3], labels[:3])
    for start in range(3, len(labels), batch):
        stats.update(features[start : start + batch], labels[start : start + batch])
    oracle = Oracle(as_double(features), labels.numpy())
    assert_close(stats.within_trace(), oracle.within_trace(), rel=TRACE, why=TRACE_WHY)
    # At most about 16 rows a class are multiplied about the outlier.
    assert_close(
        stats.within_covariance(), oracle.sigma_w, rel=64 * EPS32, why="float32 products of rows that large"
    )


@pytest.mark.parametrize("where", ["multiplied", "waiting", "both"])
def test_a_centre_moved_after_products_were_taken(where: str) -> None:
    """Outliers open class 1 before or after the first product, which class 0 alone makes due."""
    rng = np.random.default_rng(6)
    labels = np.r_[0, np.zeros(9000, dtype=np.int64), 0, np.ones(400, dtype=np.int64)]
    features = rng.standard_normal((len(labels), 70))
    outliers = {"multiplied": [0], "waiting": [9001], "both": [0, 9001]}[where]
    labels[outliers] = 1
    features[outliers] += 1000
    rows, targets = tensors(features, labels)
    stats = ClassStats(2, 70)
    for piece in torch.arange(len(labels)).split([1, 9000, 1, 400]):
        stats.update(rows[piece], targets[piece])
    oracle = Oracle(as_double(rows), labels, "sample")
    within = accumulate(rows, targets, product_dtype=torch.float64).within_covariance("sample")
    assert_close(within, oracle.sigma_w, rel=1e-7, why="float64 products, float32 class means")
    assert_close(
        stats.within_covariance("sample"),
        oracle.sigma_w,
        rel=64 * EPS32,
        why="float32 products of rows that large",
    )


@pytest.mark.parametrize("scatter", ["full", "per_class", "sketch"])
def test_classes_that_drift(scatter: str) -> None:
    """The mean moves by a hundred spreads while the data are read."""
    rng = np.random.default_rng(4)
    labels = np.arange(9000) % 2
    drift = np.linspace(0, 100, 9000)[:, None] * rng.standard_normal((2, 80))[labels]
    features, targets = tensors(rng.standard_normal((9000, 80)) + drift, labels)
    stats = accumulate(features, targets, scatter, batch=130, sketch_size=4)  # pyright: ignore[reportArgumentType]
    oracle = Oracle(as_double(features), labels)
    if scatter == "sketch":
        sketch, omega = stats.within_sketch()
        assert_close(
            sketch, oracle.sigma_w @ omega.cpu().numpy(), rel=100 * EPS32, why="two float32 products"
        )
    else:
        assert_close(stats.within_covariance(), oracle.sigma_w, rel=32 * EPS32, why="float32 products")
    assert_close(stats.class_means, oracle.means, rel=4 * EPS32, why="sums of 64 rows about the centre")


def test_float64_rows_with_float32_products_are_centred_first() -> None:
    """Rounded to float32 before they are centred, these rows would be all equal."""
    rng = np.random.default_rng(5)
    labels = np.arange(500) % 2
    features = torch.as_tensor(1e6 + 1e-3 * rng.standard_normal((500, 80)))
    stats = accumulate(features, torch.as_tensor(labels), product_dtype=torch.float32)
    expected = Oracle(features.numpy(), labels).sigma_w
    assert_close(stats.within_covariance(), expected, rel=32 * EPS32, why="float32 products of centred rows")


# ---------------------------------------------------------------- far from the origin: directions


def test_angular_spread_far_from_the_origin() -> None:
    """1 - norm(m_c)^2 is 1e-6 here; norms of rows good to eps32 would leave two digits of it."""
    features, labels = collapsed(100.0, 0.5)
    oracle = Oracle(as_double(features), labels.numpy())
    expected = 1 - (oracle.unit_means() ** 2).sum(axis=1)
    actual = 1 - accumulate(features, labels, "trace", batch=50).unit_means.square().sum(1)
    # norm(d)/norm(h) = 5e-4 times eps32 per row, of a spread of its square: eps32 / 5e-4, over the root of the 40
    # rows of the smallest class.
    assert_close(actual, expected, rel=5e-5, why="the rounding of h . d relative to norm(d)^2, averaged")


def test_a_centre_moved_under_float64_products_is_one_that_float32_rows_can_be_centred_on() -> None:
    """The mean of float32 rows is no float32 number: centred on its rounding, every row would be shifted."""
    rng = np.random.default_rng(7)
    features = (1000 * rng.standard_normal(96) + 1e-3 * rng.standard_normal((500, 96))).astype(np.float32)
    features[0] += 5  # the first centre, far from the others: it is moved
    features, labels = tensors(features, np.zeros(500, dtype=np.int64))
    stats = accumulate(features, labels, "full", batch=1, product_dtype=torch.float64)
    error = (stats.class_means[0].cpu() - features.double().mean(0)).abs().max()
    assert error < 1e-6, "float32 sums of deviations of 0.3 round by 3e-7; a shifted centre shows at 6e-5"


@pytest.mark.parametrize("size", [0.0, 0.02, 0.1], ids=str)
def test_directions_of_rows_that_are_short_beside_their_class_mean(size: float) -> None:
    """norm(h)^2 summed from its parts about the centre would cancel for these rows, or leave noise for a zero."""
    features, labels = collapsed(1.0, 0.5)
    short = torch.arange(0, len(labels), 7)
    features[short] *= size
    oracle = Oracle(as_double(features), labels.numpy())
    stats = accumulate(features, labels, "trace", batch=50)
    # A seventh of the rows are centred on a mean up to 50 times as long: 50 eps32, over some rows of a class.
    assert_close(stats.unit_means, oracle.unit_means(), rel=40 * EPS32, why="eps32 norm(d)/norm(h), averaged")
    lost = torch.bincount(labels[short], minlength=4) if size == 0 else torch.zeros(4, dtype=torch.int64)
    assert (stats.counts - stats.unit_counts).tolist() == lost.tolist()
