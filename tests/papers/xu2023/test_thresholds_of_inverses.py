"""Figure 2 of Xu and Liu: fuzziness and VCI over thresholds against closed forms, and the claim where it is true and false."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import collapselab
from collapselab.experiments.claims import judge_claims
from collapselab.papers.xu2023 import thresholds
from collapselab.papers.xu2023.fig2 import EXPERIMENT
from collapselab.papers.xu2023.thresholds import THRESHOLDS, WAYS, covariances, largest_movement

NAN = math.nan


@pytest.mark.parametrize(
    ("moving", "steady", "factor"),
    [
        ([1, 10, 100], [0.5, 0.5, 0.5], 100),
        ([1, 10, 100], [0.5, 0.51, 0.54], 10),  # over any two neighbours, not over all three
        ([1, 10, 100], [0.5, 0.6, 0.7], 1),
        ([100, 10, 1], [0.5, 0.5, 0.6], 10),
        ([-5, 50, 1], [0.5, 0.5, 0.6], 10),  # the sign of fuzziness is rounding
        ([1, 10, 100], [-0.5, -0.5, 0.5], 1),  # no values of VCI
        ([0, 1], [0.5, 0.5], math.inf),
    ],
)
def test_the_largest_movement_over_neighbours_where_the_other_stands(
    moving: list[int], steady: list[float], factor: float
) -> None:
    assert largest_movement([float(value) for value in moving], steady) == pytest.approx(factor)


def test_without_a_value_there_is_no_movement() -> None:
    assert math.isnan(largest_movement([1.0, 2.0], [-1.0, NAN]))


def test_thresholds_span_ten_decades() -> None:
    assert (THRESHOLDS[0], THRESHOLDS[-1], len(THRESHOLDS)) == (1e-12, 1e-2, 21)


# ---------------------------------------------------------------- measurements


def made_up(spread: float = 1.0, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes of unequal sizes; the last direction of their means is `spread` times as long as the others."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(torch.tensor([20, 30, 40, 50]))
    means = 4 * torch.eye(4, 6) @ torch.diag(torch.tensor([1, 1, spread, 1, 1, 1]))
    means[3, 3] = 0
    return means[labels] + noise * torch.randn(140, 6, generator=draw), labels


def test_covariances_are_the_definitions() -> None:
    features, labels = made_up()
    within, between, total = covariances(features.double(), labels)
    x, y = features.double().numpy(), labels.numpy()
    means = np.stack([x[y == label].mean(axis=0) for label in range(4)])
    expected = sum(np.cov(x[y == label].T, bias=True) for label in range(4)) / 4
    assert within.numpy() == pytest.approx(expected, abs=1e-12)
    assert between.numpy() == pytest.approx(np.cov(means.T, bias=True), abs=1e-12)
    assert torch.allclose(total, within + between, atol=1e-12)


def test_both_ways_agree_with_measure_where_nothing_is_near_a_threshold() -> None:
    features, labels = made_up()
    found = collapselab.measure(features, labels, metrics=["fuzziness", "vci"])
    rows = pd.DataFrame(list(thresholds._over_thresholds(features, labels)))
    at = rows.set_index("threshold").loc[1e-5]
    for way, relative in zip(
        WAYS, (1e-4, 1e-6), strict=True
    ):  # float32 with a condition number of about 100; products
        assert at[f"fuzziness_{way}"] == pytest.approx(found["fuzziness"], rel=relative)
        assert at[f"vci_{way}"] == pytest.approx(found["vci"], rel=relative)


def test_both_ways_drop_eigenvalues_at_the_same_threshold() -> None:
    """A direction of the class means whose eigenvalue is about 1e-3 of the largest is left out above that."""
    features, labels = made_up(spread=0.05, noise=0.05)
    rows = pd.DataFrame(list(thresholds._over_thresholds(features, labels))).set_index("threshold")
    between = covariances(features.double(), labels)[1]
    values = torch.linalg.eigvalsh(between).flip(0)
    share = float(values[2] / values[0])
    above, below = (min(t for t in THRESHOLDS if t > share), max(t for t in THRESHOLDS if t < share))
    for way in WAYS:
        assert rows.loc[above, f"fuzziness_{way}"] < 0.5 * rows.loc[below, f"fuzziness_{way}"]


def test_spectra_are_over_the_largest_and_fall() -> None:
    features, labels = made_up()
    rows = pd.DataFrame(list(thresholds._spectra(features, labels)))
    assert list(rows["index"]) == [1, 2, 3, 4, 5, 6]
    assert set(rows["rank"]) == {3}
    for name in ("between", "total"):
        assert rows[name].iloc[0] == 1
        assert (np.diff(rows[name]) <= 0).all()
    assert rows["between"].iloc[3] < 1e-6 < rows["between"].iloc[2]


# ---------------------------------------------------------------- the claim


def swept(fuzziness: float, vci: float) -> pd.DataFrame:
    """Rows in which both metrics, in both ways, move by these factors per decade below 1e-6."""
    below = np.maximum(0, -6 - np.log10(THRESHOLDS))
    rows = []
    for seed in range(5):
        for network in ("a", "b"):
            size = (1 + 0.01 * seed) * fuzziness**below
            values = {"fuzziness": size, "vci": 0.2 * vci**below}
            named = {f"{name}_{way}": value for name, value in values.items() for way in WAYS}
            rows.append(pd.DataFrame({"threshold": THRESHOLDS, **named, "network": network, "seed": seed}))
        rows.append(pd.DataFrame({"index": [1, 2], "network": "a", "seed": seed}))  # of a spectrum
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize(
    ("fuzziness", "vci", "verdict"),
    [
        (2.0, 1.0, "holds"),
        (1.3, 1.0, "fails"),  # less than a decade over six
        (1.0, 1.0, "fails"),
        (2.0, 2.0, "fails"),  # VCI moves as well
        (1.0, 2.0, "fails"),
    ],
)
def test_fuzziness_must_move_where_vci_does_not(fuzziness: float, vci: float, verdict: str) -> None:
    judged = judge_claims(EXPERIMENT.claims, swept(fuzziness, vci), EXPERIMENT.paper, EXPERIMENT.where)
    assert [one.kind for one in judged] == ["finding", "finding"]
    assert {one.verdict for one in judged} == {verdict}


def test_fuzziness_in_the_place_of_vci_fails() -> None:
    rows = swept(2.0, 1.0)
    swapped = rows.assign(vci_plain=rows["fuzziness_plain"])
    plain, careful = judge_claims(EXPERIMENT.claims, swapped, EXPERIMENT.paper, EXPERIMENT.where)
    assert (plain.verdict, careful.verdict) == ("fails", "holds")


def test_one_network_in_which_it_is_false_is_enough() -> None:
    rows = swept(2.0, 1.0)
    rows.loc[rows["network"] == "b", "fuzziness_plain"] = 1.0
    plain, _ = judge_claims(EXPERIMENT.claims, rows, EXPERIMENT.paper, EXPERIMENT.where)
    assert plain.verdict == "fails"
