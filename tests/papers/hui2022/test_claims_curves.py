"""Claims about curves and sizes (Fig. 2 to 4) hold on rows that show them, fail on others, and are open where rows cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from claim_rows import FACTORS, NAN, STEPS, curve, judgement, seeds, table, verdict

from collapselab.papers.hui2022 import fig2, fig3, fig4
from collapselab.registry import experiments

FIG2, FIG3, FIG4 = fig2.EXPERIMENT, fig3.EXPERIMENT, fig4.EXPERIMENT
TRAIN, STRONG, WEAK = "train-variance-vanishes", "strong-test-variance-stays", "weak-test-variance-stays"
STRONG_LEFT, NOT_SMALL = "strong-test-variance-above-bound", "train-variance-above-bound"
GAP = "strong-test-variance-above-train-variance"
WEAK_LOWER, ALIKE = (
    "strong-test-variance-above-weak-test-variance",
    "weak-test-variance-like-strong-test-variance",
)


@pytest.mark.parametrize(
    ("id", "changes", "outcome"),
    [
        (TRAIN, {}, "holds"),
        (TRAIN, {"train": 0.0}, "holds"),
        (TRAIN, {"train": 0.02, "rests": False}, "holds"),
        (TRAIN, {"train": 0.5}, "fails"),
        (TRAIN, {"train": 0.5, "rests": False}, "fails"),
        (TRAIN, {"train": 0.1}, "inconclusive"),
        (TRAIN, {"train": NAN}, "inconclusive"),
        (TRAIN, {"accuracy": NAN}, "inconclusive"),
        (TRAIN, {"accuracy": 0.99}, "inconclusive"),
        (STRONG, {}, "holds"),
        (STRONG, {"strong": 5e-3}, "fails"),
        (STRONG, {"strong": 0.0}, "fails"),
        (STRONG, {"strong": 0.02, "rests": False}, "fails"),
        (STRONG, {"strong": NAN}, "inconclusive"),
        (WEAK, {}, "holds"),
        (WEAK, {"weak": 5e-3}, "fails"),
        (WEAK, {"weak": NAN}, "inconclusive"),
        (GAP, {}, "holds"),
        (GAP, {"strong": 0.5, "train": 0.2}, "fails"),
        (GAP, {"strong": 0.5, "train": 0.5 / 10**0.5}, "inconclusive"),
        (WEAK_LOWER, {}, "holds"),
        (WEAK_LOWER, {"weak": 0.7}, "fails"),
        (WEAK_LOWER, {"weak": NAN}, "inconclusive"),
        (ALIKE, {}, "holds"),
        (ALIKE, {"weak": 0.04}, "fails"),
        (ALIKE, {"weak": 0.5 / 3}, "inconclusive"),
        (ALIKE, {"weak": NAN}, "inconclusive"),
    ],
)
def test_figure_3(id: str, changes: dict[str, Any], outcome: str) -> None:
    assert verdict(FIG3, id, seeds(lambda seed: curve(seed=seed, **changes))) == outcome
    assert verdict(FIG3, id, seeds(lambda seed: curve(seed=seed, **changes), 2)) == "inconclusive"


def test_one_of_three_seeds_that_disagrees_leaves_a_claim_open() -> None:
    rows = table(curve(), curve(seed=1), curve(seed=2, strong=5e-3))
    judged = judgement(FIG3, STRONG, rows)
    assert (judged.verdict, judged.agreement) == ("inconclusive", "2 of 3")


def test_the_statement_of_every_claim_stands_alone() -> None:
    """No sentence needs the one before it."""
    for experiment in experiments().values():
        assert len({claim.id for claim in experiment.claims}) == len(experiment.claims)
        for claim in experiment.claims:
            assert claim.statement.endswith(".")
            assert len(claim.statement.split()) > 4
            assert claim.statement.split()[0] not in ("Nor", "It", "They", "Also", "This")


def test_test_variance_that_still_falls_does_not_stay() -> None:
    rows = seeds(lambda seed: curve(seed=seed, strong=0.3, rests=False))
    judged = judgement(FIG3, STRONG, rows)
    assert judged.verdict == "fails"
    assert judged.notes[0] == "strong test variance is not negligible, but still falling (3 of 3 seeds)"


def test_only_the_plain_variance_says_whether_a_curve_falls() -> None:
    """Here those with references of the last step do otherwise, and no claim looks at them."""
    rows = seeds(lambda seed: curve(seed=seed))
    other = rows.assign(
        strong_test_variance_final=1e3 / (1 + rows["step"]), train_variance_final=1e3 + rows["step"]
    )
    for id in (TRAIN, STRONG, WEAK, GAP, WEAK_LOWER, ALIKE):
        assert verdict(FIG3, id, other) == verdict(FIG3, id, rows) == "holds"


def test_rows_that_know_plain_variances_at_the_end_only() -> None:
    """As results that were stored before; what needs no trend is judged, and what fails at its end fails."""
    rows = seeds(lambda seed: curve(seed=seed, train=0.5, strong=5.0, weak=3.0))
    at_end = rows["step"] == STEPS[-1]
    for name in ("train_variance", "strong_test_variance", "weak_test_variance"):
        rows[name] = rows[name].where(at_end)
    outcomes = [verdict(FIG3, id, rows) for id in (TRAIN, STRONG, WEAK, GAP, WEAK_LOWER, ALIKE)]
    assert outcomes == ["fails", "inconclusive", "inconclusive", "holds", "holds", "holds"]


def test_figure_2_speaks_of_every_setting() -> None:
    """A setting that fails fails the claims about all; train variance that stays in one is enough for the aside."""

    def rows(**vgg: Any) -> pd.DataFrame:
        return seeds(lambda seed: [*curve("a", seed=seed), *curve("b", seed=seed, model="vgg11_bn", **vgg)])

    stays = rows(train=0.15, strong=0.3)
    assert verdict(FIG2, STRONG_LEFT, stays) == "holds"
    # The gap is asked only where train variance vanished.
    gap = judgement(FIG2, GAP, stays)
    assert (gap.verdict, gap.agreement) == ("holds", "1 of 1 setting")
    assert [one.is_asked for one in gap.settings] == [True, False]
    nowhere = judgement(FIG2, GAP, seeds(lambda seed: curve(seed=seed, train=0.15)))
    assert (nowhere.verdict, nowhere.is_asked) == ("inconclusive", False)
    assert {*nowhere.void.values()} == {"train variance 0.142 did not vanish", "train variance 0.15 did not vanish",
                                        "train variance 0.158 did not vanish"}  # fmt: skip
    assert verdict(FIG2, NOT_SMALL, stays) == "holds"
    assert verdict(FIG2, NOT_SMALL, rows()) == "fails"
    assert verdict(FIG2, STRONG_LEFT, rows(strong=5e-3)) == "fails"
    assert verdict(FIG2, GAP, rows(strong=0.15, train=0.08)) == "fails"
    judged = judgement(FIG2, STRONG_LEFT, rows(accuracy=0.9))
    assert judged.verdict == "inconclusive"
    assert judged.agreement == "1 of 2 settings"
    assert judged.settings[1].void == dict.fromkeys(range(3), "train accuracy 0.9 < 0.999")
    # The learning rate has fallen to 0: what counts is the end.
    assert verdict(FIG2, STRONG_LEFT, rows(strong=0.3, rests=False)) == "holds"


def test_that_no_setting_stays_takes_all_settings() -> None:
    """That one stays takes one."""
    id = NOT_SMALL
    unknowns: list[dict[str, Any]] = [{"train": 0.5, "accuracy": 0.9}, {"train": NAN}]
    for unknown in unknowns:
        rows = seeds(lambda seed, own=unknown: [*curve("a", seed=seed), *curve("b", seed=seed, **own)])
        assert verdict(FIG2, id, rows) == "inconclusive"
        more = pd.concat([rows, seeds(lambda seed: curve("c", seed=seed, train=0.5))])
        assert verdict(FIG2, id, more) == "holds"


def test_a_setting_that_lacks_a_seed() -> None:
    rows = pd.concat([seeds(lambda seed: curve("a", seed=seed)), table(curve("b"), curve("b", seed=1))])
    judged = judgement(FIG2, STRONG_LEFT, rows)
    assert judged.verdict == "inconclusive"
    assert judged.settings[1].void == {2: "the run is missing"}


# ---------------------------------------------------------------- sizes

SIZES = (500, 1000, 2000, 4000, 8000)
MORE_TEST, LESS_TRAIN = "strong-test-variance-with-num-train", "train-variance-with-num-train"


def sizes(train: Sequence[float], strong: Sequence[float], seed: int = 0) -> list[dict[str, Any]]:
    # Seeds have one size each at which they are off by a little.
    return [
        row
        for size, a, b in zip(SIZES, train, strong, strict=False)
        for row in curve(
            f"n-{size}", train=a / FACTORS[seed], strong=b, seed=seed, num_train=size, ended="loss"
        )
    ]


UP, DOWN = [1e-4, 2e-4, 5e-4, 9e-4, 2e-3], [0.9, 0.8, 0.6, 0.5, 0.4]


def test_figure_4_is_a_rank_correlation_over_sizes() -> None:
    rows = seeds(lambda seed: sizes(UP, DOWN, seed))
    assert verdict(FIG4, MORE_TEST, rows) == "holds"
    assert verdict(FIG4, LESS_TRAIN, rows) == "holds"
    other = seeds(lambda seed: sizes(UP[::-1], DOWN[::-1], seed))
    assert verdict(FIG4, MORE_TEST, other) == "fails"
    assert verdict(FIG4, LESS_TRAIN, other) == "fails"
    mixed = table(sizes(UP, DOWN), sizes(UP, DOWN, 1), sizes(UP[::-1], DOWN[::-1], 2))
    assert verdict(FIG4, MORE_TEST, mixed) == "inconclusive"
    few = seeds(lambda seed: sizes(UP[:3], DOWN[:3], seed))
    assert verdict(FIG4, MORE_TEST, few) == "inconclusive"


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (["loss"] * 5, "holds"),
        (["steps"] * 5, "holds"),
        (["steps", "loss", "loss", "loss", "loss"], "inconclusive"),
    ],
)
def test_figure_4_compares_networks_that_ended_alike(ended: list[str], outcome: str) -> None:
    rows = seeds(lambda seed: sizes(UP, DOWN, seed))
    rows["ended"] = rows["num_train"].map(dict(zip(SIZES, ended, strict=True)))
    judged = judgement(FIG4, MORE_TEST, rows)
    assert judged.verdict == outcome
    if outcome == "inconclusive":
        assert judged.void[0] == "runs ended for different reasons: 4 by loss, 1 by steps"


def test_figure_4_needs_every_size_of_a_seed_at_zero_error() -> None:
    shorter = table(sizes(UP, DOWN), sizes(UP, DOWN, 1), sizes(UP[:4], DOWN[:4], 2))
    assert judgement(FIG4, LESS_TRAIN, shorter).void == {2: "missing runs: n-8000"}
    errs = seeds(lambda seed: sizes(UP, DOWN, seed))
    errs.loc[(errs["num_train"] == 4000) & (errs["seed"] == 1), "train_accuracy"] = 0.8
    judged = judgement(FIG4, LESS_TRAIN, errs)
    assert (judged.verdict, judged.void) == ("inconclusive", {1: "n-4000: train accuracy 0.8 < 0.999"})
    unmeasured = seeds(lambda seed: sizes([1e-4, NAN, *UP[2:]], DOWN, seed))
    assert len(judgement(FIG4, LESS_TRAIN, unmeasured).void) == 3


def test_criteria_that_changed_say_so() -> None:
    rows = seeds(lambda seed: sizes(UP, DOWN, seed))
    assert (
        "The criterion changed after first results had been seen"
        in judgement(FIG4, LESS_TRAIN, rows).notes[-1]
    )
    assert judgement(FIG2, STRONG_LEFT, seeds(lambda seed: curve(seed=seed))).notes == []
