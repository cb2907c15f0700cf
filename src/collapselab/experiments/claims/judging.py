"""Judge claims over seeds and over settings; `docs/experiments.md` describes the rule.

Seeds are the independent samples: layers, steps and sizes of one run are not independent of each other. If the true effect
equals the threshold, a finding holds by chance in 2.5 % of cases. A claim with two criteria (small, and not rising) has an
effect for each: it holds if both hold, and fails if one fails.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import pandas as pd

from collapselab.curves import end_value
from collapselab.experiments.claims.claim import SCALES, Claim, NotAsked, Number, Void
from collapselab.frames import curve, groups, last_layer, numbers, rows_that, rows_where
from collapselab.inference import CONFIDENCE, holm
from collapselab.records.judgement import Effect, Judgement, Reading, Sensitivity, SettingJudgement, Verdict
from collapselab.text import counted, listed, number, words

_ORDER = ("fails", "inconclusive", "holds")
_Judged = TypeVar("_Judged", bound=SettingJudgement)
_BySeed = Mapping[int, Sequence[Number]]


def judge_claims(claims: Sequence[Claim], rows: pd.DataFrame, paper: str, where: str = "") -> list[Judgement]:
    """Judge claims on the rows of an experiment.

    Args:
        claims: claims with unique ids.
        rows: one table of all runs, with a column seed.
        paper: source of the sentences.
        where: section or figure of claims that have none.

    Returns:
        One judgement per claim; p-values are corrected over the findings.
    """
    rows = rows.reset_index(drop=True)  # concatenated tables have duplicate index values
    seeds = sorted({int(seed) for seed in numbers(rows, "seed")})
    return _with_holm(
        [_judge(claim, rows, seeds, {"paper": paper, "where": claim.where or where}) for claim in claims]
    )


def _judge(claim: Claim, rows: pd.DataFrame, seeds: Sequence[int], source: dict[str, str]) -> Judgement:
    parts = list(_settings(claim, rows))
    settings = [_judge_setting(claim, name if len(parts) > 1 else "", part, seeds) for name, part in parts]
    if len(settings) == 1:
        whole = settings.pop()
    elif settings:
        whole = _over_settings(claim, settings := _with_holm(settings))
        settings = settings if whole.agreement else []
    else:
        whole = SettingJudgement(verdict="inconclusive", is_asked=False, notes=[_not_tested(claim)])
    shared = {name: getattr(whole, name) for name in SettingJudgement.model_fields}
    notes = [*whole.notes, *claim.notes]
    own = {name: getattr(claim, name) for name in ("id", "statement", "kind")}
    return Judgement.model_validate(shared | own | source | {"settings": settings, "notes": notes})


def _not_tested(claim: Claim) -> str:
    asked = [f"{words(name)} {pattern}" for name, pattern in (claim.only or {}).items() if name != "arm"]
    arm = f" in the {claim.only['arm']} arm" if claim.only and "arm" in claim.only else ""
    return f"this folder has no runs{arm}{' with ' * bool(asked)}{' and '.join(asked)}."


def _settings(claim: Claim, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, pattern in (claim.only or {}).items():
        rows = rows_that(rows, [fnmatchcase(str(value), pattern) for value in rows[name]])
    names = [name for name in claim.per if name in rows]
    if names:
        for key, part in groups(rows, *names):
            yield ", ".join(map(str, key if isinstance(key, tuple) else (key,))), part
    elif len(rows):
        yield "", rows


def _over_settings(claim: Claim, settings: Sequence[SettingJudgement]) -> SettingJudgement:
    """Judge over the settings that a claim is about; the p-value is the corrected one of the deciding setting, or the largest of all."""
    if not any(one.is_asked for one in settings):
        why = "; ".join(sorted({reason for one in settings for reason in one.void.values()}))
        return SettingJudgement(verdict="inconclusive", is_asked=False, notes=[f"{why}."])
    settings = [one for one in settings if one.is_asked]
    by_all, by_one = ("fails", "holds") if claim.anywhere else ("holds", "fails")
    p_values = [one.p for one in settings if one.p is not None]
    verdict: Verdict = "inconclusive"
    p = max(p_values) if len(p_values) == len(settings) else None
    against = [one.p_holm for one in settings if one.verdict == by_one and one.p_holm is not None]
    least = min(against, default=1.0)
    if all(one.verdict == by_all for one in settings):
        verdict = by_all
    elif claim.kind == "identity" and any(one.verdict == by_one for one in settings):
        verdict = by_one
    elif least < 1 - CONFIDENCE:
        verdict, p = by_one, least
    agreement = f"{sum(one.verdict == 'holds' for one in settings)} of {counted(len(settings), 'setting')}"
    return SettingJudgement(verdict=verdict, p=p, agreement=agreement)


# ---------------------------------------------------------------- one setting


def _judge_setting(claim: Claim, name: str, part: pd.DataFrame, seeds: Sequence[int]) -> SettingJudgement:
    void: dict[int, str] = {}
    not_asked: set[int] = set()
    measured: dict[int, Sequence[Number]] = {}
    own = {seed: rows_where(part, seed=seed) for seed in seeds}
    for seed, rows in own.items():
        reason = _why_void(claim, rows, part)
        try:
            # A void run may still have numbers to show.
            measured[seed] = claim.numbers(claim.rows(rows), claim.thresholds[0]) if len(rows) else ()
            unknown = [one.why or one.undefined for one in _asked(measured[seed]) if math.isnan(one.score)]
            # One of several numbers can be enough to fail.
            if unknown and (claim.kind == "identity" or len(unknown) == len(_asked(measured[seed]))):
                reason = reason or unknown[0]
        except Void as why:
            reason = reason or str(why)
            not_asked |= {seed} if isinstance(why, NotAsked) else set()
        if reason:
            void[seed] = reason
    valid = {seed: one for seed, one in measured.items() if seed not in void}
    is_identity = claim.kind == "identity"
    values: dict[str, Any] = {"verdict": _identity(valid)} if is_identity else _finding(claim, valid, own)
    values |= {
        "readings": _readings(measured, valid),
        "agreement": _agreement(valid),
        "notes": _remarks(valid),
    }
    is_asked = not_asked != set(seeds)
    return SettingJudgement(setting=name, void=void, is_asked=is_asked, **values)


def _asked(own: Sequence[Number]) -> list[Number]:
    return [one for one in own if one.must]


def _finding(claim: Claim, valid: _BySeed, own: Mapping[int, pd.DataFrame]) -> dict[str, Any]:
    effect = _weakest(valid)
    if effect is None:
        return {"verdict": "inconclusive"}
    sensitivity = []
    for at in claim.thresholds[1:]:
        there = {seed: claim.numbers(claim.rows(own[seed]), at) for seed in valid}
        first, weakest = _asked(next(iter(there.values())))[0], _weakest(there)
        assert weakest is not None, "it has the same numbers"
        what = f"{first.what}{',' * (',' in first.what)} must {first.must}"
        sensitivity.append(Sensitivity(what=what, threshold=at, verdict=weakest.verdict))
    return {"verdict": effect.verdict, "effect": effect, "p": effect.p, "sensitivity": sensitivity}


def _weakest(valid: _BySeed) -> Effect | None:
    """Return the effect that decides, of those of every number with a bound.

    This is the one that fails with the smallest p-value, or else an inconclusive one, or else the one that holds with the
    largest p-value.
    """

    def rank(one: Effect) -> tuple[int, float]:
        verdict, p = one.verdict, one.p
        doubt = 1.0 if p is None else p  # one that cannot be tested is the least sure
        return _ORDER.index(verdict), doubt if verdict == "fails" else -doubt

    columns = zip(*map(_asked, valid.values()), strict=True)
    return min((_effect(dict(zip(valid, column, strict=True))) for column in columns), key=rank, default=None)


def _effect(column: Mapping[int, Number]) -> Effect:
    one = next(iter(column.values()))
    unit, means = SCALES["difference" if one.near else one.scale]
    by_seed = {seed: one.score for seed, one in column.items() if not math.isnan(one.score)}
    what = f"distance from {number(one.near[0])} of {one.what}" if one.near else one.what
    means = f"{'minus ' if one.above is None else ''}{means}{what}"
    return Effect.over_seeds(by_seed, means=means, unit=unit, threshold=one.bar)


def _agreement(valid: _BySeed) -> str:
    """Count the seeds that meet all criteria, among those for which this is known."""
    met = [all(one.is_met for one in _asked(own)) for own in valid.values()]
    unmet = [any(one.score <= one.bar for one in _asked(own)) for own in valid.values()]
    return f"{sum(met)} of {sum(met) + sum(unmet)}"


def _identity(valid: _BySeed) -> Verdict:
    met = [all(one.is_met for one in _asked(own)) for own in valid.values()]
    return "inconclusive" if not met else "holds" if all(met) else "fails"


def _why_void(claim: Claim, rows: pd.DataFrame, part: pd.DataFrame) -> str | None:
    """Return why a seed has no effect: a run is missing, diverged or did not fit its train set; None if it has one."""
    if rows.empty:
        return "the run is missing"
    if claim.runs not in rows:
        return _why_run_void(claim, rows)
    if missing := set(part[claim.runs]) - set(rows[claim.runs]):
        return f"missing runs: {listed(sorted({str(name) for name in missing}), 6)}"
    reasons = {str(name): _why_run_void(claim, run) for name, run in groups(rows, claim.runs)}
    found = [
        reason if len(reasons) == 1 else f"{name}: {reason}" for name, reason in reasons.items() if reason
    ]
    return "; ".join(found) or None


def _why_run_void(claim: Claim, run: pd.DataFrame) -> str | None:
    if "ended" in run and (run["ended"] == "diverged").any():
        return "diverged"
    if claim.fitted is None:
        return None
    accuracy = end_value(curve(last_layer(run), "train_accuracy")[1])
    if math.isnan(accuracy):
        return "train accuracy at the end is undefined"
    return None if accuracy >= claim.fitted else f"train accuracy {number(accuracy, 4)} < {claim.fitted:g}"


def _readings(measured: _BySeed, valid: _BySeed) -> list[Reading]:
    """Return one reading per number, in the order of the claim."""
    by_name: dict[str, dict[int, Number]] = {}
    for seed, own in measured.items():
        for one in own:
            by_name.setdefault(one.what, {})[seed] = one
    out = []
    for what, by_seed in by_name.items():
        first = next(iter(by_seed.values()))
        known = {seed: one.value for seed, one in by_seed.items() if math.isfinite(one.value)}
        met = [seed for seed, one in by_seed.items() if one.must and one.is_met and seed in valid]
        out.append(Reading(what=what, by_seed=known, must=first.must, met=met, unit=first.unit))
    return out


def _remarks(valid: _BySeed) -> list[str]:
    unknown = [one.undefined for own in valid.values() for one in _asked(own) if math.isnan(one.score)]
    said = Counter([one.remark for own in valid.values() for one in own if one.remark] + unknown)
    return [f"{remark} ({count} of {counted(len(valid), 'seed')})" for remark, count in said.items()]


def _with_holm(judged: list[_Judged]) -> list[_Judged]:
    """Add p-values corrected over all judgements that have one; identities have none."""
    places = [place for place, one in enumerate(judged) if one.p is not None]
    corrected = dict(zip(places, holm([judged[place].p or 0.0 for place in places]), strict=True))
    return [one.model_copy(update={"p_holm": corrected.get(place)}) for place, one in enumerate(judged)]
