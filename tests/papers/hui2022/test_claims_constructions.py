"""Claims about constructed networks (sec. 2.1 and 4.1): each holds on what it describes and fails where it is false."""

from __future__ import annotations

import pandas as pd
import pytest
from claim_rows import NAN, judgement, verdict

from collapselab.experiments.claims import judge_claims
from collapselab.papers.hui2022 import sec2

SEC2 = sec2.EXPERIMENT
CONSTRUCTIONS = {
    "network": {"train_variance": 0.002, "weak_test_variance": 0.2, "train_accuracy": 1.0, "test_accuracy": 0.95},
    "one_hot_decisions": {"train_variance": 0.0, "weak_test_variance": 0.0, "train_accuracy": 1.0, "test_accuracy": 0.95},
    "memoriser": {"train_variance": 0.0, "weak_test_variance": 1.5, "train_accuracy": 1.0, "test_accuracy": 0.11},
    "memoriser_weak": {"train_variance": 0.0, "weak_test_variance": 0.0, "train_accuracy": 1.0, "test_accuracy": 0.09},
    "collapsed": {"train_variance": 1e-3, "weak_test_variance": 0.2, "train_accuracy": 1.0, "test_accuracy": 0.95},
    "one_epoch": {"epochs": 1.0, "train_variance": 0.4, "weak_test_variance": 0.5, "train_accuracy": 0.94, "test_accuracy": 0.92},
    "super_class": {"train_variance": 0.01, "test_accuracy": 0.98, "bound": 0.2, "probe_accuracy": 0.198},
}  # fmt: skip


def constructions(**changes: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"construction": name, "seed": seed} | values | changes.get(name, {})
        for seed in (0, 1, 2)
        for name, values in CONSTRUCTIONS.items()
    ]
    columns = [
        "construction", "seed", "epochs", "train_variance", "strong_test_variance", "weak_test_variance", "train_accuracy",
        "test_accuracy", "bound", "probe_accuracy",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def test_every_claim_of_section_2_holds_on_what_it_describes() -> None:
    judged = judge_claims(SEC2.claims, constructions(), SEC2.paper)
    assert {one.verdict for one in judged} == {"holds"}
    assert [one.kind for one in judged] == ["identity"] * 4 + ["finding"] * 3


def test_constructions_need_no_second_seed_and_findings_do() -> None:
    rows = constructions()
    one = pd.DataFrame(rows[rows["seed"] == 0])
    judged = judge_claims(SEC2.claims, one, SEC2.paper)
    assert [one.verdict for one in judged] == ["holds"] * 4 + ["inconclusive"] * 3


@pytest.mark.parametrize(
    ("id", "changes", "outcome"),
    [
        ("weak-collapse-is-possible", {"one_hot_decisions": {"weak_test_variance": 1e-6}}, "fails"),
        ("weak-collapse-is-possible", {"one_hot_decisions": {"test_accuracy": 0.94}}, "fails"),
        ("weak-collapse-is-possible", {"one_hot_decisions": {"weak_test_variance": NAN}}, "inconclusive"),
        ("weak-collapse-is-possible", {"network": {"test_accuracy": NAN}}, "inconclusive"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_accuracy": NAN}}, "inconclusive"),
        ("train-collapse-is-not-enough", {"memoriser": {"test_accuracy": 0.5}}, "fails"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_variance": 1e-6}}, "fails"),
        ("train-collapse-is-not-enough", {"memoriser": {"train_accuracy": 0.999}}, "fails"),
        ("weak-test-collapse-is-not-enough", {"memoriser_weak": {"weak_test_variance": 1e-6}}, "fails"),
        ("weak-test-collapse-is-not-enough", {"memoriser_weak": {"test_accuracy": 0.5}}, "fails"),
        ("one-epoch-does-not-collapse", {"one_epoch": {"train_variance": 0.05}}, "fails"),
        ("one-epoch-does-not-collapse", {"one_epoch": {"train_variance": 0.1}}, "inconclusive"),
        ("one-epoch-does-not-collapse", {"one_epoch": {"epochs": 2.5}}, "inconclusive"),
        ("one-epoch-does-not-collapse", {"one_epoch": {"epochs": NAN}}, "inconclusive"),
        ("one-epoch-does-not-collapse", {"network": {"train_accuracy": 0.9}}, "holds"),
        ("one-epoch-matches", {"one_epoch": {"test_accuracy": 0.8}}, "fails"),
        ("one-epoch-matches", {"one_epoch": {"test_accuracy": NAN}}, "inconclusive"),
        ("one-epoch-matches-interpolation", {"one_epoch": {"test_accuracy": 0.8}}, "fails"),
        ("one-epoch-matches-interpolation", {"network": {"test_accuracy": 0.99}}, "fails"),
        ("one-epoch-matches-interpolation", {"collapsed": {"test_accuracy": 0.99}}, "holds"),
        ("one-epoch-matches", {"one_epoch": {"epochs": 2.5}}, "inconclusive"),
        # It is compared with a network that has collapsed, or with none.
        ("one-epoch-matches", {"network": {"test_accuracy": 0.99}}, "holds"),
        ("one-epoch-matches", {"collapsed": {"test_accuracy": 0.99}}, "fails"),
        ("one-epoch-matches", {"collapsed": {"train_variance": 0.2}}, "inconclusive"),
        ("one-epoch-matches", {"collapsed": {"train_accuracy": 0.99}}, "inconclusive"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": 0.2}}, "holds"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": 0.21}}, "fails"),
        ("two-points-cannot-tell-ten-classes", {"super_class": {"probe_accuracy": NAN}}, "inconclusive"),
    ],
)
def test_each_claim_of_section_2_fails_where_it_is_false(
    id: str, changes: dict[str, dict[str, float]], outcome: str
) -> None:
    assert verdict(SEC2, id, constructions(**changes)) == outcome


def test_a_construction_that_one_seed_lacks_is_listed() -> None:
    """It is a case less; the others hold."""
    rows = constructions()
    rows = pd.DataFrame(rows[(rows["seed"] == 0) | (rows["construction"] != "memoriser")])
    judged = judgement(SEC2, "train-collapse-is-not-enough", rows)
    assert (judged.verdict, judged.agreement) == ("holds", "1 of 1")
    assert judged.void == {1: "missing runs: memoriser", 2: "missing runs: memoriser"}
