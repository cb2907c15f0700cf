"""The paper's claims hold on rows that show them, fail on rows that do not, and are open where rows cannot tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from collapselab.claims import Claim, judge_all
from collapselab.papers.hui2022 import claims

STEPS = (0, *(int(step) for step in np.unique(np.geomspace(1, 10_000, 17).round())))
NAN = float("nan")


def verdict(of: Sequence[Claim], id: str, rows: pd.DataFrame) -> str:
    judged = judge_all(of, rows)
    json.dumps(judged, allow_nan=False)  # as it is stored
    return {one["id"]: one["verdict"] for one in judged}[id]


def curve(
    job: str = "cifar10-resnet18",
    *,
    seed: int = 0,
    train: float = 1e-4,
    strong: float = 0.5,
    weak: float = 0.3,
    accuracy: float = 1.0,
    depth: int = 2,
    is_last: bool = True,
    fall: float = 2.0,
    rests: bool = True,
    **labels: Any,
) -> list[dict[str, Any]]:
    """Rows of one layer; variances fall from 1, late (large `fall`) or early, and rest in the second half of log steps.

    Args:
        rests: else they fall to the end.
    """
    shares = (np.arange(len(STEPS)) / (len(STEPS) - 1)).clip(max=0.45 if rests else 1)
    shares = (shares / shares[-1]) ** fall
    return [
        {"job": job, "dataset": "cifar10", "model": "resnet18"}
        | labels
        | {
            "seed": seed,
            "step": step,
            "epoch": step / 10,
            "layer": f"layers.{depth}",
            "depth": depth,
            "is_last": is_last,
            "train_variance": float(train**share),
            "strong_test_variance": float(strong**share),
            "weak_test_variance": float(weak**share),
            "train_accuracy": accuracy if is_last else NAN,
        }
        for step, share in zip(STEPS, shares, strict=True)
    ]


def table(*parts: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])


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
        ("no-strong-test-collapse", {"strong": 0.5, "train": 0.1}, "fails"),
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
    """Test variance rests at five times a train variance that falls to the end."""
    rows = table(curve(strong=0.5, train=0.1))
    falling = table(curve(train=0.1, rests=False))["train_variance"]
    assert verdict(claims.FIG3, "no-strong-test-collapse", rows) == "fails"
    assert (
        verdict(claims.FIG3, "no-strong-test-collapse", rows.assign(train_variance=falling)) == "inconclusive"
    )
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


def transfer(
    accuracies: Sequence[float],
    probes: Sequence[float] = (),
    seed: int = 0,
    sweep: Sequence[float] = (0.0, -0.1),
) -> list[dict[str, Any]]:
    """Checkpoints of falling train variance, each fine-tuned with two learning rates."""
    head = {"dataset": "mnist", "model": "mlp", "seed": seed}
    variances = [1.0, 0.1, 0.01, 0.001][: len(accuracies)]
    rows = [
        head
        | {
            "kind": "fine_tuning",
            "pretrain_step": 10**index,
            "train_variance": variance,
            "learning_rate": 0.1 * (1 + number),
            "accuracy": accuracy + less,
        }
        for index, (variance, accuracy) in enumerate(zip(variances, accuracies, strict=True))
        for number, less in enumerate(sweep)
    ]
    rows += [
        head
        | {
            "kind": "linear_probe",
            "pretrain_step": 10**index,
            "train_variance": variances[index],
            "learning_rate": NAN,
            "accuracy": accuracy,
        }
        for index, accuracy in enumerate(probes)
    ]
    return rows


def test_figure_5_correlates_collapse_with_the_best_accuracy() -> None:
    worse = table(transfer([0.9, 0.8, 0.7]), transfer([0.91, 0.8, 0.6], seed=1))
    assert verdict(claims.FIG5, "collapse-transfers-worse", worse) == "holds"
    better = table(transfer([0.7, 0.8, 0.9]))
    assert verdict(claims.FIG5, "collapse-transfers-worse", better) == "fails"
    assert verdict(claims.FIG5, "collapse-transfers-worse", table(transfer([0.9, 0.8]))) == "inconclusive"


def test_runs_that_diverged_are_not_the_best() -> None:
    rows = table(transfer([0.9, 0.8, 0.7], sweep=(0.0, NAN)))
    assert verdict(claims.FIG5, "collapse-transfers-worse", rows) == "holds"
    nothing = table(transfer([0.9, 0.8, 0.7], sweep=(NAN, NAN)))
    assert verdict(claims.FIG5, "collapse-transfers-worse", nothing) == "inconclusive"


def test_figure_5_needs_every_checkpoint_of_every_seed() -> None:
    id, full = "collapse-transfers-worse", transfer([0.9, 0.8, 0.7, 0.6])
    assert verdict(claims.FIG5, id, table(full, transfer([0.9, 0.8, 0.7], seed=1))) == "inconclusive"
    only_probed = [row for row in transfer([0.9], [0.5], seed=1) if row["kind"] == "linear_probe"]
    assert verdict(claims.FIG5, id, table(full, only_probed)) == "inconclusive"
    rows = table(full)
    rows.loc[rows["pretrain_step"] == 10, "train_variance"] = NAN
    assert verdict(claims.FIG5, id, rows) == "inconclusive"
    assert verdict(claims.FIG5, "probing-is-worse", table(transfer([0.9, 0.8], [0.1]))) == "inconclusive"


def test_figure_5_says_how_the_best_were_chosen() -> None:
    judged = judge_all(claims.FIG5, table(transfer([0.9, 0.8, 0.7], sweep=(0.0, -0.1, NAN))))
    evidence = judged[0]["evidence"]["mnist"]
    assert evidence["learning rates of each checkpoint, best on the test samples"] == [3]
    assert evidence["runs without an accuracy"] == 3


def test_probing_is_compared_at_every_checkpoint() -> None:
    below = table(transfer([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]))
    assert verdict(claims.FIG5, "probing-is-worse", below) == "holds"
    once = table(transfer([0.9, 0.8, 0.7], [0.8, 0.7, 0.71]))
    assert verdict(claims.FIG5, "probing-is-worse", once) == "fails"
    assert verdict(claims.FIG5, "probing-is-worse", table(transfer([0.9, 0.8, 0.7]))) == "inconclusive"


CONSTRUCTIONS = {
    "network": {"train_variance": 0.002, "weak_test_variance": 0.2, "train_accuracy": 1.0, "test_accuracy": 0.95},
    "one_hot_decisions": {"train_variance": 0.0, "weak_test_variance": 0.0, "train_accuracy": 1.0, "test_accuracy": 0.95},
    "memoriser": {"train_variance": 0.0, "weak_test_variance": 1.5, "train_accuracy": 1.0, "test_accuracy": 0.11},
    "memoriser_weak": {"train_variance": 0.0, "weak_test_variance": 0.0, "train_accuracy": 1.0, "test_accuracy": 0.09},
    "one_epoch": {"epochs": 1.0, "train_variance": 0.4, "weak_test_variance": 0.5, "train_accuracy": 0.94, "test_accuracy": 0.92},
    "super_class": {"train_variance": 0.01, "test_accuracy": 0.98, "bound": 0.2, "probe_accuracy": 0.198},
}  # fmt: skip


def constructions(**changes: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"construction": name, "seed": seed} | values | changes.get(name, {})
        for seed in (0, 1)
        for name, values in CONSTRUCTIONS.items()
    ]
    columns = [
        "construction", "seed", "epochs", "train_variance", "strong_test_variance", "weak_test_variance", "train_accuracy",
        "test_accuracy", "bound", "probe_accuracy",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def test_every_claim_of_section_2_holds_on_what_it_describes() -> None:
    rows = constructions()
    assert {one["verdict"] for one in judge_all(claims.SEC2, rows)} == {"holds"}


@pytest.mark.parametrize(
    ("id", "changes", "outcome"),
    [
        ("weak-collapse-is-possible", {"one_hot_decisions": {"weak_test_variance": 0.1}}, "fails"),
        ("weak-collapse-is-possible", {"one_hot_decisions": {"test_accuracy": 0.94}}, "fails"),
        ("weak-collapse-is-possible", {"one_hot_decisions": {"weak_test_variance": NAN}}, "inconclusive"),
        ("weak-collapse-is-possible", {"network": {"test_accuracy": NAN}}, "inconclusive"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_accuracy": NAN}}, "inconclusive"),
        ("collapse-is-not-necessary", {"network": {"train_accuracy": 0.9}}, "inconclusive"),
        ("train-collapse-is-not-enough", {"memoriser": {"test_accuracy": 0.5}}, "fails"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_variance": 0.1}}, "fails"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_accuracy": 0.99}}, "fails"),
        ("weak-test-collapse-is-not-enough", {"memoriser_weak": {"weak_test_variance": 0.1}}, "fails"),
        ("weak-test-collapse-is-not-enough", {"memoriser_weak": {"test_accuracy": 0.5}}, "fails"),
        ("collapse-is-not-necessary", {"one_epoch": {"test_accuracy": 0.8}}, "fails"),
        ("collapse-is-not-necessary", {"one_epoch": {"train_variance": 0.005}}, "fails"),
        ("collapse-is-not-necessary", {"one_epoch": {"epochs": 2.5}}, "inconclusive"),
        ("collapse-is-not-necessary", {"one_epoch": {"epochs": NAN}}, "inconclusive"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": 0.21}}, "fails"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": NAN}}, "inconclusive"),
    ],
)
def test_each_claim_of_section_2_fails_where_it_is_false(
    id: str, changes: dict[str, dict[str, float]], outcome: str
) -> None:
    assert verdict(claims.SEC2, id, constructions(**changes)) == outcome


def test_a_construction_that_one_seed_lacks_leaves_its_claim_open() -> None:
    rows = constructions()
    rows = pd.DataFrame(rows[(rows["seed"] == 0) | (rows["construction"] != "memoriser")])
    assert verdict(claims.SEC2, "train-collapse-is-not-enough", rows) == "inconclusive"


def dropout(share: float, train: float, **changes: Any) -> list[dict[str, Any]]:
    return curve(f"mlp-{share}", model="mlp", dropout=share, train=train, **changes)


def test_dropout_is_compared_at_the_same_step_of_the_same_seed() -> None:
    both = [*dropout(0.0, 1e-3), *dropout(0.5, 1e-4)]
    lacks = table(both, dropout(0.0, 1e-3, seed=1))
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", lacks) == "inconclusive"
    # Without dropout the run goes on, and gets lower in the end.
    longer = table(dropout(0.0, 1e-6, rests=False), dropout(0.5, 1e-4))
    rows = pd.DataFrame(longer[(longer["dropout"] == 0) | (longer["step"] <= 100)])
    judged = judge_all(claims.FOOTNOTE2, rows)[1]
    assert judged["verdict"] == "holds"
    assert judged["evidence"]["cifar10, mlp"]["at step"] == {"seed 0": 100}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_dropout_is_judged_at_zero_train_error_only(share: float) -> None:
    errs = {share: 0.99}
    rows = table(
        *(dropout(one, train, accuracy=errs.get(one, 1.0)) for one, train in ((0.0, 1e-3), (0.5, 1e-4)))
    )
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", rows) == "inconclusive"


def test_footnote_2() -> None:
    mlp = [
        curve(f"mlp-{share}", model="mlp", dataset="mnist", dropout=share, train=train)
        for share, train in ((0.0, 1e-3), (0.5, 1e-4))
    ]
    vgg = curve("vgg", model="vgg11_bn", dropout=0.5, train=0.05)
    rows = table(*mlp, vgg)
    assert verdict(claims.FOOTNOTE2, "vgg-does-not-vanish", rows) == "holds"
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", rows) == "holds"
    slower = [
        curve(f"mlp-{share}", model="mlp", dropout=share, train=train)
        for share, train in ((0.0, 1e-4), (0.5, 1e-3))
    ]
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", table(*slower)) == "fails"
    assert verdict(claims.FOOTNOTE2, "vgg-does-not-vanish", table(*slower)) == "inconclusive"
    assert verdict(claims.FOOTNOTE2, "dropout-accelerates", table(vgg)) == "inconclusive"


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
