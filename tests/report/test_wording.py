"""Judgements in words: exact text, every number behind what it is, nothing cut."""

from __future__ import annotations

import pytest
from judgements import finding, identity, over_settings, setting

from collapselab.records.judgement import Judgement, Reading, Sensitivity
from collapselab.records.verdicts import judgement_from_schema_1
from collapselab.records.wording import cautions, sentences, summary, verdicts_text

TWO = finding((0.98, 0.63))


def test_a_number_comes_behind_what_it_is() -> None:
    assert sentences(TWO)[0] == (
        "Train variance at the end: 0.98, 0.63 (seeds 0, 1); must be below 0.1: fails in 2 of 2 seeds; inconclusive with 2 seeds."
    )


def test_one_seed() -> None:
    assert sentences(finding((0.05,))) == [
        "Train variance at the end: 0.05 (seed 0); must be below 0.1: holds in 1 of 1 seed; inconclusive with 1 seed."
    ]


def test_three_seeds_have_an_interval() -> None:
    held = finding((0.02, 0.025, 0.018), verdict="holds", p=0.0042, p_holm=0.013)
    assert sentences(held) == [
        "Train variance at the end: 0.02, 0.025, 0.018 (seeds 0-2); must be below 0.1: holds in 3 of 3 seeds.",
        "Minus log10 of train variance at the end: mean 1.68, 95% interval 1.5 to 1.86, threshold 1; p = 0.0042 (0.013 by "
        "Holm's correction).",
    ]
    open_ = finding((0.02, 0.3, 0.018))
    assert sentences(open_)[0].endswith(
        "must be below 0.1: holds in 2 of 3 seeds; inconclusive with 3 seeds: the 95% interval includes the threshold."
    )


def test_void_seeds_are_shown_with_their_reason() -> None:
    void = {0: "train accuracy 0.981", 2: "train accuracy 0.981", 3: "diverged"}
    assert sentences(finding((0.5, 0.02, 0.03, 0.9), void=void)) == [
        "Train variance at the end: 0.5, 0.02, 0.03, 0.9 (seeds 0-3); must be below 0.1: holds in 1 of 1 seed; inconclusive with 1 "
        "seed.",
        "Void: seeds 0, 2 (train accuracy 0.981); seed 3 (diverged).",
    ]
    nothing = finding((0.5,), void={0: "diverged"})
    assert sentences(nothing)[0] == (
        "Train variance at the end: 0.5 (seed 0); must be below 0.1; inconclusive: no valid seed."
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
        "Train variance at the end: 0.02, 0.03, 0.04 (seeds 0-2); must be below 0.1: holds in 3 of 3 seeds.",
        "Late change: -2.25%, 4%, 40% (seeds 0-2); must be below 10%: holds in 2 of 3 seeds.",
        "All criteria hold in 2 of 3 seeds; inconclusive with 3 seeds: the 95% interval includes the threshold.",
    ]


def test_other_thresholds_and_notes() -> None:
    others = [
        Sensitivity(what="x must be below 0.03", threshold=0.03, verdict="holds"),
        Sensitivity(what="x must be below 0.01", threshold=0.01, verdict="fails"),
    ]
    one = finding(
        (0.02, 0.025, 0.018), verdict="holds", sensitivity=others, notes=["still falling (1 of 3 seeds)"]
    )
    assert sentences(one)[-2:] == [
        "With other thresholds: x must be below 0.03: holds; x must be below 0.01: fails.",
        "Note: still falling (1 of 3 seeds).",
    ]


def test_every_setting_is_listed() -> None:
    parts = {
        "mnist, mlp": setting((0.02, 0.025, 0.018), verdict="holds"),
        "svhn, mlp": setting((0.5,), void={0: "diverged"}),
    }
    assert sentences(over_settings(parts, "inconclusive", "1 of 2 settings")) == [
        "Holds in 1 of 2 settings; p = 0.04 (0.08 by Holm's correction).",
        "mnist, mlp: holds. Train variance at the end: 0.02, 0.025, 0.018 (seeds 0-2); must be below 0.1: holds in 3 of 3 seeds.",
        "Minus log10 of train variance at the end: mean 1.68, 95% interval 1.5 to 1.86, threshold 1.",
        "svhn, mlp: inconclusive. Train variance at the end: 0.5 (seed 0); must be below 0.1; inconclusive: no valid seed.",
        "Void: seed 0 (diverged).",
    ]


def test_an_identity() -> None:
    assert sentences(identity([0, 1], [0, 1])) == [
        "Sum: 4, 4 (seeds 0, 1); must be 4: holds in 2 of 2 seeds."
    ]
    assert sentences(identity([0], [0, 4])) == ["Sum: 4, 4 (seeds 0, 4); must be 4: holds in 1 of 2 seeds."]


HELD, FAILED = finding(verdict="holds"), finding((0.5, 0.6, 0.7), verdict="fails")


@pytest.mark.parametrize(
    ("judgements", "text"),
    [
        ([], "No claims were judged."),
        ([HELD], "1 finding: 1 holds."),
        ([HELD, HELD, FAILED, TWO], "4 findings: 2 hold, 1 fails, 1 is inconclusive."),
        (
            [HELD, finding((0.02,)), TWO, finding((0.02, 0.03))],
            "4 findings: 1 holds, 3 are inconclusive (2 are met in every valid seed).",
        ),
        ([HELD, identity([0], [0])], "1 finding: 1 holds; 1 of 1 identity holds."),
        ([identity([0], [0]), identity([0], [0, 1])], "1 of 2 identities hold."),
    ],
)
def test_findings_and_identities_are_counted_apart(judgements: list, text: str) -> None:
    assert summary(judgements) == text[0].upper() + text[1:]


def test_a_void_seed_points_to_nothing() -> None:
    assert summary([finding((0.5,), void={0: "diverged"})]) == "1 finding: 1 is inconclusive."
    rows = {"a": setting((0.02,)), "b": setting((0.02,))}
    assert "(1 is met in every valid seed)" in summary(
        [over_settings(rows, "inconclusive", "0 of 2 settings")]
    )
    assert "is met" not in summary(
        [over_settings(rows | {"c": setting((0.5,))}, "inconclusive", "0 of 3 settings")]
    )


def test_what_keeps_verdicts_from_being_overrated() -> None:
    smoke, few = (
        "The scale smoke only tests that everything works: its verdicts say nothing about the paper.",
        "fewer than three seeds",
    )
    assert cautions([HELD], "cpu") == []
    assert cautions([HELD], "smoke") == [smoke]
    assert few in cautions([HELD, TWO], "cpu")[0]
    assert cautions([], "smoke") == []
    assert smoke in " ".join(verdicts_text([TWO], "smoke").split())


def test_verdicts_text() -> None:
    note = "The criterion changed."
    judged = [finding((0.98, 0.63), notes=[note]), identity([0], [0]).model_copy(update={"notes": [note]})]
    assert verdicts_text(judged) == (
        "1 finding: 1 is inconclusive; 1 of 1 identity holds. With fewer than three seeds, a finding is\n"
        "always inconclusive. The criterion changed.\n"
        "\n"
        "INCONCLUSIVE  Train variance converges to 0.\n"
        "              Fig. 3, sec. 3.3\n"
        "              Train variance at the end: 0.98, 0.63 (seeds 0, 1); must be below 0.1: fails in 2 of 2\n"
        "              seeds; inconclusive with 2 seeds.\n"
        "              Minus log10 of train variance at the end: mean 0.105, 95% interval -1.11 to 1.32,\n"
        "              threshold 1.\n"
        "\n"
        "HOLDS         Two and two are four.\n"
        "              Sec. 2\n"
        "              Sum: 4 (seed 0); must be 4: holds in 1 of 1 seed.\n"
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
