"""Each judge says holds, fails and inconclusive where it should."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from judged_rows import STEPS, judge, run

from collapselab.experiments.claims import Claim
from collapselab.experiments.claims.judges import (
    agrees,
    at_end,
    correlates,
    falls,
    first,
    gap,
    identity,
    lower_with,
    ordered,
    rises,
    stays,
    vanishes,
)

NAN = math.nan
SEEDS = (0.9, 1.0, 1.1)  # factors between seeds


def table(seeds: int = 3, **columns: Any) -> pd.DataFrame:
    """Rows of one job; seeds differ by a tenth in the value at the end."""
    rows = []
    for seed, factor in enumerate(SEEDS[:seeds]):
        own: dict[str, Any] = {
            name: (value[0] * factor, value[1]) if isinstance(value, tuple) else value * factor
            for name, value in columns.items()
        }
        rows += run(seed=seed, **own)
    return pd.DataFrame(rows)


def verdicts(claim: Claim, *tables: pd.DataFrame) -> list[str]:
    return [judge(claim, rows).verdict for rows in tables]


# ---------------------------------------------------------------- one variance


@pytest.mark.parametrize(
    ("end", "late", "verdict"),
    [
        (1e-3, -20.0, "holds"),
        (0.05, 0.0, "holds"),
        (0.05, 9.0, "holds"),  # rises by less than a tenth
        (0.0, 0.0, "holds"),
        (0.13, -50.0, "fails"),
        (1e-3, 20.0, "fails"),
        (0.1, -20.0, "inconclusive"),
        (1e-3, 10.0, "inconclusive"),
        (NAN, 0.0, "inconclusive"),
    ],
)
def test_vanishes(end: float, late: float, verdict: str) -> None:
    claim = vanishes("train_variance", "Train variance converges to 0.")
    assert claim.id == "train-variance-vanishes"
    judged = judge(claim, table(train_variance=(end, late)))
    assert judged.verdict == verdict
    assert judge(claim, table(2, train_variance=(end, late))).verdict == "inconclusive"
    assert [one.threshold for one in judged.sensitivity] == ([0.03, 0.01] if not math.isnan(end) else [])


def test_vanishes_at_other_thresholds_and_still_falling() -> None:
    judged = judge(vanishes("x", "It vanishes."), table(x=(0.02, -50.0)))
    assert [(one.threshold, one.verdict) for one in judged.sensitivity] == [(0.03, "holds"), (0.01, "fails")]
    assert judged.notes == []
    still = judge(vanishes("x", "It vanishes."), table(x=(0.5, -50.0)))
    assert still.notes == ["x is still falling: longer runs may end lower (3 of 3 seeds)"]


def test_a_curve_without_a_trend_has_not_vanished_but_may_have_failed_to() -> None:
    claim = vanishes("x", "It vanishes.")
    for end, verdict in ((0.01, "inconclusive"), (0.5, "fails")):
        rows = table(x=(end, 0.0))
        rows.loc[rows["step"] != STEPS[-1], "x"] = NAN
        judged = judge(claim, rows)
        assert judged.verdict == verdict
        late = "change of x over the second half of the steps is undefined"
        why = "because the column x has values at 1 of 8 measured steps"
        assert judged.notes == [f"{late}, {why} (3 of 3 seeds)"]


@pytest.mark.parametrize(
    ("end", "late", "verdict"),
    [
        (0.5, 0.0, "holds"),
        (0.5, 80.0, "holds"),
        (0.5, -8.0, "holds"),
        (0.05, 0.0, "fails"),
        (0.0, 0.0, "fails"),
        (0.5, -30.0, "fails"),
        (0.1, 0.0, "inconclusive"),
        (0.5, -10.0, "inconclusive"),
        (NAN, 0.0, "inconclusive"),
    ],
)
def test_stays(end: float, late: float, verdict: str) -> None:
    claim = stays("x", "It does not converge to 0.", beside="y")
    judged = judge(claim, table(x=(end, late), y=0.25))
    assert judged.verdict == verdict
    assert judged.readings[-1].must == ""
    assert judged.readings[-1].by_seed[1] == 0.25
    if (end, late) == (0.5, -30.0):
        assert judged.notes == ["x is not negligible, but still falling (3 of 3 seeds)"]


def test_vanishes_and_stays_never_both_hold() -> None:
    for end in (0.01, 0.09, 0.11, 1.0):
        for late in (-40.0, -5.0, 5.0, 40.0):
            rows = table(x=(end, late))
            assert (
                verdicts(vanishes("x", "It does."), rows) + verdicts(stays("x", "It does not."), rows)
                != ["holds"] * 2
            )


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.5, "holds"), (0.05, "fails"), (0.1, "inconclusive"), (NAN, "inconclusive")]
)
def test_at_end(value: float, verdict: str) -> None:
    opposite = {"holds": "fails", "fails": "holds"}.get(verdict, verdict)
    assert verdicts(at_end("x", "It is large.", above=(0.1,)), table(x=value)) == [verdict]
    assert verdicts(at_end("x", "It is small.", below=(0.1,)), table(x=value)) == [opposite]


# ---------------------------------------------------------------- two numbers


@pytest.mark.parametrize(
    ("over", "verdict"),
    [(0.5, "holds"), (0.32, "inconclusive"), (0.2, "fails"), (NAN, "inconclusive"), (0.0, "fails")],
)
def test_gap(over: float, verdict: str) -> None:
    rows = pd.DataFrame([row for s, f in enumerate(SEEDS) for row in run(seed=s, test=over * f, train=0.1)])
    claim = gap("test", "train", "There is a gap.")
    judged = judge(claim, rows)
    assert judged.verdict == verdict
    if verdict == "holds":
        assert judged.effect is not None
        assert judged.effect.threshold == 0.5
        assert judged.effect.by_seed[1] == pytest.approx(math.log10(5))
        assert [one.verdict for one in judged.sensitivity] == ["holds", "fails"]  # factors of 2 and 10
        assert judged.readings[-1].must == "be above 3.16 (half a decade)"


def test_a_gap_of_any_size() -> None:
    rows = table(a=1.0).assign(b=0.5)
    assert verdicts(gap("a", "b", "It is above.", decades=(0.0,)), rows) == ["holds"]
    assert verdicts(gap("b", "a", "It is above.", decades=(0.0,)), rows) == ["fails"]
    assert verdicts(gap("a", "b", "It is above.", decades=(0.0,)), rows.assign(b=rows["a"])) == [
        "inconclusive"
    ]


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        (1.0, "holds"),
        (2.0, "holds"),
        (0.5, "holds"),
        (5.0, "fails"),
        (0.1, "fails"),
        (3.0, "inconclusive"),
        (NAN, "inconclusive"),
    ],
)
def test_agrees(other: float, verdict: str) -> None:
    rows = table(a=1.0).assign(b=other)
    claim = agrees("a", "b", "They are alike.")
    judged = judge(claim, rows)
    assert judged.verdict == verdict
    if other == 2.0:
        assert [one.threshold for one in judged.sensitivity] == [2.0, 10.0]
        assert [one.verdict for one in judged.sensitivity] == ["inconclusive", "holds"]


# ---------------------------------------------------------------- over training


@pytest.mark.parametrize(
    ("late", "falling", "rising"),
    [(-20.0, "holds", "fails"), (20.0, "fails", "holds"), (0.0, "inconclusive", "inconclusive")],
)
def test_falls_and_rises(late: float, falling: str, rising: str) -> None:
    rows = table(x=(1.0, late))
    assert verdicts(falls("x", "It falls."), rows) == [falling]
    assert verdicts(rises("x", "It rises."), rows) == [rising]
    rows.loc[rows["step"] == 0, "x"] = NAN
    assert verdicts(falls("x", "It falls."), rows) == ["inconclusive"]


# ---------------------------------------------------------------- layers


def layers(ends: Sequence[float], seeds: int = 3, **columns: Sequence[float]) -> pd.DataFrame:
    """Layers of increasing depth, the last of which is read by the classifier, with these values of x at the end."""
    rows = []
    for seed, factor in enumerate(SEEDS[:seeds]):
        for depth, end in enumerate(ends):
            place = {"layer": f"layers.{depth}", "depth": depth, "is_last": depth == len(ends) - 1}
            own = {name: values[depth] for name, values in columns.items()}
            rows += [row | place | own for row in run(seed=seed, x=end * factor**depth)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ([1.0, 0.5, 0.1], "holds"),
        ([1.0, 0.1, 0.5], "fails"),
        ([0.1, 0.5, 1.0], "fails"),
        ([1.0, 0.5, 0.5], "inconclusive"),
        ([1.0, NAN, 0.1], "inconclusive"),
        ([1.0], "inconclusive"),
    ],
)
def test_ordered(ends: list[float], verdict: str) -> None:
    judged = judge(ordered("x", "It falls from layer to layer."), layers(ends))
    assert judged.verdict == verdict
    if verdict == "holds":
        assert [one.what for one in judged.readings][:2] == [
            "x at the end, layers.0",
            "x at the end, layers.1",
        ]
    if len(ends) == 1:
        assert set(judged.void.values()) == {"fewer than two layers"}


def ways(half: Sequence[int], seeds: int = 3) -> pd.DataFrame:
    """Layers whose within-class share of the variance has come half way, in logarithms, at these steps."""
    rows = []
    for seed in range(seeds):
        for depth, step_half in enumerate(half):
            for step in STEPS:
                way = 0.0 if step < step_half / 3 else 1.0 if step > step_half * 3 else 0.5
                way = min(1.0, way + 0.02 * seed) if way else 0.0
                rows.append(
                    {"job": "net", "seed": seed, "step": step, "layer": f"layers.{depth}", "depth": depth,
                     "is_last": depth == len(half) - 1, "normalized_within": 0.9 * 0.01**way, "train_accuracy": 1.0}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_first() -> None:
    """Depth 0 is what the network reads, and no hidden layer."""
    claim = first("The last layer collapses first.")
    assert verdicts(claim, ways([1, 300, 100, 10])) == ["holds"]
    assert verdicts(claim, ways([1, 10, 100, 100])) == ["fails"]
    assert verdicts(claim, ways([1, 300, 100, 10], seeds=2)) == ["inconclusive"]
    assert verdicts(claim, ways([1, 100])) == ["inconclusive"]
    unknown = ways([1, 300, 100, 10])
    unknown.loc[(unknown["depth"] == 2) & (unknown["step"] == 3), "normalized_within"] = NAN
    assert verdicts(claim, unknown) == ["inconclusive"]
    why = f"has values at {len(STEPS) - 1} of {len(STEPS)} measured steps"
    assert why in judge(claim, unknown).void[0]
    without = unknown.drop(columns="normalized_within")
    assert verdicts(claim, without) == ["inconclusive"]
    assert f"has values at 0 of {len(STEPS)} measured steps" in judge(claim, without).void[0]
    judged = judge(claim, ways([1, 300, 100, 10]))
    assert [one.threshold for one in judged.sensitivity] == [0.25, 0.75, 0.9]
    steps = [one.by_seed[0] for one in judged.readings]
    assert steps[1] == pytest.approx(steps[0] * steps[2])


def test_how_far_a_layer_goes_does_not_matter_to_when_it_goes() -> None:
    rows = ways([1, 300, 100, 10])
    weak = rows.copy()
    weak.loc[weak["depth"] == 3, "normalized_within"] **= 0.01
    a, b = (judge(first("The last layer collapses first."), one) for one in (rows, weak))
    assert a.effect is not None
    assert b.effect is not None
    assert a.effect.by_seed == pytest.approx(b.effect.by_seed)


# ---------------------------------------------------------------- several runs of a seed


def sizes(
    *seeds: Sequence[float], ended: Sequence[str] = ("steps",) * 5, accuracy: float = 1.0
) -> pd.DataFrame:
    rows = []
    for seed, values in enumerate(seeds):
        for place, value in enumerate(values):
            last = accuracy if place == 0 else 1.0
            rows += run(
                f"n{place}", seed, x=float(value), size=10.0**place, ended=ended[place], accuracy=last
            )
    return pd.DataFrame(rows)


UP, MOSTLY, DOWN = [1, 2, 3, 4, 5], [1, 2, 3, 5, 4], [5, 4, 3, 2, 1]


def test_correlates() -> None:
    rising, falling = (correlates("size", "x", "It does.", sign=sign) for sign in (1, -1))
    assert verdicts(rising, sizes(UP, UP, MOSTLY), sizes(DOWN, DOWN, DOWN), sizes(UP, MOSTLY, DOWN)) == [
        "holds", "fails", "inconclusive",
    ]  # fmt: skip
    assert verdicts(falling, sizes(UP, UP, MOSTLY), sizes(DOWN, DOWN, DOWN)) == ["fails", "holds"]
    assert verdicts(rising, sizes(UP, UP)) == ["inconclusive"]


def test_a_perfect_order_is_finite() -> None:
    judged = judge(correlates("size", "x", "It rises."), sizes(UP, UP, MOSTLY))
    assert judged.effect is not None
    assert judged.effect.by_seed[0] == pytest.approx(math.atanh(0.8))
    assert judged.effect.by_seed[2] == pytest.approx(math.atanh(0.8))  # 0.9, clipped too
    assert judged.readings[0].by_seed == pytest.approx({0: 1.0, 1: 1.0, 2: 0.9})
    assert judged.effect.unit == "Fisher z"
    assert [one.verdict for one in judged.sensitivity] == ["holds", "holds"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (sizes([1, 2, 3]), "3 points; a rank correlation needs at least 4"),
        (sizes([2, 2, 2, 2]), "x is the same at all 4 points"),
        (sizes([1, 2, NAN, 4]), "rank correlation of x with size (4 points) is undefined"),
        (
            sizes(UP, ended=["loss", "loss", "steps", "steps", "steps"]),
            "runs ended for different reasons: 2 by loss, 3 by steps",
        ),
        (sizes(UP, accuracy=0.9), "n0: train accuracy 0.9 < 0.999"),
        (sizes(UP, ended=["diverged", *["steps"] * 4]), "n0: diverged"),
    ],
)
def test_points_that_cannot_be_compared(rows: pd.DataFrame, reason: str) -> None:
    assert judge(correlates("size", "x", "It rises."), rows).void == {0: reason}


def test_a_seed_that_lacks_a_point_is_void() -> None:
    assert judge(correlates("size", "x", "It rises."), sizes(UP, UP[:4])).void == {1: "missing runs: n4"}


def test_tables_that_were_put_together() -> None:
    rows = pd.concat([part.reset_index(drop=True) for _, part in sizes(UP, UP, UP).groupby("job")])
    assert rows.index.has_duplicates
    judged = judge(correlates("size", "x", "It rises."), rows)
    assert (judged.verdict, judged.readings[0].what) == (
        "holds",
        "rank correlation of x with size (5 points)",
    )


def pairs(without: float, with_it: float, seeds: int = 3) -> pd.DataFrame:
    rows = []
    for seed, factor in enumerate(SEEDS[:seeds]):
        rows += run("without", seed, x=without * factor, dropout=0.0)
        rows += run("with", seed, x=with_it, dropout=0.5)
    return pd.DataFrame(rows)


def test_lower_with() -> None:
    claim = lower_with("dropout", "x", "Dropout lowers it.")
    assert verdicts(claim, pairs(1.0, 0.3), pairs(0.3, 1.0), pairs(1.0, 1.0), pairs(1.0, NAN)) == [
        "holds", "fails", "inconclusive", "inconclusive",
    ]  # fmt: skip
    only_one = pd.DataFrame(run("with", 0, x=1.0, dropout=0.5))
    assert judge(claim, only_one).void == {0: "only one value of dropout"}


def test_runs_are_compared_after_the_same_number_of_steps() -> None:
    rows = pairs(1.0, 0.3)
    rows.loc[(rows["job"] == "without") & (rows["step"] == 1000), "x"] = 1e-6
    shorter = pd.DataFrame(rows[(rows["job"] == "without") | (rows["step"] <= 100)])
    claim = lower_with("dropout", "x", "Dropout lowers it.")
    assert verdicts(claim, rows, shorter) == ["fails", "holds"]
    assert judge(claim, shorter).readings[0].what == "x with dropout 0 at step 100"


def test_identity() -> None:
    claim = identity("same", "It is the same.", {"x": (1.0, 0.01)}, {"y": 0.5}, where="Sec. 2")
    judged = judge(claim, pd.DataFrame(run(x=1.005, y=0.4)))
    assert (judged.verdict, judged.kind, judged.where) == ("holds", "identity", "Sec. 2")
    assert [one.must for one in judged.readings] == ["be within 0.01 of 1", "be below 0.5"]
    assert verdicts(claim, pd.DataFrame(run(x=1.02, y=0.4)), pd.DataFrame(run(x=1.0, y=0.6))) == [
        "fails",
        "fails",
    ]
    assert verdicts(claim, pd.DataFrame(run(x=1.0))) == ["inconclusive"]
