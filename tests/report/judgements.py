"""Judgements as `judge_claims` leaves them, with numbers that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from collapselab.inference import student_interval
from collapselab.records.judgement import Effect, Judgement, Reading, SettingJudgement, Verdict


def setting(
    values: Sequence[float],
    *,
    bound: float = 0.1,
    verdict: str = "inconclusive",
    void: Mapping[int, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A setting in which a train variance must be below a bound; seeds with a reason are void."""
    void = void or {}
    valid = {seed: -float(np.log10(value)) for seed, value in enumerate(values) if seed not in void}
    mean, low, high = (
        (float(one) for one in student_interval(list(valid.values()))) if len(valid) > 1 else (None,) * 3
    )
    met = [seed for seed in valid if values[seed] < bound]
    reading = Reading(
        what="train variance at the end", by_seed=dict(enumerate(values)), must=f"be below {bound:g}", met=met
    )
    effect = Effect(
        means="minus log10 of train variance at the end", unit="decades", threshold=-float(np.log10(bound)), mean=mean,
        low=low, high=high, by_seed=valid,
    )  # fmt: skip
    return {
        "verdict": verdict, "readings": [reading], "effect": effect, "agreement": f"{len(met)} of {len(valid)}", "void": void,
    } | more  # fmt: skip


def finding(values: Sequence[float] = (0.02, 0.025, 0.018), **more: Any) -> Judgement:
    head = {"id": "vanishes", "paper": "Hui, Belkin, Nakkiran (2022)", "where": "Fig. 3, sec. 3.3"}
    head |= {"statement": more.pop("statement", "Train variance converges to 0.")}
    return Judgement.model_validate(setting(values, **more) | head)


def over_settings(settings: Mapping[str, dict[str, Any]], verdict: Verdict, agreement: str) -> Judgement:
    parts = [SettingJudgement.model_validate(own | {"setting": name}) for name, own in settings.items()]
    return Judgement(
        id="everywhere", paper="A paper", where="Fig. 2", statement="It is so everywhere.", verdict=verdict, agreement=agreement,
        settings=parts, p=0.04, p_holm=0.08,
    )  # fmt: skip


def identity(met: Sequence[int], seeds: Sequence[int], statement: str = "Two and two are four.") -> Judgement:
    reading = Reading(what="sum", by_seed={seed: 4.0 for seed in seeds}, must="be 4", met=list(met))
    verdict = "holds" if set(met) == set(seeds) else "fails"
    return Judgement(
        id="sum", paper="A paper", where="Sec. 2", statement=statement, kind="identity", verdict=verdict, readings=[reading],
        agreement=f"{len(met)} of {len(seeds)}",
    )  # fmt: skip
