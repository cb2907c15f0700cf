"""A zero denominator gives null and a warning that says which; what is unusual is never passed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import inputs_of, random_case

from collapselab import Measurement, measure
from collapselab.metrics import BY_NAME
from helpers import simplex
from oracles import Oracle


def coincident(dim: int = 70, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, np.ndarray]:
    """Three classes of the same rows in another order: means equal but for rounding."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((90, dim)) + 0.1
    features = np.concatenate([rows, rows[rng.permutation(90)], rows[rng.permutation(90)]])
    order = rng.permutation(270)
    return torch.as_tensor(features[order]).to(dtype), np.repeat(np.arange(3), 90)[order]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("squared_distance", "squared_distance is undefined: all class means coincide"),
        ("fuzziness", "fuzziness and nc1 are undefined: all class means coincide"),
        ("nc1", "fuzziness and nc1 are undefined: all class means coincide"),
        ("vci", "vci is undefined: all class means coincide"),
        ("cdnv", "cdnv is undefined: the means of classes 0 and 1"),
        ("equinorm", "equinorm is undefined: all class means coincide"),
        ("equiangularity", "equiangularity is undefined: all class means coincide"),
        ("max_angle_gap", "max_angle_gap is undefined: all class means coincide"),
        ("mean_cosine_gap", "mean_cosine_gap is undefined: all class means coincide"),
        ("etf_distance", "etf_distance is undefined: all class means coincide"),
        ("self_duality", "self_duality is undefined: all class means coincide"),
        ("alignment", "alignment is undefined: all class means coincide"),
        ("train_variance", "train_variance and strong_test_variance are undefined: all class means coincide"),
    ],
    ids=lambda value: value if " " not in value else "",
)
def test_coincident_class_means(name: str, said: str, dtype: torch.dtype) -> None:
    features, labels = coincident(dtype=dtype)
    result = measure(features, labels, weight=np.ones((3, 70)), metrics=[name])
    assert result[name] is None
    assert any(said in warning for warning in result.warnings), result.warnings


def test_two_of_three_means_that_coincide() -> None:
    features, labels = coincident()
    features[torch.as_tensor(labels == 2)] += 5
    result = measure(features, labels, metrics=["cdnv", "squared_distance"])
    assert result["cdnv"] is None
    assert result["squared_distance"] is not None
    assert any("classes 0 and 1 (in sorted order) coincide" in warning for warning in result.warnings)


def test_class_means_a_millionth_of_the_spread_apart_do_not_coincide() -> None:
    """The null above must not take what float32 can still tell."""
    features, labels = coincident()
    features += 1e-5 * torch.as_tensor(labels)[:, None]
    result = measure(features, labels, metrics=["cdnv", "squared_distance"])
    oracle = Oracle(features.double().numpy(), labels)
    assert result["cdnv"] == pytest.approx(oracle.cdnv(), rel=0.05)
    assert result["squared_distance"] == pytest.approx(oracle.squared_distance(), rel=0.05)


@pytest.mark.parametrize("name", ["equiangularity", "max_angle_gap", "mean_cosine_gap"])
def test_a_class_mean_at_the_global_mean_has_no_direction(name: str) -> None:
    features, labels = coincident()
    features += torch.as_tensor(labels - 1)[:, None]
    result = measure(features, labels, metrics=[name])
    assert result[name] is None
    assert any("1 class means lie at the global mean" in warning for warning in result.warnings)


@pytest.mark.parametrize("fill", [0.0, 0.1, 1000 / 3], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "name", ["normalized_within", "stable_rank", "stable_rank_per_class", "components_90", "components_99"]
)
def test_features_that_do_not_vary(name: str, dtype: torch.dtype, fill: float) -> None:
    features = torch.full((33, 6), fill, dtype=dtype)
    result = measure(features, np.arange(33) % 3, metrics=[name])
    assert result[name] is None
    assert result.warnings


@pytest.mark.parametrize("name", ["stable_rank", "stable_rank_per_class"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_variance_within_classes(name: str, dtype: torch.dtype) -> None:
    labels = np.arange(60) % 3
    features = torch.as_tensor(simplex(3, 6, np.random.default_rng(0))[labels] + 0.1).to(dtype)
    result = measure(features, labels, metrics=[name])
    assert result[name] is None
    assert any("no variance within" in warning for warning in result.warnings)


def test_one_direction_for_all_samples() -> None:
    features = np.outer(np.arange(1, 41.0), [3.0, 4.0])
    result = measure(features, np.arange(40) % 2, metrics=["class_separation", "cosine_similarity"])
    assert result["class_separation"] is None
    assert result["cosine_similarity"] == pytest.approx(1.0)
    assert any("no angular spread" in warning for warning in result.warnings)


@pytest.mark.parametrize("dim", [6, 100], ids="p{}".format)
@pytest.mark.parametrize("name", ["cosine_similarity", "class_separation"])
def test_samples_without_a_direction_are_left_out(name: str, dim: int) -> None:
    case = random_case([15, 30, 20], dim)
    features = case.features.astype(np.float32)
    features[np.flatnonzero(case.labels == 1)[:4]] = 0
    result = measure(features, case.labels, metrics=[name])
    expected = getattr(Oracle(features.astype(np.float64), case.labels), name)()
    assert result[name] == pytest.approx(expected, rel=1e-6)
    assert any("4 samples of norm zero have no direction" in warning for warning in result.warnings)


def test_a_class_of_zeros_is_left_out_of_the_cosines() -> None:
    case = random_case([15, 30, 20], 6)
    case.features[case.labels == 0] = 0
    result = measure(case.features, case.labels, metrics=["cosine_similarity"])
    assert result["cosine_similarity"] == pytest.approx(case.oracle().cosine_similarity())
    assert any("and with them 1 classes" in warning for warning in result.warnings)


def test_nothing_but_zeros_has_no_cosine() -> None:
    result = measure(np.zeros((8, 3)), np.arange(8) % 2, metrics=["cosine_similarity"])
    assert result["cosine_similarity"] is None
    assert any("every sample has norm zero" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", ["weight_stable_rank", "self_duality", "alignment"])
def test_a_weight_of_zeros(name: str) -> None:
    case = random_case([15, 30, 20], 6)
    result = measure(case.features, case.labels, weight=np.zeros((3, 6)), metrics=[name])
    assert result[name] is None
    assert any("the weight is zero" in warning for warning in result.warnings)


@pytest.mark.parametrize(("n", "dim"), [(20, 19), (20, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_as_many_features_as_samples(n: int, dim: int, dtype: torch.dtype) -> None:
    """Noise, yet vci is 0."""
    features = torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = measure(features, np.arange(n) % 2, metrics=["vci"])
    assert result["vci"] == pytest.approx(0, abs=1e-9)
    assert _warns_of_rank(result, 19, n)


def test_as_many_varying_directions_as_samples() -> None:
    """Fewer features than that cannot have rank n - 1."""
    features = torch.randn(20, 18, generator=torch.Generator().manual_seed(0))
    result = measure(features, np.arange(20) % 2, metrics=["vci"])
    assert not _warns_of_rank(result, 19, 20)


@pytest.mark.parametrize("varying", [18, 19])
@pytest.mark.parametrize("others", ["constant", "copies"])
def test_the_rank_decides_and_not_the_number_of_features(varying: int, others: str) -> None:
    """There are 40 features and 20 samples. With 19 independent features vci must be 0, with 18 it need not be."""
    noise = np.random.default_rng(0).standard_normal((20, varying))
    rest = np.full((20, 40 - varying), 3.0) if others == "constant" else np.tile(noise, 3)[:, varying:40]
    result = measure(np.hstack([noise, rest]), np.arange(20) % 2, metrics=["vci"])
    is_full = varying == 19
    assert _warns_of_rank(result, 19, 20) == is_full
    assert (result["vci"] == pytest.approx(0, abs=1e-9)) == is_full


def _warns_of_rank(result: Measurement, rank: int, n: int) -> bool:
    said = f"Sigma_T has rank {rank}, the largest possible with {n} samples. vci is then 0"
    return any(said in warning for warning in result.warnings)


def test_means_of_low_rank() -> None:
    """Four class means on a line: vci is at least 1 - 1/3, and so it says."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 4
    features = np.outer(labels, rng.standard_normal(8))
    features[:, 0] += np.repeat([1e-3, -1e-3], 50)[
        np.argsort(np.argsort(labels, kind="stable"), kind="stable")
    ]
    inputs = inputs_of(np.outer(labels, rng.standard_normal(8)), labels)
    assert BY_NAME["vci"].function(inputs) == pytest.approx(2 / 3)
    assert any(
        "span only 1 of the 3 dimensions that they can: 2 of 3 singular values" in warning
        for warning in inputs.warnings
    )
    assert any("vci is at least 0.6667 even at full collapse" in warning for warning in inputs.warnings)


def test_directions_without_variance_are_ignored_and_change_nothing() -> None:
    """There are six features. The fifth is constant, and the last is a copy of the first."""
    features = np.random.default_rng(0).standard_normal((100, 6))
    features[:, 4], features[:, 5] = 3.0, features[:, 0]
    labels = np.arange(100) % 3
    result, without = (measure(x, labels, metrics=["vci"]) for x in (features, features[:, :4]))
    (warning,) = result.warnings
    assert warning.startswith(
        "train: Sigma_T has rank 4 with 6 features. Number of constant features: 1. Number of eigenvalues below "
    )
    assert warning.endswith(
        ": 1. Such eigenvalues are zero up to rounding. vci is computed without them; its value is not affected"
    )
    assert result["vci"] == pytest.approx(without["vci"], rel=1e-9)  # eps64 times the condition number


def test_a_class_of_one_sample_is_a_warning() -> None:
    case = random_case([1, 30, 20], 6)
    result = measure(case.features, case.labels, metrics=["within_trace"])
    assert result.warnings == ("train: 1 classes have one sample and so no variance within the class",)


def test_rcond_overrides_both_cuts() -> None:
    case = random_case([15, 30, 20], 6)
    inputs = inputs_of(case.features, case.labels, rcond=0.5)
    assert inputs.between_svd.cutoff == 0.5
    kept = 1 / inputs.scaled_total.root.square().sum(0)  # columns are eigenvectors over sqrt(eigenvalue)
    assert float(kept.min()) > 0.5 * float(kept.max())


def test_usual_features_give_no_warning() -> None:
    case = random_case([15, 30, 20], 6)
    values: dict[str, Any] = measure(case.features, case.labels, weight=case.weight).to_dict()
    assert values["warnings"] == []
    assert [name for name, value in values["splits"]["train"].items() if value is None] == []
