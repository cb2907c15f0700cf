"""Claims of the demo hold on rows that show them and fail on rows that do not."""

from __future__ import annotations

import pandas as pd
import pytest

from collapselab.experiments.claims import judge_claims
from collapselab.findings.digits import claim_rows, digits_claims
from collapselab.records.judgement import Judgement

TRAIN, GAP = "train-variance-below-bound", "strong-test-variance-above-train-variance"
LAYERS, CENTRE = "normalized-within-ordered", "nearest-centre"


def _rows(
    shares: list[float],
    *,
    agreement: float = 1.0,
    train: float = 1e-4,
    test: float = 0.05,
    accuracy: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of two steps as a run stores them; those of the first would fail every claim."""
    out = []
    for step in (0, 100):
        for depth, share in enumerate(shares):
            base = {"step": step, "epoch": 0.0, "layer": f"layers.{depth}", "depth": depth}
            early = step == 0
            out.append(
                base
                | {
                    "split": "train",
                    "normalized_within": 0.9 if early else share,
                    "train_variance": 1.0 if early else train * (1 + 0.1 * seed),
                    "ncc_agreement": 0.1 if early else agreement,
                    "accuracy": accuracy,
                }
            )
            out.append(base | {"split": "test", "strong_test_variance": 1.0 if early else test})
    return claim_rows(pd.DataFrame(out), seed)


def _judged(rows: pd.DataFrame) -> dict[str, Judgement]:
    return {one.id: one for one in judge_claims(digits_claims(0.2), rows, "Papers")}


def _three(shares: list[float], **changes: float) -> dict[str, str]:
    rows = pd.concat([_rows(shares, seed=seed, **changes) for seed in range(3)])
    return {id: one.verdict for id, one in _judged(rows).items()}


def test_all_hold_on_collapsed_rows_of_three_seeds() -> None:
    assert set(_three([0.6, 0.1, 0.01]).values()) == {"holds"}


def test_one_seed_points_to_them() -> None:
    judged = _judged(_rows([0.6, 0.1, 0.01]))
    assert {(one.verdict, one.agreement) for one in judged.values()} == {("inconclusive", "1 of 1")}


@pytest.mark.parametrize(
    ("shares", "changes", "failed"),
    [
        ([0.6, 0.1, 0.01], {"train": 2e-3, "test": 1.0}, TRAIN),
        ([0.6, 0.1, 0.01], {"test": 2e-4}, GAP),
        ([0.1, 0.15, 0.01], {}, LAYERS),
        ([0.6, 0.1, 0.01], {"agreement": 0.99}, CENTRE),
    ],
)
def test_each_fails_where_its_sentence_is_false(
    shares: list[float], changes: dict[str, float], failed: str
) -> None:
    outcomes = _three(shares, **changes)
    assert outcomes.pop(failed) == "fails"
    assert set(outcomes.values()) == {"holds"}


def test_one_sample_of_a_thousand_that_disagrees_is_not_enough() -> None:
    assert _judged(_rows([0.6, 0.1, 0.01], agreement=0.999))[CENTRE].agreement == "0 of 1"


def test_nearest_centre_says_nothing_where_no_layer_collapsed() -> None:
    judged = _judged(_rows([0.6, 0.5, 0.4]))[CENTRE]
    assert judged.void == {0: "no layer has a within-class share of the variance below 0.2"}


def test_the_collapsed_layers_are_those_from_the_first_one_on() -> None:
    """A layer below the first collapsed one may disagree."""
    rows = _rows([0.1, 0.6, 0.1, 0.01])
    rows.loc[rows["depth"] == 0, "ncc_agreement"] = 0.5
    judged = _judged(rows)[CENTRE]
    assert judged.agreement == "1 of 1"
    assert judged.readings[0].what == (
        "agreement of nearest class mean and network on train samples, smallest value from layers.2 to the last layer"
    )


def test_a_network_with_train_errors_is_void() -> None:
    assert {one.void[0] for one in _judged(_rows([0.6, 0.1, 0.01], accuracy=0.9)).values()} == {
        "train accuracy 0.9 < 0.999"
    }
