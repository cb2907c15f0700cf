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
    **labels: Any,
) -> list[dict[str, Any]]:
    """Rows of one layer; train variance falls from 1 to `train`, late (large `fall`) or early."""
    shares = (np.arange(len(STEPS)) / (len(STEPS) - 1)) ** fall
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
        ("train-collapses", {"train": 0.02, "fall": 1.0}, "inconclusive"),  # not there, but falling
        ("train-collapses", {"accuracy": 0.99}, "inconclusive"),
        ("no-strong-test-collapse", {}, "holds"),
        ("no-strong-test-collapse", {"strong": 5e-3}, "fails"),
        ("no-strong-test-collapse", {"strong": 0.5, "train": 0.1}, "fails"),
        ("no-weak-test-collapse", {}, "holds"),
        ("no-weak-test-collapse", {"weak": 5e-3}, "fails"),
        ("no-weak-test-collapse", {"weak": NAN}, "inconclusive"),
        ("weak-below-strong", {}, "holds"),
        ("weak-below-strong", {"weak": 0.7}, "fails"),
    ],
)
def test_figure_3(id: str, changes: dict[str, Any], outcome: str) -> None:
    assert verdict(claims.FIG3, id, table(curve(**changes), curve(seed=1, **changes))) == outcome


def test_one_seed_that_disagrees_leaves_a_claim_open() -> None:
    rows = table(curve(), curve(seed=1, strong=5e-3))
    assert verdict(claims.FIG3, "no-strong-test-collapse", rows) == "inconclusive"


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
    none = table(layers([0.5, 0.5, 0.5], [1, 1, 1]))
    assert verdict(claims.FIG6, "last-layer-first", none) == "inconclusive"


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
    "one_epoch": {"train_variance": 0.4, "weak_test_variance": 0.5, "train_accuracy": 0.94, "test_accuracy": 0.92},
    "super_class": {"train_variance": 0.01, "test_accuracy": 0.98, "bound": 0.2, "probe_accuracy": 0.198},
}  # fmt: skip


def constructions(**changes: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"construction": name, "seed": seed} | values | changes.get(name, {})
        for seed in (0, 1)
        for name, values in CONSTRUCTIONS.items()
    ]
    columns = [
        "construction", "seed", "train_variance", "strong_test_variance", "weak_test_variance", "train_accuracy",
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
        ("train-collapse-is-not-enough", {"memoriser": {"test_accuracy": 0.5}}, "fails"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_variance": 0.1}}, "fails"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_accuracy": 0.99}}, "fails"),
        ("weak-test-collapse-is-not-enough", {"memoriser_weak": {"weak_test_variance": 0.1}}, "fails"),
        ("weak-test-collapse-is-not-enough", {"memoriser_weak": {"test_accuracy": 0.5}}, "fails"),
        ("collapse-is-not-necessary", {"one_epoch": {"test_accuracy": 0.8}}, "fails"),
        ("collapse-is-not-necessary", {"one_epoch": {"train_variance": 0.005}}, "fails"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": 0.21}}, "fails"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": NAN}}, "inconclusive"),
    ],
)
def test_each_claim_of_section_2_fails_where_it_is_false(
    id: str, changes: dict[str, dict[str, float]], outcome: str
) -> None:
    assert verdict(claims.SEC2, id, constructions(**changes)) == outcome


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
