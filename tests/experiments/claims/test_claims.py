"""Claims hold on rows that show them and fail on rows that do not."""

import pandas as pd
import pytest

from collapselab.experiments.claims.claim import first_collapsed_layer, judge_all
from collapselab.findings.digits import digits_claims


def _rows(
    shares: list[float], *, agreement: float = 1.0, train: float = 1e-4, test: float = 0.05, seed: int = 0
) -> pd.DataFrame:
    """Rows of two steps; those of the first would fail every claim."""
    out = []
    for step in (0, 100):
        for depth, share in enumerate(shares):
            base = {"seed": seed, "step": step, "layer": f"layers.{depth}", "depth": depth}
            early = step == 0
            out.append(
                base
                | {
                    "split": "train",
                    "normalized_within": 0.9 if early else share,
                    "train_variance": 1.0 if early else train,
                    "ncc_agreement": 0.1 if early else agreement,
                }
            )
            out.append(base | {"split": "test", "strong_test_variance": 1.0 if early else test})
    return pd.DataFrame(out)


def _verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {verdict["id"]: verdict["verdict"] for verdict in judge_all(digits_claims(0.2), rows)}


def test_all_hold_on_collapsed_rows() -> None:
    assert set(_verdicts(_rows([0.6, 0.1, 0.01])).values()) == {"holds"}


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        pytest.param(
            _rows([0.6, 0.1, 0.01], train=2e-3, test=1.0), "train-not-test", id="train variance too large"
        ),
        pytest.param(_rows([0.6, 0.1, 0.01], test=4e-3), "train-not-test", id="test variance too small"),
        pytest.param(_rows([0.1, 0.15, 0.01]), "layers-in-order", id="a layer rises"),
        pytest.param(_rows([0.6, 0.5, 0.4]), "layers-in-order", id="no layer collapsed"),
        pytest.param(_rows([0.6, 0.1, 0.01], agreement=0.999), "nearest-centre", id="one sample disagrees"),
    ],
)
def test_each_fails_where_its_sentence_is_false(rows: pd.DataFrame, failed: str) -> None:
    assert _verdicts(rows)[failed] == "fails"


def test_nearest_centre_says_nothing_where_no_layer_collapsed() -> None:
    assert _verdicts(_rows([0.6, 0.5, 0.4]))["nearest-centre"] == "inconclusive"


def test_one_seed_that_fails_fails_the_claim() -> None:
    rows = pd.concat([_rows([0.6, 0.1, 0.01]), _rows([0.1, 0.15, 0.01], seed=1)])
    (verdict,) = (v for v in judge_all(digits_claims(0.2), rows) if v["id"] == "layers-in-order")
    assert verdict["verdict"] == "fails"
    assert verdict["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("shares", "first"),
    [
        ([0.6, 0.1, 0.05], "layers.1"),
        ([0.1, 0.6, 0.05], "layers.2"),
        ([0.1, 0.1, 0.6], None),
        ([0.1, float("nan"), 0.05], "layers.2"),
        ([0.1, 0.2, 0.05], "layers.2"),
    ],
    ids=[
        "from the second",
        "not before it stays",
        "last one not",
        "undefined is not collapsed",
        "epsilon is not below",
    ],
)
def test_first_collapsed_layer(shares: list[float], first: str | None) -> None:
    layers = [f"layers.{depth}" for depth in range(len(shares))]
    table = pd.DataFrame({"layer": layers, "depth": range(len(shares)), "normalized_within": shares})
    assert first_collapsed_layer(table, 0.2) == first
