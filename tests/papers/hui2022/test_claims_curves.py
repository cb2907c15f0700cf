"""Claims about curves and sizes (Fig. 2 to 4) hold on rows that show them, fail on others, and are open where rows cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from claim_rows import NAN, curve, table, verdict

from collapselab.experiments.claims.claim import judge_all
from collapselab.papers.hui2022 import claims


@pytest.mark.parametrize(
    ("id", "changes", "outcome"),
    [
        ("train-collapses", {}, "holds"),
        ("train-collapses", {"train": 0.5, "fall": 0.01}, "fails"),
        ("train-collapses", {"train": 0.02, "rests": False}, "inconclusive"),  # not there, but falling
        ("train-collapses", {"train": 0.0}, "holds"),
        ("train-collapses", {"train": NAN}, "inconclusive"),
        ("train-collapses", {"accuracy": NAN}, "inconclusive"),
        ("train-collapses", {"accuracy": 0.99}, "inconclusive"),
        ("no-strong-test-collapse", {}, "holds"),
        ("no-strong-test-collapse", {"strong": 5e-3}, "fails"),
        ("no-strong-test-collapse", {"strong": 0.05, "train": 9e-3}, "fails"),
        (
            "no-strong-test-collapse",
            {"strong": 0.5, "train": 0.1},
            "inconclusive",
        ),  # no train collapse to tell apart
        ("no-strong-test-collapse", {"strong": 0.5, "train": 0.02}, "holds"),
        ("no-weak-test-collapse", {"weak": 0.3, "train": 0.1}, "inconclusive"),
        ("no-strong-test-collapse", {"strong": 0.0}, "fails"),
        ("no-strong-test-collapse", {"strong": 0.02, "rests": False}, "inconclusive"),  # there, but falling
        ("no-weak-test-collapse", {}, "holds"),
        ("no-weak-test-collapse", {"weak": 5e-3}, "fails"),
        ("no-weak-test-collapse", {"weak": NAN}, "inconclusive"),
        ("weak-below-strong", {}, "holds"),
        ("weak-below-strong", {"weak": 0.7}, "fails"),
        ("weak-like-strong", {}, "holds"),
        ("weak-like-strong", {"weak": 0.04}, "fails"),
        ("weak-like-strong", {"weak": NAN}, "inconclusive"),
    ],
)
def test_figure_3(id: str, changes: dict[str, Any], outcome: str) -> None:
    assert verdict(claims.FIG3, id, table(curve(**changes), curve(seed=1, **changes))) == outcome


def test_one_seed_that_disagrees_leaves_a_claim_open() -> None:
    rows = table(curve(), curve(seed=1, strong=5e-3))
    assert verdict(claims.FIG3, "no-strong-test-collapse", rows) == "inconclusive"


def test_a_job_that_lacks_a_seed_leaves_a_claim_open() -> None:
    rows = table(curve("a"), curve("a", seed=1), curve("b"))
    judged = {one["id"]: one for one in judge_all(claims.FIG2, rows)}["gap-everywhere"]
    assert judged["verdict"] == "inconclusive"
    assert judged["evidence"]["b"]["seeds without an effect"] == [1]
    assert "missing" in judged["evidence"]["b"]["reason"]


def test_a_gap_that_may_still_grow_leaves_a_claim_open() -> None:
    """Test variance rests at five times a train variance that falls to the end; here the gap is what is claimed."""
    rows = table(curve(strong=0.5, train=0.1))
    falling = table(curve(train=0.1, rests=False))["train_variance"]
    assert verdict(claims.FIG2, "gap-everywhere", rows) == "fails"
    assert verdict(claims.FIG2, "gap-everywhere", rows.assign(train_variance=falling)) == "inconclusive"
    vanished = table(curve(strong=5e-3, train=1e-3)).assign(
        train_variance=table(curve(train=1e-3, rests=False))["train_variance"]
    )
    assert verdict(claims.FIG3, "no-strong-test-collapse", vanished) == "fails"


@pytest.mark.parametrize("train", [0.5, 0.02])
def test_two_claims_never_disagree_about_a_curve_that_still_falls(train: float) -> None:
    rows = table(curve("vgg", model="vgg11_bn", dropout=0.5, train=train, rests=False))
    for of, id in (
        (claims.FIG3, "train-collapses"),
        (claims.FIG2, "train-not-always-zero"),
        (claims.FOOTNOTE2, "vgg-does-not-vanish"),
    ):
        assert verdict(of, id, rows) == "inconclusive"


def test_that_no_setting_stays_takes_all_settings() -> None:
    """That one stays takes one."""
    id, gone, stays = "train-not-always-zero", curve("a"), curve("c", train=0.05)
    for unknown in (curve("b", train=0.05, accuracy=0.9), curve("b", train=NAN)):
        assert verdict(claims.FIG2, id, table(gone, unknown)) == "inconclusive"
        assert verdict(claims.FIG2, id, table(gone, unknown, stays)) == "holds"
    other_seed = curve("c", train=0.05, seed=1, accuracy=0.9)
    assert verdict(claims.FIG2, id, table(stays, other_seed)) == "inconclusive"


def test_figure_2_speaks_of_every_setting() -> None:
    good, vgg = curve("a"), curve("b", model="vgg11_bn", train=0.03)
    assert verdict(claims.FIG2, "gap-everywhere", table(good, vgg)) == "holds"
    assert verdict(claims.FIG2, "train-not-always-zero", table(good, vgg)) == "holds"
    assert verdict(claims.FIG2, "train-not-always-zero", table(good)) == "fails"
    assert verdict(claims.FIG2, "gap-everywhere", table(good, curve("b", strong=5e-3))) == "fails"
    unfitted = curve("b", train=0.5, accuracy=0.9)
    assert verdict(claims.FIG2, "train-not-always-zero", table(unfitted)) == "inconclusive"


def sizes(train: Sequence[float], strong: Sequence[float], seed: int = 0) -> list[dict[str, Any]]:
    return [
        row
        for size, a, b in zip((500, 1000, 2000, 4000), train, strong, strict=False)
        for row in curve(f"n-{size}", train=a, strong=b, seed=seed, num_train=size)
    ]


def test_figure_4_is_a_rank_correlation_over_sizes() -> None:
    rows = table(
        sizes([1e-4, 2e-4, 5e-4, 9e-4], [0.9, 0.8, 0.6, 0.5]),
        sizes([1e-4, 3e-4, 4e-4, 9e-4], [0.9, 0.7, 0.6, 0.4], seed=1),
    )
    assert verdict(claims.FIG4, "more-data-more-test-collapse", rows) == "holds"
    assert verdict(claims.FIG4, "more-data-less-train-collapse", rows) == "holds"
    other = table(sizes([9e-4, 5e-4, 2e-4, 1e-4], [0.5, 0.6, 0.8, 0.9]))
    assert verdict(claims.FIG4, "more-data-more-test-collapse", other) == "fails"
    assert verdict(claims.FIG4, "more-data-less-train-collapse", other) == "fails"
    few = table(sizes([1e-4, 2e-4], [0.9, 0.8]))
    assert verdict(claims.FIG4, "more-data-more-test-collapse", few) == "inconclusive"


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [(["loss"] * 4, "holds"), (["steps"] * 4, "holds"), (["steps", "loss", "loss", "loss"], "inconclusive")],
)
def test_figure_4_compares_networks_that_ended_alike(ended: list[str], outcome: str) -> None:
    rows = table(sizes([1e-5, 1e-4, 1e-3, 1e-2], [0.9, 0.8, 0.7, 0.6]))
    rows["ended"] = rows["num_train"].map(dict(zip((500, 1000, 2000, 4000), ended, strict=True)))
    judged = judge_all(claims.FIG4, rows)
    assert {one["verdict"] for one in judged} == {outcome}
    assert sum(judged[0]["evidence"]["cifar10, resnet18"]["ended by"].values()) == 4


def test_figure_4_needs_every_size_of_every_seed_at_zero_error() -> None:
    id = "more-data-less-train-collapse"
    train, strong = [1e-4, 2e-4, 5e-4, 9e-4], [0.9, 0.8, 0.6, 0.5]
    assert verdict(claims.FIG4, id, table(sizes(train, strong))) == "holds"
    shorter = sizes(train[:3], strong[:3], seed=1)
    assert verdict(claims.FIG4, id, table(sizes(train, strong), shorter)) == "inconclusive"
    unmeasured = sizes([1e-4, NAN, 5e-4, 9e-4], strong)
    assert verdict(claims.FIG4, id, table(unmeasured)) == "inconclusive"
    errs = table(sizes(train, strong))
    errs.loc[errs["num_train"] == 4000, "train_accuracy"] = 0.8
    assert verdict(claims.FIG4, id, errs) == "inconclusive"


def test_claims_have_names_of_their_own() -> None:
    for of in (
        claims.FIG2,
        claims.FIG3,
        claims.FIG4,
        claims.FIG5,
        claims.FIG6,
        claims.SEC2,
        claims.FOOTNOTE2,
    ):
        assert len({claim.id for claim in of}) == len(of)
        assert all(claim.statement.endswith(".") for claim in of)
