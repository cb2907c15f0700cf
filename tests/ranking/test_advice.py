"""What `rank` says of its scores: which to trust, which not, and why."""

from __future__ import annotations

from typing import Any

import pytest
from test_rank import features

import collapselab
from collapselab.ranking.results import RankedModel, ScoreTrust
from collapselab.ranking.trust import advice, caveat


def trust(**changes: Any) -> ScoreTrust:
    values = {
        "direction": "larger",
        "stability": 1.0,
        "correlation": None,
        "regret": None,
        "seconds": 0.1,
        "caveat": "",
    }
    return ScoreTrust(**(values | changes))


def row(n: int, p: int, classes: int = 10) -> RankedModel:
    return RankedModel("m", "d", 1, n, p, classes, {}, {})


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("h_score", [row(100, 200)], "needs more samples"),
        ("vci", [row(100, 99)], "needs more samples"),
        ("vci", [row(1000, 200), row(1000, 100)], "favours wide features: up to 20% of it is chance"),
        ("vci", [row(1000, 200)], ""),
        ("vci", [row(10_000, 200), row(10_000, 100)], ""),
        ("logme", [row(100, 200)], ""),
        ("shrunk_h_score", [row(100, 200)], ""),
        ("ncc_accuracy", [row(1000, 200)], "too good"),
        ("ncc_accuracy", [row(1000, 50)], ""),
        ("ncti_ncc", [row(1000, 200)], ""),
        ("ncti", [row(500, 200)], "too good"),
        ("transrate", [row(1000, 20), row(1000, 30)], "width"),
        ("transrate", [row(1000, 20)], ""),
        ("between_trace", [row(1000, 20)], "predicts nothing"),
    ],
)
def test_caveats(name: str, rows: list[RankedModel], words: str) -> None:
    found = caveat(name, rows)
    assert words in found
    assert bool(words) == bool(found)


def test_advice_prefers_what_was_measured_and_leaves_out_the_unstable() -> None:
    scores = {
        "logme": trust(correlation=0.6),
        "cdnv": trust(correlation=0.9),
        "fuzziness": trust(correlation=0.4),
        "transrate": trust(stability=0.1, correlation=1.0),
        "vci": trust(correlation=1.0, caveat="says nothing"),
        "h_score": trust(correlation=1.0, caveat="says nothing"),
    }
    assert advice(scores, 8, [500], is_measured=True) == (
        "At n = 500, trust cdnv (0.9) and logme (0.6): rank correlation with accuracy.",
        "Do not trust h_score and vci here: says nothing.",
        "Not stable, or undefined: transrate.",
    )
    assert "With 4 models, rank correlations are rough." in advice(scores, 4, [500], is_measured=True)
    poor = advice({"logme": trust(correlation=0.1)}, 8, [500], is_measured=True)
    assert poor == ("At n = 500, no score predicts the measured accuracies of these models.",)


def test_advice_without_accuracies_says_what_is_unknown() -> None:
    scores = {"logme": trust(), "cdnv": trust(), "vci_adjusted": trust(stability=None)}
    sentences = advice(scores, 8, [500, 1000], is_measured=False)
    assert sentences[0].startswith(
        "At n = 500, 1,000, logme and cdnv are stable. Whether they predict transfer here is unknown"
    )
    assert sentences[1] == "Not stable, or undefined: vci_adjusted."
    assert (
        "no score can be trusted" in advice({"logme": trust(stability=0.1)}, 8, [500], is_measured=False)[0]
    )


@pytest.mark.parametrize(
    ("score", "is_measured", "words"),
    [
        (trust(caveat="width"), False, "those that are stable have a caveat (transrate)"),
        (trust(stability=None), False, "no score can be compared on two halves"),
        (
            trust(correlation=1.0, caveat="width"),
            True,
            "only scores that are unstable or have a caveat predict",
        ),
        (
            trust(correlation=1.0, stability=0.1),
            True,
            "only scores that are unstable or have a caveat predict",
        ),
        (trust(), True, "scores and measured accuracies cannot be compared"),
        (trust(stability=None), True, "scores and measured accuracies cannot be compared"),
    ],
)
def test_advice_says_why_no_score_can_be_trusted(score: ScoreTrust, is_measured: bool, words: str) -> None:
    found = advice({"transrate": score}, 8, [500], is_measured=is_measured)
    assert words in found[0]
    assert "stable." not in found[0]
    assert "unknown until a probe" not in found[0]


def test_equal_accuracies_are_measured_accuracies() -> None:
    given = {str(p): (features(60.0, p=p), features(60.0, p=p, seed=1)) for p in (5, 6, 7)}
    found = collapselab.rank(given, scores=["cdnv"], by="cdnv", probe=True, stability=False)
    assert {row.accuracy for row in found.rows} == {1}
    assert "cannot be compared" in found.advice[0]


def test_warnings_that_differ_in_numbers_are_merged() -> None:
    given = {f"m{number}": features(1.0, p=50 + number, n=30) for number in range(4)}
    found = collapselab.rank(given, scores=["vci"], by="vci", stability=False)
    texts = [text for text in found.warnings if "the largest possible with 30 samples" in text]
    assert len(texts) == 1
    assert texts[0].startswith("m0, vci: Sigma_T has rank 29")
    assert texts[0].endswith(". Similar: m1, m2 and 1 more")
