"""The rule over seeds and settings: what holds, fails, is inconclusive; what is void."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from judged_rows import judge, run, runs

from collapselab.experiments.claims import Claim, Number, Void, judge_claims
from collapselab.experiments.claims.claim import NotAsked
from collapselab.experiments.claims.judges import at_end, identity
from collapselab.inference import holm, student_interval, t_test
from collapselab.records.wording import outcome

ABOVE_0 = at_end("x", "It is above 0.", above=(0.0, -1.0, 1.0), scale="difference")
NAN = math.nan


@pytest.mark.parametrize(
    ("effects", "verdict", "agreement"),
    [
        ([1.0, 1.1, 0.9], "holds", "3 of 3"),
        ([-1.0, -1.1, -0.9], "fails", "0 of 3"),
        ([1.0, 1.1, -0.9], "inconclusive", "2 of 3"),
        ([1.0, 5.0, 0.1], "inconclusive", "3 of 3"),  # all above, but the interval of the mean is wide
        ([1.0, 1.1, 0.9, 1.0, 1.2, -0.1], "holds", "5 of 6"),  # one seed need not agree
        ([1.0, 1.0], "inconclusive", "2 of 2"),
        ([1.0], "inconclusive", "1 of 1"),
        ([0.0, 0.0, 0.0], "inconclusive", "0 of 3"),  # at the threshold
        ([0.5, 0.5, 0.5], "holds", "3 of 3"),  # no spread: a point
        ([NAN, NAN, NAN], "inconclusive", "0 of 0"),
    ],
)
def test_a_finding_in_one_setting(effects: list[float], verdict: str, agreement: str) -> None:
    judged = judge(ABOVE_0, runs(effects))
    assert (judged.verdict, judged.agreement, judged.kind) == (verdict, agreement, "finding")
    assert judged.settings == []
    assert judged.where == "Fig. 1"


def test_a_judgement_has_the_interval_and_the_test_of_its_effects() -> None:
    judged = judge(ABOVE_0, runs({2: 0.3, 0: 0.9, 7: 1.4}))
    mean, low, high = (float(one) for one in student_interval([0.9, 0.3, 1.4]))
    assert judged.effect is not None
    assert judged.effect.by_seed == {0: 0.9, 2: 0.3, 7: 1.4}
    assert (judged.effect.mean, judged.effect.low, judged.effect.high) == pytest.approx((mean, low, high))
    assert judged.p == pytest.approx(t_test([0.9, 0.3, 1.4], 0.0))
    assert (judged.effect.threshold, judged.effect.unit) == (0.0, "difference")
    (reading,) = judged.readings
    assert (reading.what, reading.must, reading.met) == ("x at the end", "be above 0", [0, 2, 7])


def test_other_thresholds_are_judged_too() -> None:
    judged = judge(ABOVE_0, runs([0.5, 0.6, 0.4]))
    assert [(one.threshold, one.verdict) for one in judged.sensitivity] == [(-1.0, "holds"), (1.0, "fails")]
    assert judged.sensitivity[1].what == "x at the end must be above 1"


# ---------------------------------------------------------------- void seeds


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accuracy": 0.981}, "train accuracy 0.981 < 0.999"),
        ({"accuracy": 0.9989}, "train accuracy 0.9989 < 0.999"),
        ({"accuracy": NAN}, "train accuracy at the end is undefined"),
        ({"ended": "diverged"}, "diverged"),
        ({"x": NAN}, "x at the end is undefined"),
        ({"x": math.inf}, "x at the end is undefined"),
    ],
)
def test_a_void_seed_is_listed_and_does_not_void_the_others(changes: dict[str, Any], reason: str) -> None:
    valid = [row for seed in range(3) for row in run(seed=seed, x=1.0 + 0.1 * seed, ended="steps")]
    rows = pd.DataFrame([*valid, *run(seed=3, **({"x": -50.0, "ended": "steps"} | changes))])
    judged = judge(ABOVE_0, rows)
    assert judged.verdict == "holds"
    assert judged.void == {3: reason}
    assert judged.agreement == "3 of 3"
    assert judged.effect is not None
    assert 3 not in judged.effect.by_seed


def test_a_train_accuracy_of_0_999_is_enough() -> None:
    assert judge(ABOVE_0, pd.DataFrame(run(x=1.0, accuracy=0.999))).void == {}


def test_a_void_seed_still_shows_its_numbers() -> None:
    rows = pd.DataFrame([*run(x=1.0), *run(seed=1, x=2.0, accuracy=0.5)])
    (reading,) = judge(ABOVE_0, rows).readings
    assert reading.by_seed == pytest.approx({0: 1.0, 1: 2.0})
    assert reading.met == [0]


def test_a_network_that_need_not_fit_its_train_set() -> None:
    rows = pd.DataFrame([row for seed in range(3) for row in run(seed=seed, x=1.0, accuracy=0.5)])
    assert judge(ABOVE_0, rows).verdict == "inconclusive"
    assert len(judge(ABOVE_0, rows).void) == 3
    unfitted = at_end("x", "It is above 0.", above=(0.0,), scale="difference", fitted=None)
    assert judge(unfitted, rows).verdict == "holds"
    assert judge(unfitted, rows.drop(columns="train_accuracy")).verdict == "holds"


def test_a_run_that_is_missing_is_void() -> None:
    per_table = at_end("x", "It is above 0.", above=(0.0,), scale="difference", per=())
    a = runs([1.0, 1.0, 1.0], job="a")
    assert judge(per_table, pd.concat([a, runs({1: 1.0}, job="b")])).void == {
        0: "missing runs: b",
        2: "missing runs: b",
    }
    judged = judge(ABOVE_0, pd.concat([a, runs({3: 1.0}, job="b")]))
    assert {one.setting: one.void for one in judged.settings} == {
        "a": {3: "the run is missing"},
        "b": dict.fromkeys((0, 1, 2), "the run is missing"),
    }


def test_reasons_of_several_runs_name_them() -> None:
    per_table = at_end("x", "It is above 0.", above=(0.0,), scale="difference", per=())
    rows = pd.DataFrame([*run("a", x=1.0), *run("b", x=1.0, accuracy=0.9), *run("c", x=1.0, accuracy=0.8)])
    assert judge(per_table, rows).void == {0: "b: train accuracy 0.9 < 0.999; c: train accuracy 0.8 < 0.999"}


def test_a_measure_may_declare_a_seed_void() -> None:
    def numbers(rows: pd.DataFrame, _: float) -> list[Number]:
        raise Void("too few points")

    judged = judge(Claim(id="a", statement="It holds.", numbers=numbers), runs([1.0]))
    assert (judged.void, judged.verdict, judged.effect) == ({0: "too few points"}, "inconclusive", None)


def test_a_claim_about_no_run() -> None:
    judged = judge(at_end("x", "It is above 0.", above=(0.0,), only={"job": "vgg*"}), runs([1.0]))
    assert (judged.verdict, judged.notes) == (
        "inconclusive",
        ["this folder has no runs with job vgg*."],
    )


# ---------------------------------------------------------------- two things that are asked


def two(rows: pd.DataFrame, _: float) -> list[Number]:
    last = rows.iloc[-1]
    return [
        Number("a", last["a"], above=0.0, scale="difference"),
        Number("b", last["b"], below=1.0, scale="difference"),
    ]


BOTH = Claim(id="both", statement="Both.", numbers=two)


@pytest.mark.parametrize(
    ("a", "b", "verdict", "decides"),
    [
        (5.0, 0.9, "holds", "minus b"),
        (0.1, -9.0, "holds", "a"),
        (1.0, 2.0, "fails", "minus b"),
        (-1.0, 0.0, "fails", "a"),
        (-1.0, NAN, "fails", "a"),  # whatever the other is
        (1.0, NAN, "inconclusive", "minus b"),
        (1.0, 0.99, "inconclusive", "minus b"),
    ],
)
def test_the_weakest_of_two_decides(a: float, b: float, verdict: str, decides: str) -> None:
    seeds: list[dict[str, Any]] = [{"a": a + 0.01 * seed, "b": b + 0.01 * seed} for seed in range(3)]
    rows = pd.DataFrame([row for seed, own in enumerate(seeds) for row in run(seed=seed, **own)])
    judged = judge(BOTH, rows)
    assert judged.effect is not None
    assert (judged.verdict, judged.void, judged.effect.means) == (verdict, {}, decides)
    assert judged.notes == (["b is undefined (3 of 3 seeds)"] if math.isnan(b) else [])


# ---------------------------------------------------------------- settings


def settings(**effects: list[float]) -> pd.DataFrame:
    return pd.concat([runs(values, job=job) for job, values in effects.items()], ignore_index=True)


YES, NO, OPEN = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [1.0, -1.1, 0.2]


@pytest.mark.parametrize(
    ("parts", "verdict", "anywhere"),
    [
        ({"a": YES, "b": YES}, "holds", "holds"),
        ({"a": YES, "b": OPEN}, "inconclusive", "holds"),
        ({"a": OPEN, "b": OPEN}, "inconclusive", "inconclusive"),
        ({"a": YES, "b": NO}, "fails", "holds"),
        ({"a": OPEN, "b": NO}, "fails", "inconclusive"),
        ({"a": NO, "b": NO}, "fails", "fails"),
    ],
)
def test_a_finding_over_settings(parts: dict[str, list[float]], verdict: str, anywhere: str) -> None:
    rows = settings(**parts)
    judged = judge(ABOVE_0, rows)
    assert judged.verdict == verdict
    assert [one.setting for one in judged.settings] == ["a", "b"]
    assert judged.effect is None
    somewhere = at_end("x", "Somewhere.", above=(0.0,), scale="difference", anywhere=True)
    assert judge(somewhere, rows).verdict == anywhere


def test_one_setting_of_many_that_fails_by_chance_does_not_fail_the_claim() -> None:
    """Alone it fails with p just below 0.05; among ten of which nothing is known its corrected p-value is far above."""
    barely = [-1.0, -1.0, -1.9]
    assert judge(ABOVE_0, runs(barely)).verdict == "fails"
    parts = {f"s{index}": OPEN for index in range(9)} | {"bad": barely}
    judged = judge(ABOVE_0, settings(**parts))
    assert judged.settings[-1].verdict == "fails"
    assert judged.verdict == "inconclusive"
    assert judged.agreement == "0 of 10 settings"


def test_p_values_of_settings_are_corrected_over_the_settings() -> None:
    judged = judge(ABOVE_0, settings(a=YES, b=[0.1, 1.0, 0.5], c=[0.3, 0.4, 0.2]))
    p_values = [one.p or 0.0 for one in judged.settings]
    assert [one.p_holm for one in judged.settings] == pytest.approx(holm(p_values))
    assert judged.p == max(p_values)
    failing = judge(ABOVE_0, settings(a=YES, b=NO))
    assert failing.p == failing.settings[1].p_holm


def test_settings_of_several_columns() -> None:
    claim = at_end("x", "It is above 0.", above=(0.0,), scale="difference", per=("data", "model"))
    rows = pd.DataFrame(
        [*run("a", x=1.0, data="mnist", model="mlp"), *run("b", x=1.0, data="svhn", model="mlp")]
    )
    assert [one.setting for one in judge(claim, rows).settings] == ["mnist, mlp", "svhn, mlp"]


# ---------------------------------------------------------------- claims of one experiment, identities


def test_p_values_of_claims_are_corrected_over_the_findings() -> None:
    rows = runs([0.3, 0.9, 1.4]).assign(y=lambda table: table["x"] - 0.4)
    claims = [
        ABOVE_0,
        at_end("y", "So is y.", above=(0.0,), scale="difference"),
        identity("finite", "It is finite.", {}, {"x": 1e9}),
    ]
    judged = judge_claims(claims, rows, "A paper")
    p_values = [one.p or 0.0 for one in judged[:2]]
    assert [one.p_holm for one in judged] == [*holm(p_values), None]
    assert judged[2].p is None


EXACT = {"x": (1.0, 1e-9)}


@pytest.mark.parametrize(
    ("values", "verdict", "agreement"),
    [
        ([1.0], "holds", "1 of 1"),
        ([1.0, 1.0, 1.0 + 1e-12], "holds", "3 of 3"),
        ([1.0, 1.0, 1.001], "fails", "2 of 3"),
        ([1.0, NAN], "holds", "1 of 1"),
        ([NAN], "inconclusive", "0 of 0"),
    ],
)
def test_an_identity_is_judged_case_by_case(values: list[float], verdict: str, agreement: str) -> None:
    judged = judge(identity("one", "It is 1.", EXACT), runs(values))
    assert (judged.verdict, judged.agreement, judged.kind) == (verdict, agreement, "identity")
    assert judged.effect is None
    assert judged.p is None
    assert judged.readings[0].must == "be 1"


def test_an_identity_in_several_settings_fails_if_it_fails_in_one() -> None:
    one = identity("one", "It is 1.", EXACT, per=("job",))
    assert judge(one, settings(a=[1.0], b=[1.0])).verdict == "holds"
    assert judge(one, settings(a=[1.0], b=[2.0])).verdict == "fails"
    assert judge(one, settings(a=[1.0], b=[NAN])).verdict == "inconclusive"


def test_a_claim_that_asks_nothing_of_any_setting_is_not_tested() -> None:
    def nothing(_rows: pd.DataFrame, _threshold: float) -> list[Number]:
        raise NotAsked("all networks are alike")

    claim = Claim(id="x", statement="They differ.", numbers=nothing, thresholds=(0.0,), per=("model",))
    rows = pd.concat([runs([1.0, 1.1, 0.9]).assign(model=model) for model in ("a", "b")])
    (found,) = judge_claims([claim], rows, paper="", where="")
    assert (found.verdict, found.settings, found.agreement) == ("inconclusive", [], "")
    assert found.notes == ["all networks are alike."]
    assert (found.is_asked, outcome(found)) == (False, "not tested")
