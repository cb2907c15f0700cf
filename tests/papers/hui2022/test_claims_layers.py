"""Claims about layers (Fig. 6): an order in degree and in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from claim_rows import NAN, STEPS, curve, table, verdict

from collapselab.experiments.claims.claim import judge_all
from collapselab.papers.hui2022 import claims


def layers(finals: Sequence[float], falls: Sequence[float], seed: int = 0) -> list[dict[str, Any]]:
    """Depth 0, which no claim looks at, and three hidden layers."""
    parts = [curve(seed=seed, depth=0, is_last=False, train=1e-9)]
    parts += [
        curve(seed=seed, depth=depth, is_last=depth == 3, train=final, fall=fall)
        for depth, (final, fall) in enumerate(zip(finals, falls, strict=True), start=1)
    ]
    return [row for part in parts for row in part]


def test_figure_6_is_an_order_in_degree_and_in_time() -> None:
    rows = table(layers([0.05, 1e-3, 1e-4], [3, 2, 1]), layers([0.04, 2e-3, 1e-4], [3, 2, 1], seed=1))
    for id in ("last-layer-most", "last-layer-first", "first-layer-not"):
        assert verdict(claims.FIG6, id, rows) == "holds"
    reverse = table(layers([1e-4, 1e-3, 0.05], [1, 2, 3]))
    for id in ("last-layer-most", "last-layer-first", "first-layer-not"):
        assert verdict(claims.FIG6, id, reverse) == "fails"


def test_a_layer_that_never_falls_does_so_after_the_last() -> None:
    rows = table(layers([0.5, 0.5, 1e-4], [1, 1, 1]))
    assert verdict(claims.FIG6, "last-layer-first", rows) == "holds"
    last_never = table(layers([1e-4, 0.5, 0.5], [1, 1, 1]))
    assert verdict(claims.FIG6, "last-layer-first", last_never) == "fails"
    to_nothing = table(layers([0.5, 0.5, 0.0], [1, 1, 1]))
    assert verdict(claims.FIG6, "last-layer-first", to_nothing) == "holds"
    none = table(layers([0.5, 0.5, 0.5], [1, 1, 1]))
    assert verdict(claims.FIG6, "last-layer-first", none) == "inconclusive"


def test_layers_of_a_network_with_train_errors_leave_figure_6_open() -> None:
    rows = table(layers([0.05, 1e-3, 1e-4], [3, 2, 1]))
    rows.loc[rows["is_last"].astype(bool), "train_accuracy"] = 0.1  # diverged
    for id in ("last-layer-most", "last-layer-first", "first-layer-not"):
        assert verdict(claims.FIG6, id, rows) == "inconclusive"


def test_what_was_measured_too_seldom_to_fall_does_not_stand_still() -> None:
    rows = table(curve(train=0.5, strong=10.0))
    seldom = pd.DataFrame(rows[rows["step"] == rows["step"].max()])
    judged = {one["id"]: one for one in judge_all(claims.FIG3, seldom)}
    assert judged["train-collapses"]["verdict"] == "inconclusive"
    assert judged["no-strong-test-collapse"]["verdict"] == "inconclusive"
    assert "too few steps" in judged["train-collapses"]["evidence"]["cifar10-resnet18"]["reason"]


def test_a_layer_that_falls_in_the_last_step_is_before_one_that_never_does() -> None:
    rows = table(layers([0.5, 0.5, 0.1], [1, 1, 1]))
    at_end = (rows["depth"] == 3) & (rows["step"] == STEPS[-1])
    rows.loc[(rows["depth"] == 3) & ~at_end, "train_variance"] = 1.0
    assert verdict(claims.FIG6, "last-layer-first", rows) == "holds"


@pytest.mark.parametrize(("gap", "outcome"), [(STEPS[1], "inconclusive"), (STEPS[-1], "fails")])
def test_a_gap_in_the_curve_of_a_layer_is_not_taken_for_a_late_fall(gap: int, outcome: str) -> None:
    """Behind the fall it is no matter: the first layer has fallen first, and the claim fails."""
    rows = table(layers([1e-4, 0.5, 1e-4], [0.5, 1, 4]))
    rows.loc[(rows["depth"] == 1) & (rows["step"] == gap), "train_variance"] = NAN
    assert verdict(claims.FIG6, "last-layer-first", rows) == outcome


def test_a_first_layer_that_still_falls_has_not_saturated() -> None:
    rows = table(layers([0.05, 1e-3, 1e-4], [3, 2, 1]))
    falls = table(curve(depth=1, is_last=False, train=0.05, rests=False))["train_variance"].to_numpy()
    rows.loc[rows["depth"] == 1, "train_variance"] = falls
    assert verdict(claims.FIG6, "first-layer-not", rows) == "inconclusive"
