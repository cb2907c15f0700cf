"""Metrics where existing tools fail in silence: collapsed, far from the origin, ill-conditioned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import inputs_of

from collapselab import measure
from collapselab.metrics import BY_NAME
from collapselab.metrics.decision import nearest_class_centre
from collapselab.statistics import ClassStats
from helpers import EPS32, assert_close, uneven_labels
from oracles import Oracle, as_double

# What is asked of vci, fuzziness and cdnv of float32 features.
COLLAPSED = 1e-5


def power_law(
    n: int, dim: int, num_classes: int, exponent: float, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    """float32 features whose within-class spectrum falls as i^-exponent, rotated."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    scales = np.arange(1, dim + 1.0) ** (-exponent / 2)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    means = 0.3 * rng.standard_normal((num_classes, dim)) * scales
    rows = (means[labels] + rng.standard_normal((n, dim)) * scales) @ rotation
    return torch.as_tensor(rows).float(), labels


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6], ids="spread{}".format)
@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0], ids="offset{}".format)
@pytest.mark.parametrize("name", ["vci", "fuzziness", "cdnv"])
def test_collapsed_features(name: str, offset: float, spread: float) -> None:
    """On the inputs as float32 holds them.

    cdnv is a ratio of a trace (1e-6) and distances of means (eps32 times the spread). fuzziness adds the entries
    of Sigma_W, each good to eps32, in the few directions of the means, whose singular values differ by 2x. vci
    changes by eps32 times the share of Sigma_W left. At offset 1000 float32 has steps of 6e-5 per feature, and the
    spread of 1e-6 becomes rows that are equal or a step apart: exact numbers all the same.
    """
    rng = np.random.default_rng(0)
    labels = uneven_labels(rng, [400, 150, 250, 60])
    means = rng.standard_normal((4, 40)) / np.sqrt(80)
    rows = offset + means[labels] + spread * rng.standard_normal((860, 40)) / np.sqrt(40)
    features = torch.as_tensor(rows).float()
    expected = getattr(Oracle(as_double(features), labels), name)()
    value = measure(features, labels, metrics=[name])[name]
    assert value is not None
    # vci near 0 is 1 minus a share: its rounding is that of the share.
    scale = max(expected, 1e-9) if name == "vci" else expected
    assert_close(value, expected, rel=COLLAPSED, scale=scale, why="the docstring")


def test_fuzziness_where_between_eigenvalues_fall_over_eight_decades() -> None:
    """The pseudo-inverse of the p x p matrix cuts the small ones, or inverts rounding: off by up to 5000x."""
    rng = np.random.default_rng(0)
    num_classes, dim = 9, 30
    orthogonal = np.linalg.qr(rng.standard_normal((dim, num_classes - 1)))[0]
    simplex = np.linalg.svd(np.eye(num_classes) - 1 / num_classes)[0][:, : num_classes - 1]
    means = simplex * np.logspace(0, -4, num_classes - 1) @ orthogonal.T
    labels = np.repeat(np.arange(num_classes), 50)
    features = means[labels] + 1e-3 * rng.standard_normal((len(labels), dim))
    expected = Oracle(features, labels).fuzziness()
    assert_close(
        measure(features, labels, metrics=["fuzziness"])["fuzziness"],
        expected,
        rel=1e-9,
        why="the means' singular values fall over 4 decades only: 1e4 p eps64, with room for their rounding",
    )


@pytest.mark.parametrize("name", ["squared_distance", "fuzziness", "vci", "cdnv", "etf_distance"])
def test_offset_100_with_class_means_003_apart(name: str) -> None:
    rng = np.random.default_rng(2)
    labels = uneven_labels(rng, [200, 200, 200])
    means = rng.standard_normal((3, 64))
    means *= 0.03 / np.linalg.norm(means[0] - means[1])
    rows = 100 + means[labels] + 1e-3 * rng.standard_normal((600, 64))
    features = torch.as_tensor(rows).float()
    value = measure(features, labels, metrics=[name])[name]
    expected = getattr(Oracle(as_double(features), labels), name)()
    assert_close(value, expected, rel=COLLAPSED, why="rows are centred before anything is squared")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nearest_centre_at_offset_100_with_class_means_01_apart(dtype: torch.dtype) -> None:
    """norm(h)^2 - 2 h.m + norm(m)^2 in float32 rounds by 1 here, and the answer is chance."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((10, 512))
    means *= 0.1 / np.linalg.norm(means[0] - means[1])
    labels = np.arange(1000) % 10
    rows = 100 + means[labels] + 0.01 * rng.standard_normal((1000, 512)) / np.sqrt(512)
    features = torch.as_tensor(rows).to(dtype)
    assert measure(features, labels, metrics=["ncc_accuracy"])["ncc_accuracy"] == 1.0


def test_the_naive_distances_do_fail_there() -> None:
    """The test above is worth something: the usual float32 formula gets it wrong."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((10, 512))
    means *= 0.1 / np.linalg.norm(means[0] - means[1])
    labels = np.arange(1000) % 10
    features = torch.as_tensor(100 + means[labels]).float()
    centres = torch.as_tensor(100 + means).float()
    naive = (centres.square().sum(1) - 2 * features @ centres.T).argmin(1)
    assert (naive.numpy() == labels).mean() < 0.5
    assert (nearest_class_centre(features, centres.double()).numpy() == labels).all()


def test_the_global_mean_adds_no_spurious_direction() -> None:
    """A float32 mu_G gives Sigma_B a direction that Sigma_B^+ multiplies by up to 1e11."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 40)
    rows = 1000 + rng.standard_normal((5, 32))[labels] + 0.1 * rng.standard_normal((200, 32))
    features = torch.as_tensor(rows).float()
    inputs = inputs_of(features, labels, dtype=torch.float32)
    assert inputs.between_svd.rank == 4
    expected = Oracle(as_double(features), labels).fuzziness()
    assert_close(
        BY_NAME["fuzziness"].function(inputs),
        expected,
        rel=COLLAPSED,
        why="Sigma_B from its C - 1 directions",
    )


@pytest.mark.parametrize("offset", [0.0, 100.0], ids="offset{}".format)
@pytest.mark.parametrize("name", ["cosine_similarity", "class_separation"])
def test_directions_far_from_the_origin(name: str, offset: float) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(600) % 6
    rows = offset + rng.standard_normal((6, 96))[labels] + 0.1 * rng.standard_normal((600, 96))
    features = torch.as_tensor(rows).float()
    value = measure(features, labels, metrics=[name])[name]
    expected = getattr(Oracle(as_double(features), labels), name)()
    assert_close(value, expected, rel=1e-4, why="eps32 norm(h)/norm(d) = 1e-4 per row, averaged over 600")


@pytest.mark.parametrize("exponent", [1, 2, 4])
def test_vci_of_a_power_law_spectrum(exponent: int) -> None:
    """A cut at float32's eps would move it; float32 products too coarse for it are taken again in float64."""
    features, labels = power_law(20000, 64, 10, exponent)
    result = measure(features, labels, metrics=["vci"])
    assert_close(
        result["vci"], Oracle(as_double(features), labels).vci(), rel=COLLAPSED, why="check_products"
    )


def test_products_too_coarse_are_noticed() -> None:
    features, labels = power_law(2000, 64, 10, 6)
    stats = ClassStats(10, 64)
    stats.update(features, torch.as_tensor(labels))
    inputs = inputs_of(features, labels, dtype=torch.float32)
    BY_NAME["vci"].function(inputs)
    assert inputs.wants_float64_products
    assert any("product_dtype=torch.float64" in warning for warning in inputs.warnings)


def test_measuring_again_in_float64_leaves_no_warning() -> None:
    features, labels = power_law(2000, 64, 10, 6)
    result = measure(features, labels, metrics=["vci", "fuzziness"])
    assert not any("float32" in warning for warning in result.warnings)
    assert_close(
        result["vci"], Oracle(as_double(features), labels).vci(), rel=COLLAPSED, why="float64 products"
    )


def test_asking_for_float32_products_keeps_the_warning() -> None:
    features, labels = power_law(2000, 64, 10, 6)
    result = measure(features, labels, metrics=["vci"], product_dtype=torch.float32)
    assert any("float32" in warning for warning in result.warnings)


def test_variance_the_weight_does_not_see() -> None:
    """Within-class variance almost wholly off the weight's row space (Xu and Liu, Proposition 4.1)."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    labels = np.arange(800) % 3
    scales = np.r_[np.full(2, 1e-4), np.ones(38)]
    means = 3 * rng.standard_normal((3, 2)) @ basis[:2]
    features = torch.as_tensor(means[labels] + rng.standard_normal((800, 40)) * scales @ basis).float()
    weight = rng.standard_normal((3, 2)) @ basis[:2]
    value = measure(features, labels, weight=weight, metrics=["within_in_weight_space"])[
        "within_in_weight_space"
    ]
    expected = Oracle(as_double(features), labels, weight=weight).within_in_weight_space()
    # float32 products would leave eps32 of a trace 2e9 times this share.
    assert expected < EPS32 * 38
    assert_close(value, expected, rel=1e-5, why="products are taken again in float64")
