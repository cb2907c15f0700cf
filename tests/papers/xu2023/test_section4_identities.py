"""Section 4 and 5 of Xu and Liu: identities against closed forms, and that each of them can fail."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import collapselab
from collapselab.experiments.claims import judge_claims
from collapselab.metrics import variability
from collapselab.papers.xu2023 import measured_identities, transformations
from collapselab.papers.xu2023.common import LastLayer, metric_inputs, sample_weights
from collapselab.papers.xu2023.measured_identities import cases, least_squares_loss
from collapselab.papers.xu2023.sec4 import EXPERIMENT
from collapselab.papers.xu2023.sec4_charts import invariance, losses, off_weight_space

CLASSES, PER_CLASS, DIM = 3, 30, 8
FEWER_THAN_DIM = 2 * CLASSES


def made_up(seed: int = 0) -> LastLayer:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)[
        torch.randperm(CLASSES * PER_CLASS, generator=draw)
    ]
    means = 3 * torch.randn(CLASSES, 2 * DIM, generator=draw) + 1
    inputs = means[labels] + torch.randn(len(labels), 2 * DIM, generator=draw)
    weight, bias = torch.randn(CLASSES, DIM, generator=draw), torch.randn(CLASSES, generator=draw)
    return LastLayer(inputs, inputs[:, :DIM].clone(), labels, weight, bias)  # fmt: skip


def rows_of(seeds: int = 1) -> pd.DataFrame:
    rows = [row | {"seed": seed} for seed in range(seeds) for row in cases(made_up(seed), seed)]
    return pd.DataFrame(rows, columns=list(measured_identities._COLUMNS))


def failing(rows: pd.DataFrame) -> set[str]:
    judged = judge_claims(EXPERIMENT.claims, rows, EXPERIMENT.paper, EXPERIMENT.where)
    assert {one.verdict for one in judged} <= {"holds", "fails"}
    return {one.id for one in judged if one.verdict == "fails"}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_identities, "_FEW", FEWER_THAN_DIM // CLASSES)


def test_all_are_identities_and_hold_on_any_features() -> None:
    assert {claim.kind for claim in EXPERIMENT.claims} == {"identity"}
    assert failing(rows_of(seeds=2)) == set()


# ---------------------------------------------------------------- they can fail


INVERTIBLE = {"vci-invertible", "vci-example", "separate-maps"}


@pytest.mark.parametrize(
    ("metric", "instead", "wrong"),
    [
        # A ratio of traces instead of a pseudo-inverse.
        ("vci", variability.normalized_within, INVERTIBLE | {"loss-by-vci", "loss-by-vci-unequal"}),
        ("fuzziness", variability.squared_distance, {"separate-maps", "fuzziness-example"}),
        ("squared_distance", variability.fuzziness, {"squared-distance-example"}),
        # Without the square root of the sizes: not even the scale of all features is left out.
        ("squared_distance", variability.within_trace, {"scaling", "squared-distance-example"}),
        ("cosine_similarity", variability.normalized_within, {"scale-of-each-sample", "cosine-similarity-example"}),
    ],
)  # fmt: skip
def test_another_metric_under_the_same_name_fails(
    metric: str, instead: Callable[..., float], wrong: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variability, metric, instead)
    assert failing(rows_of()) == wrong


def test_a_loss_over_samples_instead_of_classes_fails_for_unequal_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    equal = torch.full((1,), 1.0, dtype=torch.float64)
    monkeypatch.setattr(
        measured_identities, "sample_weights", lambda labels: equal.expand(len(labels)) / len(labels)
    )
    assert failing(rows_of()) == {"loss-by-vci-unequal"}


def test_variance_that_the_classifier_reads_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    decompose = torch.linalg.svd

    def reversed_rows(matrix: Tensor, full_matrices: bool = True) -> object:
        found = decompose(matrix, full_matrices=full_matrices)
        is_weight = matrix.shape == (CLASSES, DIM) and not torch.allclose(
            matrix.sum(dim=0), matrix.new_zeros(DIM), atol=1e-9
        )
        return type(found)((found.U, found.S, found.Vh.flip(0))) if is_weight else found

    monkeypatch.setattr(torch.linalg, "svd", reversed_rows)
    assert failing(rows_of()) == {"off-weight-space"}


@pytest.mark.parametrize("by", [1 + 1e-7, 1 - 1e-7])
def test_a_trace_that_is_off_by_little_fails(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of()
    error = (rows["explained_over_rank"] * by - 1).abs()
    off = rows.assign(explained_over_rank=rows["explained_over_rank"] * by, error_of_explained=error)
    bound = {"explained-bound"} if by > 1 else set()
    assert failing(off) == bound | {"explained-at-collapse", "explained-few-samples"}


def test_an_undefined_value_is_no_verdict() -> None:
    rows = rows_of()
    rows.loc[rows["case"] == "spread 3", "error_of_loss"] = math.nan
    judged = {one.id: one.verdict for one in judge_claims(EXPERIMENT.claims, rows, "", "")}
    assert judged["loss-by-vci"] == "inconclusive"


# ---------------------------------------------------------------- closed forms


def test_the_example_has_the_numbers_of_its_docstring() -> None:
    features, labels, matrix = transformations.example()
    names = list(measured_identities.METRICS)
    for moved, expected in (
        (features, (1 / 2, 1, 2, 1 / 12)),
        (features @ matrix.T, (1 / 2, 5 / 4, 3 / 2, 1 / 8)),
    ):
        found = collapselab.measure(moved, labels, metrics=names)
        assert [found[name] for name in names] == pytest.approx(expected, rel=1e-12)  # a few roundings


def test_the_least_loss_is_that_of_the_normal_equations() -> None:
    last = made_up()
    kept = (last.labels > 0) | (torch.arange(len(last.labels)) % 3 == 0)
    features, labels = last.features[kept].double(), last.labels[kept]
    read = np.hstack([features.numpy(), np.ones((len(labels), 1))])
    wanted, weights = (
        np.eye(CLASSES)[labels.numpy()],
        1 / (CLASSES * np.bincount(labels.numpy()))[labels.numpy()],
    )
    solved = np.linalg.solve(read.T * weights @ read, read.T * weights @ wanted)
    expected = 0.5 * (weights[:, None] * (read @ solved - wanted) ** 2).sum()
    # Normal equations square the condition number, about 30 here.
    assert least_squares_loss(features, labels) == pytest.approx(expected, rel=1e-10)
    # Of the example: 1/2 - 1/4 - (1/2)/4.
    features, labels, _ = transformations.example()
    assert least_squares_loss(features, labels) == pytest.approx(1 / 8, rel=1e-12)


def test_every_class_has_the_same_weight() -> None:
    assert sample_weights(torch.tensor([0, 1, 1, 1, 1])).tolist() == [0.5, *[0.125] * 4]


def test_invertible_maps_have_the_condition_number_that_they_are_named_after() -> None:
    matrix = transformations.invertible(12, 1e3, torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(matrix)
    assert [float(values[0]), float(values[-1])] == pytest.approx([1, 1e-3], rel=1e-9)  # eps over 1e-3


def test_separate_maps_keep_the_span_of_the_class_means_and_its_complement() -> None:
    last = made_up()
    features = last.features.double()
    matrix = transformations.separate_maps(features, last.labels, torch.Generator().manual_seed(0))
    basis = metric_inputs(features, last.labels).between_svd.right
    projector = basis @ basis.T
    assert torch.allclose(projector @ matrix, matrix @ projector, atol=1e-12)
    assert float(torch.linalg.cond(matrix)) < 101  # ten in each


def test_added_variance_is_what_was_asked_for() -> None:
    last = made_up()
    rows = pd.DataFrame(list(measured_identities._off_weight_space(last, 0))).set_index("added")
    inputs = metric_inputs(last.features.double(), last.labels)
    # Tr Sigma_B stays; 100 times Tr Sigma_T is added to Tr Sigma_W.
    expected = (inputs.within_trace + 100 * inputs.total_trace) / inputs.between_trace
    assert rows.loc[100.0, "squared_distance"] == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- charts


def test_charts_show_every_transformation_and_the_line_of_the_theorem() -> None:
    rows = rows_of()
    (table,) = invariance(rows)
    heat = table.panels[0].heat
    assert heat is not None
    assert len(heat.values) == 4 + len(transformations.CONDITION_NUMBERS)
    assert heat.values.loc["condition number 1e1", "VCI"] < 1e-9
    assert heat.values.loc["condition number 1e1", "fuzziness"] > 1e-3
    (chart,) = off_weight_space(rows)
    assert {one.name for one in chart.panels[0].series} == {
        "squared distance",
        "fuzziness",
        "VCI",
        "cross-entropy",
    }
    (line,) = losses(rows)
    assert all(len(one.points) for one in line.panels[0].series)
