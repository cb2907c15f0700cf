"""Claims about layers (Fig. 6): an order in degree and in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from claim_rows import NAN, STEPS, curve, judgement, seeds, verdict

from collapselab.papers.hui2022 import fig6

FIG6 = fig6.EXPERIMENT
MOST, FIRST, SATURATES = (
    "train-variance-ordered",
    "normalized-within-last-layer-first",
    "train-variance-stays",
)


def layers(
    finals: Sequence[float], falls: Sequence[float], seed: int = 0, **changes: Any
) -> list[dict[str, Any]]:
    """Depth 0, which no claim looks at, and three hidden layers."""
    parts = [curve(seed=seed, depth=0, is_last=False, train=1e-9)]
    parts += [
        curve(seed=seed, depth=depth, is_last=depth == 3, train=final, fall=fall + 0.01 * seed, **changes)
        for depth, (final, fall) in enumerate(zip(finals, falls, strict=True), start=1)
    ]
    return [row for part in parts for row in part]


def three(finals: Sequence[float], falls: Sequence[float], **changes: Any) -> pd.DataFrame:
    return seeds(lambda seed: layers(finals, falls, seed, **changes))


def test_figure_6_is_an_order_in_degree_and_in_time() -> None:
    rows = three([0.5, 1e-2, 1e-4], [3, 2, 1])
    reverse = three([1e-4, 1e-2, 0.5], [1, 2, 3])
    for id in (MOST, FIRST, SATURATES):
        assert verdict(FIG6, id, rows) == "holds"
        assert verdict(FIG6, id, reverse) == "fails"
        assert (
            verdict(FIG6, id, seeds(lambda seed: layers([0.5, 1e-2, 1e-4], [3, 2, 1], seed), 2))
            == "inconclusive"
        )


def test_a_layer_may_be_first_without_going_farther() -> None:
    """Each layer is measured on its own way."""
    rows = three([1e-4, 1e-4, 0.5], [3, 3, 1])
    assert verdict(FIG6, FIRST, rows) == "holds"
    assert verdict(FIG6, MOST, rows) == "fails"


def test_layers_of_a_network_with_train_errors_are_void() -> None:
    rows = three([0.5, 1e-2, 1e-4], [3, 2, 1], accuracy=0.1)  # diverged
    for id in (MOST, FIRST, SATURATES):
        judged = judgement(FIG6, id, rows)
        assert judged.verdict == "inconclusive"
        assert judged.void == dict.fromkeys(range(3), "train accuracy 0.1 < 0.999")


def test_a_layer_that_does_not_move_has_no_way() -> None:
    rows = three([0.5, 1e-2, 1e-4], [3, 2, 1])
    rows.loc[rows["depth"] == 2, "normalized_within"] = 0.5
    assert verdict(FIG6, FIRST, rows) == "inconclusive"


@pytest.mark.parametrize(("gap", "outcome"), [(STEPS[1], "inconclusive"), (STEPS[-2], "fails")])
def test_a_gap_in_the_curve_of_a_layer_is_not_taken_for_a_late_fall(gap: int, outcome: str) -> None:
    """Behind half of its way it is no matter: the first layer was first, and the claim fails."""
    rows = three([1e-4, 0.5, 1e-4], [0.5, 1, 4])
    rows.loc[(rows["depth"] == 1) & (rows["step"] == gap), "normalized_within"] = NAN
    assert verdict(FIG6, FIRST, rows) == outcome


def test_a_first_layer_that_still_falls_has_not_saturated() -> None:
    rows = three([0.5, 1e-2, 1e-4], [3, 2, 1])
    falls = seeds(lambda seed: curve(seed=seed, depth=1, is_last=False, train=0.2, rests=False))
    rows.loc[rows["depth"] == 1, "train_variance"] = falls["train_variance"].to_numpy()
    assert verdict(FIG6, SATURATES, rows) == "fails"
    assert "still falling" in judgement(FIG6, SATURATES, rows).notes[0]


def test_what_was_measured_too_seldom_does_not_stand_still() -> None:
    rows = three([0.5, 1e-2, 1e-4], [3, 2, 1])
    seldom = pd.DataFrame(rows[rows["step"] == STEPS[-1]])
    assert verdict(FIG6, MOST, seldom) == "holds"
    assert verdict(FIG6, SATURATES, seldom) == "inconclusive"
    assert verdict(FIG6, FIRST, seldom) == "inconclusive"
