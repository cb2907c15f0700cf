"""Judgements in words: exact text, every number behind what it is, nothing cut."""

from __future__ import annotations

import pytest
from judgements import finding, identity, over_settings, setting

from collapselab.records.judgement import Effect, Judgement, Reading, Sensitivity
from collapselab.records.verdicts import judgement_from_schema_1
from collapselab.records.wording import cautions, outcome, sentences, summary, verdicts_text

TWO = finding((0.98, 0.63))


def test_a_number_comes_behind_what_it_is() -> None:
    assert sentences(TWO)[0] == (
        "Train variance at the end: 0.98, 0.63 (seeds 0, 1); must be below 0.1: met in 0 of 2 seeds."
    )


def test_one_seed() -> None:
    assert sentences(finding((0.05,))) == [
        "Train variance at the end: 0.05 (seed 0); must be below 0.1: met."
    ]
    assert sentences(finding((0.5,)))[0].endswith("must be below 0.1: not met.")


def test_three_seeds_have_an_interval() -> None:
    held = finding((0.02, 0.025, 0.018), verdict="holds", p=0.0042, p_holm=0.013)
    assert sentences(held) == [
        "Train variance at the end: 0.02, 0.025, 0.018 (seeds 0-2); must be below 0.1: met in 3 of 3 seeds.",
        # The effect is minus log10: mean 1.68, 95% interval 1.5 to 1.86, threshold 1.
        "Over seeds: geometric mean 0.0208, 95% interval 0.0137 to 0.0316, threshold 0.1; two-sided p = 0.0042 (0.013 with "
        "Holm's correction).",
    ]
    open_ = finding((0.02, 0.3, 0.018))
    assert sentences(open_)[0].endswith(
        "must be below 0.1: met in 2 of 3 seeds. Inconclusive because the 95% interval includes the threshold."
    )


@pytest.mark.parametrize(
    ("means", "numbers", "text"),
    [
        ("log10 of 1 + change of x", (0.0, -0.1, 0.1, -0.0458), "Change of x: mean 0%, 95% interval -20.6% to 25.9%, threshold -10%"),
        ("minus log10 of 1 + change of x", (0.1, 0.0, 0.2, -0.0414), "Change of x: mean -20.6%, 95% interval -36.9% to 0%, threshold 10%"),
        ("log10 of ratio of x", (1.0, 0.5, 1.5, 0.5), "Ratio of x: geometric mean 10, 95% interval 3.16 to 31.6, threshold 3.16"),
        ("Fisher's z of rank correlation", (0.5493, 0.0, 1.0, 0.0), "Rank correlation: mean 0.5, 95% interval 0 to 0.762, threshold 0"),
        ("minus Fisher's z of rank correlation", (0.5493, 0.0, 1.0, 0.0), "Rank correlation: mean -0.5, 95% interval -0.762 to 0, threshold 0"),
        ("accuracy less another", (0.1, 0.0, 0.2, -0.05), "Accuracy less another: mean 0.1, 95% interval 0 to 0.2, threshold -0.05"),
        ("minus accuracy", (-0.1, -0.3, 0.1, -0.2), "Accuracy: mean 0.1, 95% interval -0.1 to 0.3, threshold 0.2"),
    ],
)  # fmt: skip
def test_an_interval_is_in_the_unit_of_the_number(means: str, numbers: tuple[float, ...], text: str) -> None:
    """By hand: 10^-0.1 = 0.794, 10^0.1 = 1.259, 10^-0.2 = 0.631, 10^0.5 = 3.162, tanh(0.5493) = 0.5, tanh(1) = 0.762."""
    mean, low, high, threshold = numbers
    effect = Effect(means=means, unit="", threshold=threshold, mean=mean, low=low, high=high, by_seed={})
    two = finding().readings * 2  # with one criterion, the interval needs no name
    assert sentences(finding().model_copy(update={"effect": effect, "readings": two}))[-1] == f"{text}."


def test_void_seeds_are_shown_with_their_reason() -> None:
    void = {0: "train accuracy 0.981", 2: "train accuracy 0.981", 3: "diverged"}
    assert sentences(finding((0.5, 0.02, 0.03, 0.9), void=void)) == [
        "Train variance at the end: 0.5, 0.02, 0.03, 0.9 (seeds 0-3); must be below 0.1: met in 1 of 1 seed.",
        "Void: seeds 0, 2 (train accuracy 0.981); seed 3 (diverged).",
    ]
    unknown = Effect(means="change of x", unit="", threshold=0, mean=None, low=None, high=None, by_seed={})
    without = finding((0.5, 0.02, 0.03)).model_copy(update={"effect": unknown})
    assert sentences(without)[0].endswith(
        ". Inconclusive because a criterion is undefined in every valid seed."
    )
    nothing = finding((0.5,), void={0: "diverged"})
    assert sentences(nothing)[0] == (
        "Train variance at the end: 0.5 (seed 0); must be below 0.1. Inconclusive because every seed is void."
    )


def test_several_things_that_are_asked_and_others_beside() -> None:
    late = Reading(
        what="late change", by_seed={0: -2.25, 1: 4.0, 2: 40.0}, must="be below 10%", met=[0, 1], unit="%"
    )
    beside = [Reading(what="test variance", by_seed={0: 1.5, 1: 2.0}), Reading(what="points", by_seed={})]
    base = finding((0.02, 0.03, 0.04))
    one = base.model_copy(update={"readings": [*base.readings, late, *beside], "agreement": "2 of 3"})
    assert sentences(one)[:4] == [
        "Test variance: 1.5, 2 (seeds 0, 1); points: undefined.",
        "Train variance at the end: 0.02, 0.03, 0.04 (seeds 0-2); must be below 0.1: met in 3 of 3 seeds.",
        "Late change: -2.25%, 4%, 40% (seeds 0-2); must be below 10%: met in 2 of 3 seeds.",
        "All criteria are met in 2 of 3 seeds. Inconclusive because the 95% interval includes the threshold.",
    ]


def test_other_thresholds_and_notes() -> None:
    others = [
        Sensitivity(what="train variance at the end must be below 0.03", threshold=0.03, verdict="holds"),
        Sensitivity(what="another number must be below 0.01", threshold=0.01, verdict="fails"),
    ]
    one = finding(
        (0.02, 0.025, 0.018), verdict="holds", sensitivity=others, notes=["still falling (1 of 3 seeds)"]
    )
    assert sentences(one)[-2:] == [
        "With other criteria, the verdict would be: holds (must be below 0.03); fails (another number must be below 0.01).",
        "Note: still falling (1 of 3 seeds).",
    ]


def test_every_setting_is_listed() -> None:
    parts = {
        "mnist, mlp": setting((0.02, 0.025, 0.018), verdict="holds"),
        "svhn, mlp": setting((0.5,), void={0: "diverged"}),
    }
    assert sentences(over_settings(parts, "inconclusive", "1 of 2 settings")) == [
        "Holds in 1 of 2 settings; two-sided p = 0.04 (0.08 with Holm's correction).",
        "mnist, mlp: holds. Train variance at the end: 0.02, 0.025, 0.018 (seeds 0-2); must be below 0.1: met in 3 of 3 seeds.",
        "Over seeds: geometric mean 0.0208, 95% interval 0.0137 to 0.0316, threshold 0.1.",
        "svhn, mlp: inconclusive. Train variance at the end: 0.5 (seed 0); must be below 0.1. Inconclusive because every seed is void.",
        "Void: seed 0 (diverged).",
    ]


def test_an_identity() -> None:
    assert sentences(identity([0, 1], [0, 1])) == ["Sum: 4, 4 (seeds 0, 1); must be 4: met in 2 of 2 seeds."]
    assert sentences(identity([0], [0, 4])) == ["Sum: 4, 4 (seeds 0, 4); must be 4: met in 1 of 2 seeds."]


HELD, FAILED = finding(verdict="holds"), finding((0.5, 0.6, 0.7), verdict="fails")
UNTESTED = finding(()).model_copy(update={"is_asked": False})
# Three seeds: one does not meet the criterion; all meet it, but lie far apart.
OPEN, WIDE = finding((0.02, 0.3, 0.018)), finding((0.099, 0.001, 0.09))


@pytest.mark.parametrize(
    ("judgements", "text"),
    [
        ([], "No claims were judged."),
        ([HELD], "1 claim: 1 holds."),
        ([HELD, HELD, FAILED, OPEN], "4 claims: 2 hold, 1 fails, 1 is inconclusive."),
        (
            [HELD, WIDE, OPEN],
            "3 claims: 1 holds, 2 are inconclusive (1 meets its criteria in every seed).",
        ),
        (
            [HELD, OPEN, finding((0.02,)), TWO, finding((0.02, 0.03))],
            "5 claims: 1 holds, 1 is inconclusive, 3 have no verdict yet. A verdict needs three seeds. So far, 2 of these 3 claims "
            "meet their criteria.",
        ),
        (
            [TWO, finding((0.02,))],
            "2 claims: none has a verdict yet. A verdict needs three seeds. So far, 1 of these 2 claims meets its criteria.",
        ),
        (
            [finding((0.02,)), finding((0.03,))],
            "2 claims: none has a verdict yet. A verdict needs three seeds. So far, all 2 meet their criteria.",
        ),
        ([HELD, UNTESTED], "2 claims: 1 holds, 1 is not tested."),
        ([UNTESTED, UNTESTED], "2 claims: 2 are not tested."),
        ([HELD, identity([0], [0])], "1 finding: 1 holds; 1 of 1 identity holds."),
        ([identity([0], [0]), identity([0], [0, 1])], "1 of 2 identities hold."),
    ],
)
def test_findings_and_identities_are_counted_apart(judgements: list, text: str) -> None:
    assert summary(judgements) == text[0].upper() + text[1:]


def test_a_void_seed_points_to_nothing() -> None:
    assert summary([finding((0.5,), void={0: "diverged"})]) == "1 claim: 1 is inconclusive."
    rows = {"a": setting((0.02,)), "b": setting((0.02,))}
    assert summary([over_settings(rows, "inconclusive", "0 of 2 settings")]).endswith(
        "So far, this claim meets its criteria."
    )
    assert "meets" not in summary(
        [over_settings(rows | {"c": setting((0.5,))}, "inconclusive", "0 of 3 settings")]
    )


def test_what_keeps_verdicts_from_being_overrated() -> None:
    smoke = "The scale smoke only tests that everything works: claims about networks are not judged."
    assert cautions([HELD], "cpu") == []
    assert cautions([HELD], "smoke") == [smoke]
    assert cautions([], "smoke") == []
    assert outcome(HELD, "smoke") == "not judged"
    assert "NOT JUDGED" in verdicts_text([HELD], "smoke")
    assert "HOLDS" not in verdicts_text([HELD], "smoke")
    assert "holds" not in summary([HELD, HELD], "smoke")
    assert smoke in " ".join(verdicts_text([TWO], "smoke").split())


def test_too_few_seeds_have_an_outcome_but_no_verdict() -> None:
    few = [finding(values) for values in ((0.02,), (0.2,), (0.02, 0.03), (0.02, 0.3), (0.2, 0.3))]
    assert list(map(outcome, few)) == [
        "met in 1 seed",
        "not met",
        "met in 2 of 2",
        "met in 1 of 2",
        "not met",
    ]
    assert (
        outcome(
            over_settings({"a": setting((0.02,)), "b": setting((0.02,))}, "inconclusive", "0 of 2 settings")
        )
        == "no verdict"
    )
    assert list(map(outcome, (HELD, FAILED, OPEN))) == ["holds", "fails", "inconclusive"]
    assert outcome(finding((0.5,), void={0: "diverged"})) == "inconclusive"


def test_verdicts_text() -> None:
    note = "The criterion changed."
    judged = [finding((0.98, 0.63), notes=[note]), identity([0], [0]).model_copy(update={"notes": [note]})]
    assert verdicts_text(judged) == (
        "1 finding: 1 has no verdict yet; 1 of 1 identity holds. A verdict needs three seeds. The criterion\n"
        "changed.\n"
        "\n"
        "NOT MET       Train variance converges to 0.\n"
        "              Fig. 3, sec. 3.3\n"
        "              Train variance at the end: 0.98, 0.63 (seeds 0, 1); must be below 0.1: met in 0 of 2\n"
        "              seeds.\n"
        "              Over seeds: geometric mean 0.786, 95% interval 0.0474 to 13, threshold 0.1.\n"
        "\n"
        "HOLDS         Two and two are four.\n"
        "              Sec. 2\n"
        "              Sum: 4 (seed 0); must be 4: met.\n"
    )


def test_what_an_earlier_version_measured_is_in_its_notes() -> None:
    head = {"id": "a", "paper": "A paper", "where": "Fig. 1", "statement": "It holds.", "verdict": "holds"}
    old = Judgement.model_validate(judgement_from_schema_1({**head, "evidence": {"train variance": 0.02}}))
    assert sentences(old) == [
        "Note: Judged by an earlier version, with another rule.",
        "Note: train variance: 0.02.",
    ]
    void = finding((), void={0: "diverged"}, readings=[], effect=None)
    assert sentences(void) == ["Nothing was measured.", "Void: seed 0 (diverged)."]


def test_nothing_is_cut_and_no_line_is_too_long() -> None:
    parts = {f"data set {index}": setting([0.02 * (1 + seed) for seed in range(30)]) for index in range(15)}
    text = verdicts_text([over_settings(parts, "inconclusive", "0 of 15 settings")], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    flowing = " ".join(text.split())
    for index in range(15):
        assert f"data set {index}: inconclusive." in flowing
    assert flowing.count("0.6 (seeds 0-29)") == 15


def test_a_number_is_told_from_its_bound_and_a_tiny_p_from_zero() -> None:
    held = finding((0.09996, 0.02, 0.1), verdict="holds", p=0.0, p_holm=3e-12)
    assert "0.09996, 0.02, 0.1 (seeds 0-2); must be below 0.1" in sentences(held)[0]
    assert sentences(held)[-1].endswith("; two-sided p < 1e-10.")
