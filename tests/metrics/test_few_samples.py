"""Samples that are fewer than features: all matrices are products between samples, with the same values."""

from __future__ import annotations

import re
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from collapselab import measure
from collapselab.decompositions import thin_svd, thin_svd_by_gram
from collapselab.metrics import METRICS, MetricInputs, evaluate
from collapselab.metrics.registry import Number
from collapselab.statistics import ClassStats, Scatter
from collapselab.statistics.scatter import WithinScatter
from helpers import assert_close

# Everything but what single samples or draws decide.
NAMES = [
    metric.name
    for metric in METRICS
    if not metric.needs & {"second pass", "k-means"} and "train" in metric.splits
]
WHY = "float64 products; no eigenvalue that is kept is below 1e-4 of the largest"


def draw(num: int, dim: int, classes: int, *, constant: int = 0) -> tuple[Tensor, Tensor]:
    """Features of unbalanced classes, some of them constant."""
    random = np.random.default_rng(num)
    labels = np.arange(num) % classes
    labels[:3] = 0
    features = random.standard_normal((classes, dim))[labels] + 0.3 * random.standard_normal((num, dim))
    features[:, :constant] = 2.0
    return torch.from_numpy(features), torch.from_numpy(labels)


def values(
    features: Tensor, labels: Tensor, scatter: str, weight: Tensor
) -> tuple[dict[str, Number | None], MetricInputs]:
    classes = int(labels.max()) + 1
    counts = None if scatter == "per_class" else torch.bincount(labels)
    stats = ClassStats(classes, features.shape[1], scatter, class_counts=counts)  # pyright: ignore[reportArgumentType] a literal
    for rows, numbers in zip(features.split(7), labels.split(7), strict=True):
        stats.update(rows, numbers)
    inputs = MetricInputs(stats, weight=weight, is_classifier=len(weight) == classes)
    return evaluate([metric for metric in METRICS if metric.name in NAMES], inputs), inputs


@pytest.mark.parametrize("scatter", ["per_class", "full"])
@pytest.mark.parametrize(
    ("num", "dim", "classes", "constant", "out"),
    [(40, 300, 5, 0, 5), (40, 60, 5, 30, 5), (10, 20, 3, 0, 40), (60, 500, 10, 100, 600)],
)
def test_values_are_those_of_the_whole_matrices(
    scatter: str, num: int, dim: int, classes: int, constant: int, out: int
) -> None:
    features, labels = draw(num, dim, classes, constant=constant)
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((out, dim)))
    found, inputs = values(features, labels, scatter, weight)
    with patch.object(WithinScatter, "few_rows", lambda _self: None):
        expected, whole = values(features, labels, scatter, weight)
    assert inputs.few is not None
    assert whole.few is None
    for name in NAMES:
        value, wanted = found[name], expected[name]
        if "per_class" in name or "published" in name:
            continue  # a pooled matrix does not have them: see below
        if wanted is None:
            assert value is None, name
        else:
            assert value is not None, name
            # A share of the variance can be zero: it is compared with the whole.
            scale = inputs.total_trace if "_weight_space" in name else max(abs(wanted), 1e-3)
            assert_close(value, wanted, rel=1e-9, scale=scale, why=WHY)
    about_ranks = [text for text in whole.warnings if "too large to store" not in text]
    assert inputs.warnings == about_ranks
    assert_close(
        inputs.within_eigenvalues, whole.within_eigenvalues, rel=1e-10, scale=whole.within_trace, why=WHY
    )
    assert_close(
        inputs.total_eigenvalues, whole.total_eigenvalues, rel=1e-10, scale=whole.total_trace, why=WHY
    )


@pytest.mark.parametrize("scatter", ["per_class", "full", "sketch"])
def test_values_are_those_of_their_definitions(scatter: str) -> None:
    features, labels = draw(40, 300, 5)
    found, _ = values(features, labels, scatter, torch.zeros(5, 300))
    h, y = features.numpy(), labels.numpy()
    means = np.stack([h[y == c].mean(0) for c in range(5)])
    own = [np.cov(h[y == c].T, bias=True) for c in range(5)]
    within, centred = sum(own) / 5, means - means.mean(0)
    between = centred.T @ centred / 5
    scaled = np.diag(1 / np.sqrt(np.diag(within + between)))
    pillai = np.trace(
        np.linalg.pinv(scaled @ (within + between) @ scaled, rcond=1e-10) @ scaled @ between @ scaled
    )
    ranks = [np.trace(one) / np.linalg.eigvalsh(one)[-1] for one in own]
    expected = {
        "stable_rank": np.trace(within) / np.linalg.eigvalsh(within)[-1],
        "stable_rank_low": np.trace(within) / np.linalg.eigvalsh(within)[-1],
        "stable_rank_per_class": np.mean(ranks),
        "fuzziness": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)),
        "vci": max(1 - pillai / 4, 0.0),
    }
    for name, wanted in expected.items():
        value = found[name]
        assert value is not None, name
        assert_close(value, wanted, rel=1e-9, scale=max(wanted, 1.0), why=WHY)


class LargestMatrix(TorchDispatchMode):
    """Records the largest smaller side of any matrix that is computed: a product, a sum in progress, a decomposition."""

    def __init__(self) -> None:
        super().__init__()
        self.side = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if re.search("mm|zeros|eig|svd|cholesky|clone|tensordot", str(func)):
            for part in out if isinstance(out, tuple | list) else [out]:
                if isinstance(part, Tensor) and part.ndim >= 2:
                    self.side = max(self.side, min(part.shape[-2:]))
        return out


def largest_matrix(scatter: str, checks: str) -> int:
    features, labels = draw(40, 300, 5)
    with LargestMatrix() as seen:
        stats = ClassStats(5, 300, scatter, checks=checks)  # pyright: ignore[reportArgumentType] literals
        stats.update(features, labels)
        inputs = MetricInputs(stats, weighting="sample")
        evaluate([metric for metric in METRICS if metric.name in NAMES], inputs)
    return seen.side


@pytest.mark.parametrize("checks", ["eager", "deferred"])
@pytest.mark.parametrize("scatter", ["per_class", "full", "sketch"])
def test_no_matrix_between_features_is_computed(scatter: str, checks: str) -> None:
    # Samples and class means together.
    assert largest_matrix(scatter, checks) == 45
    if scatter != "sketch":
        with patch.object(WithinScatter, "few_rows", lambda _self: None):
            assert largest_matrix(scatter, checks) == 300


def test_many_rows_are_multiplied_and_a_merge_keeps_no_rows() -> None:
    features, labels = draw(300, 200, 5)
    for scatter, few in (("full", 195), ("sketch", 64)):
        stats = ClassStats(5, 200, scatter)  # pyright: ignore[reportArgumentType] a literal
        stats.update(features[:few], labels[:few])
        rows = stats.few_rows()
        assert rows is not None
        assert len(rows[0]) == few
        assert ClassStats.merge([stats, stats]).few_rows() is None
        stats.update(features[few : few + 1], labels[few : few + 1])
        assert stats.few_rows() is None
    whole = ClassStats(5, 200)
    whole.update(features, labels)
    centred = features - whole.class_means[labels]
    weights = (0.2 / torch.bincount(labels).double())[labels]
    per_class = ClassStats(5, 200, "per_class", checks="deferred")
    for start in range(0, 300, 100):  # held, then multiplied with the rows of the third part
        per_class.update(features[start : start + 100], labels[start : start + 100])
        _ = per_class.num_samples
    expected = centred.T @ (centred * weights[:, None])
    assert_close(
        per_class.within_covariance(), expected, rel=1e-11, scale=float(expected.diagonal().max()), why=WHY
    )


def test_classes_without_samples_leave_few_rows_as_they_are() -> None:
    features, labels = draw(40, 300, 5)
    sparse = ClassStats(12, 300, "per_class")
    sparse.update(features, 2 * labels + 1)
    dropped = sparse.drop_empty_classes().few_rows()
    assert dropped is not None
    assert torch.equal(dropped[1], labels)
    own = torch.stack([features[labels == c].mean(0) for c in range(5)])
    assert_close(dropped[0], features - own[labels], rel=1e-12, scale=4.0, why="float64 means")


@pytest.mark.parametrize("shape", [(300, 300), (400, 300), (300, 400)])
@pytest.mark.parametrize("rank", [300, 290])
def test_singular_vectors_of_a_weight_on_request(shape: tuple[int, int], rank: int) -> None:
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.standard_normal((side, rank)))[0] for side in shape)
    # Several equal values, as those of a collapsed classifier.
    spectrum = np.concatenate([np.full(9, 5.0), np.linspace(2, 1, rank - 9)])
    matrix = torch.from_numpy((left * spectrum) @ right.T)
    found = thin_svd_by_gram(matrix, cutoff=1e-4)
    assert found is not None
    whole = thin_svd(matrix, max_rank=min(shape), cutoff=1e-4)
    assert found.rank == whole.rank == rank
    assert found.num_dropped == min(shape) - rank
    assert_close(
        found.values, torch.from_numpy(spectrum), rel=1e-12, scale=5.0, why="squares of values of one size"
    )
    top = found.leading(9)
    projector = torch.from_numpy(right[:, :9] @ right[:, :9].T)
    assert_close(top @ top.T, projector, rel=1e-11, scale=1.0, why="eps over the gap between 25 and 4")
    if found.complement is not None and found.num_dropped:
        off = found.complement()
        assert off.shape == (shape[1], shape[1] - rank)
        assert_close(
            matrix @ off,
            torch.zeros(shape[0], shape[1] - rank).double(),
            rel=1e-6,
            scale=1.0,
            why="roots of the rounding of squares",
        )
        assert_close(
            off.T @ off, torch.eye(shape[1] - rank).double(), rel=1e-12, scale=1.0, why="orthonormal"
        )


@pytest.mark.parametrize("scatter", ["full", "per_class", "sketch"])
def test_merged_parts_keep_their_rows_while_they_are_few(scatter: Scatter) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(30, 80, generator=generator, dtype=torch.float64)
    labels = torch.arange(30) % 3
    parts = []
    for rows in (slice(0, 7), slice(7, 7), slice(7, 30)):
        parts.append(ClassStats(num_classes=3, dim=80, scatter=scatter))
        parts[-1].update(features[rows], labels[rows])
    merged, whole = ClassStats.merge(parts), ClassStats(num_classes=3, dim=80, scatter=scatter)
    whole.update(features, labels)
    for found, wanted in zip(merged.few_rows() or (), whole.few_rows() or (), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert merged.few_rows() is not None
    together, at_once = (
        {name: np.nan if value is None else value for name, value in measure(stats).train.items()}
        for stats in (merged, whole)
    )
    assert together == pytest.approx(at_once, rel=1e-9, nan_ok=True)
    # More rows than features, a part whose rows are not known any more, and new rows end this.
    stored = ClassStats.from_state_dict(whole.state_dict())
    assert ClassStats.merge([whole, stored]).few_rows() is None
    assert ClassStats.merge([whole, whole, whole]).few_rows() is None
    merged.update(features[:1], labels[:1])
    assert merged.few_rows() is None
