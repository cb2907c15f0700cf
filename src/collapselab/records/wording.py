"""Format judgements as text, from their typed fields only; files, terminal and pages have the same full text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

from collapselab.inference import MIN_SEEDS
from collapselab.records.judgement import Effect, Judgement, Reading, Sensitivity, SettingJudgement
from collapselab.text import counted, number

_SMOKE = "The scale smoke only tests that everything works: claims about networks are not judged."
_NOT_JUDGED, _NOT_TESTED = "not judged", "not tested"
_VERBS = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
}
_MOST_DIGITS = 6
_TINY = 1e-10  # p-values below this are not told apart
_INDENT = 14  # INCONCLUSIVE and two spaces
# How an effect is computed from a number, as the effect says it; back to the number; its unit; the mean of effects.
_SCALES: Mapping[str, tuple[Callable[[float], float], str, str]] = {
    "log10 of 1 + ": (lambda effect: 100 * (10**effect - 1), "%", "mean"),
    "log10 of ": (lambda effect: 10**effect, "", "geometric mean"),
    "Fisher's z of ": (math.tanh, "", "mean"),
    "": (float, "", "mean"),
}


def verdicts_text(judgements: Sequence[Judgement], scale: str = "", width: int = 100) -> str:
    """Return judgements as text: verdict, sentence, where, what was measured.

    Args:
        judgements: in the order in which they are listed.
        scale: scale of the experiment; at `smoke` findings are not judged.
        width: maximum length of a line.
    """
    shared = (
        [note for note in judgements[0].notes if all(note in one.notes for one in judgements)]
        if judgements
        else []
    )
    lines = textwrap.wrap(
        " ".join([summary(judgements, scale), *cautions(judgements, scale), *shared]), width
    )
    for one in judgements:
        own = one.model_copy(update={"notes": [note for note in one.notes if note not in shared]})
        lines += ["", *_wrapped(one.statement, width, outcome(one, scale).upper().ljust(_INDENT))]
        for line in [one.where, *sentences(own, scale)]:
            lines += _wrapped(line, width)
    return "\n".join(lines) + "\n"


def summary(judgements: Sequence[Judgement], scale: str = "") -> str:
    """Count the verdicts: `3 findings: 1 holds, 2 are inconclusive (1 meets its criteria in every seed); 4 of 4 identities hold.`"""
    findings = [one for one in judgements if one.kind == "finding"]
    identities = [one for one in judgements if one.kind == "identity"]
    asked = [one for one in findings if one.is_asked]
    early = [one for one in asked if _lacks_seeds(one)]
    parts = []
    if findings and scale == "smoke":
        early = []
        parts.append(f"{counted(len(findings), 'finding' if identities else 'claim')}, {_NOT_JUDGED}")
    elif findings:
        by_verdict = {
            verdict: [one for one in asked if one.verdict == verdict and one not in early]
            for verdict in _VERBS
        }
        counts = [
            f"{len(ones)} {_VERBS[verdict][len(ones) != 1]}{_pointing(ones)}"
            for verdict, ones in by_verdict.items()
            if ones
        ]
        if early:
            have = "has" if len(early) == 1 else "have"
            is_none = len(early) == len(findings) > 1
            counts.append("none has a verdict yet" if is_none else f"{len(early)} {have} no verdict yet")
        if untested := len(findings) - len(asked):
            counts.append(f"{untested} {'is' if untested == 1 else 'are'} {_NOT_TESTED}")
        noun = "finding" if identities else "claim"
        parts.append(f"{counted(len(findings), noun)}: {', '.join(counts)}")
    if identities:
        held = sum(one.verdict == "holds" for one in identities)
        parts.append(
            f"{held} of {len(identities)} {'identity holds' if len(identities) == 1 else 'identities hold'}"
        )
    text = "; ".join(parts) or "no claims were judged"
    return f"{text[0].upper()}{text[1:]}.{_so_far(early)}"


def outcome(one: SettingJudgement, scale: str = "") -> str:
    """Return the verdict; with too few seeds for one, in how many of them the criteria are met: `met in 1 of 2`."""
    if not one.is_asked:
        return _NOT_TESTED if isinstance(one, Judgement) else "not asked"
    if scale == "smoke" and not (isinstance(one, Judgement) and one.kind == "identity"):
        return _NOT_JUDGED
    if not _lacks_seeds(one):
        return one.verdict
    if isinstance(one, Judgement) and one.settings:
        return "no verdict"
    met, _, count = one.agreement.partition(" of ")
    return "not met" if met == "0" else "met in 1 seed" if count == "1" else f"met in {one.agreement}"


def cautions(judgements: Sequence[Judgement], scale: str = "") -> list[str]:
    """Return sentences about verdicts that are withheld."""
    return [_SMOKE] * (scale == "smoke" and any(one.kind == "finding" for one in judgements))


def sentences(one: SettingJudgement, scale: str = "") -> list[str]:
    """Return sentences about the measured values, the seeds in which the claim holds, void seeds, the interval, and notes."""
    settings = one.settings if isinstance(one, Judgement) else []
    lines = _measured(one)
    if settings:
        lines = [f"Holds in {one.agreement}{_p_value(one)}."]
        for part in settings:
            first, *others = sentences(part, scale)
            lines += [f"{part.setting}: {outcome(part, scale)}. {first}", *others]
    if one.void:
        reasons = {why: [seed for seed in one.void if one.void[seed] == why] for why in one.void.values()}
        lines.append(
            "Void: " + "; ".join(f"{seeds_text(seeds)} ({why})" for why, seeds in reasons.items()) + "."
        )
    is_only = sum(bool(reading.must) for reading in one.readings) == 1
    if one.effect and one.effect.low is not None:
        lines.append(f"{_interval(one.effect, is_only=is_only)}{_p_value(one)}.")
    # With fewer seeds all of these are inconclusive.
    if one.sensitivity and one.effect and len(one.effect.by_seed) >= MIN_SEEDS:
        # The name of the number, where it is that of the only criterion, is left out.
        named = next((reading.what for reading in one.readings if reading.must), "") if is_only else ""
        told = [_with_threshold(other, named) for other in one.sensitivity]
        lines.append(f"With other criteria, the verdict would be: {'; '.join(told)}.")
    return [*lines, *(f"Note: {note.rstrip('.')}." for note in one.notes)]


def _with_threshold(other: Sensitivity, named: str) -> str:
    what = other.what.removeprefix(named).lstrip(", ")
    return f"{other.verdict} ({what})"


def _measured(one: SettingJudgement) -> list[str]:
    """Return one sentence per reading with a criterion, after those without; the last one has the result over all seeds."""
    asked = [_reading(reading, one) for reading in one.readings if reading.must]
    shown = [reading for reading in one.readings if not reading.must]
    if len(asked) > 1 and one.agreement != "0 of 0":
        none = one.agreement.startswith("0 of ")
        asked.append(
            "no seed meets all criteria" if none else f"all criteria are met in {one.agreement} seeds"
        )
    if one.verdict == "inconclusive" and asked and not _lacks_seeds(one):
        asked[-1] += f". Inconclusive because {_why_open(one)}"
    beside = [_beside(shown)] if shown else []
    # Without any seed, notes say it all: no run matched, or what an earlier version measured.
    nothing = [] if beside or asked or (one.notes and not one.void) else ["nothing was measured"]
    return [f"{line[0].upper()}{line[1:]}." for line in [*beside, *asked, *nothing]]


def _beside(shown: Sequence[Reading]) -> str:
    """Format readings without a criterion; list the seeds only once, and what all names begin with."""
    seeds = {tuple(reading.by_seed) for reading in shown}
    heads = {reading.what.rpartition(", ")[0] for reading in shown}
    if len(heads) == 1 and len(shown) > 1:
        shown = [
            shown[0],
            *(one.model_copy(update={"what": one.what.rpartition(", ")[2]}) for one in shown[1:]),
        ]
    if len(seeds) == 1 and any(seeds):
        return "; ".join(map(_values, shown)) + f" ({seeds_text(seeds.pop())})"
    return "; ".join(map(_with_seeds, shown))


def _values(reading: Reading) -> str:
    bound = reading.must.rpartition(" ")[2]
    values = ", ".join(_apart(value, reading.unit, bound) for value in reading.by_seed.values())
    return f"{reading.what}: {values or 'undefined'}"


def _apart(value: float | None, unit: str, bound: str) -> str:
    """Format a value with three digits, with more where it would look like the bound that it differs from."""
    texts = [f"{number(value, digits)}{unit}" for digits in range(3, _MOST_DIGITS + 1)]
    return next((text for text in texts if text != bound), texts[0])


def _with_seeds(reading: Reading) -> str:
    return _values(reading) + (f" ({seeds_text(list(reading.by_seed))})" if reading.by_seed else "")


def _reading(reading: Reading, one: SettingJudgement) -> str:
    count, met = len(set(reading.by_seed) - set(one.void)), len(reading.met)
    where = "met" if met else "not met"
    if count > 1 or one.void:
        where = f"met in {met} of {counted(count, 'seed')}"
    return f"{_with_seeds(reading)}; must {reading.must}" + (f": {where}" if count else "")


def _why_open(one: SettingJudgement) -> str:
    if one.effect is not None and one.effect.by_seed:
        return "the 95% interval includes the threshold"
    valid = {seed for reading in one.readings for seed in reading.by_seed} - set(one.void)
    return "a criterion is undefined in every valid seed" if valid else "every seed is void"


def _lacks_seeds(one: SettingJudgement) -> bool:
    """Whether there is no verdict because a claim, or one of its settings, has fewer seeds than a verdict needs."""
    parts = one.settings if isinstance(one, Judgement) and one.settings else [one]
    few = any(part.effect and 0 < len(part.effect.by_seed) < MIN_SEEDS for part in parts)
    return few and one.verdict == "inconclusive"


def _pointing(judgements: Sequence[Judgement]) -> str:
    """How many inconclusive claims meet their criteria in every valid seed."""
    count = sum(one.verdict == "inconclusive" and _is_pointed_to(one) for one in judgements)
    return f" ({count} {'meets its' if count == 1 else 'meet their'} criteria in every seed)" if count else ""


def _so_far(early: Sequence[Judgement]) -> str:
    """Sentences about claims that have no verdict yet: what a verdict needs, and how many meet their criteria."""
    count = sum(map(_is_pointed_to, early))
    which = f"{count} of these {len(early)} claims {'meets its' if count == 1 else 'meet their'}"
    if count == len(early):
        which = "this claim meets its" if count == 1 else f"all {count} meet their"
    found = f" So far, {which} criteria." if count else ""
    return f" A verdict needs three seeds.{found}" if early else ""


def seeds_text(seeds: Sequence[int]) -> str:
    """`seed 0`, `seeds 0, 1`, `seeds 0-4`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def _interval(effect: Effect, *, is_only: bool) -> str:
    """The interval in the unit of the number itself, whatever the scale of the effect; named unless it is the only one."""
    name = effect.means.removeprefix("minus ")
    scale = next(scale for scale in _SCALES if name.startswith(scale))
    back, unit, kind = _SCALES[scale]
    sign = 1 if name == effect.means else -1
    known = (effect.mean, effect.low, effect.high, effect.threshold)
    mean, *ends, bound = (None if value is None else 0.0 + back(sign * value) for value in known)
    low, high = ends[::sign]
    mean, low, high = (
        _apart(value, unit, "" if _same(value, bound) else f"{number(bound)}{unit}")
        for value in (mean, low, high)
    )
    bound = f"{number(bound)}{unit}"
    what = "over seeds" if is_only else name.removeprefix(scale)
    return f"{what[0].upper()}{what[1:]}: {kind} {mean}, 95% interval {low} to {high}, threshold {bound}"


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-9)


def _p_value(one: SettingJudgement) -> str:
    chances = ["" if p is None else _chance(p) for p in (one.p, one.p_holm)]
    corrected = "" if chances[1] in ("", chances[0]) else f" ({chances[1]} with Holm's correction)"
    return (
        "" if one.p is None else f"; two-sided p {'' if one.p < _TINY else '= '}{_chance(one.p)}{corrected}"
    )


def _chance(p: float) -> str:
    return f"< {_TINY:g}" if p < _TINY else number(p, 2)


def _is_pointed_to(one: SettingJudgement) -> bool:
    """Whether every seed that is not void meets all criteria, in every setting."""
    parts = one.settings if isinstance(one, Judgement) and one.settings else [one]
    asked = [(part, reading) for part in parts for reading in part.readings if reading.must]
    return bool(asked) and all(
        reading.met and set(reading.met) == set(reading.by_seed) - set(part.void) for part, reading in asked
    )


def _wrapped(text: str, width: int, head: str = "") -> list[str]:
    indent = " " * _INDENT
    return textwrap.wrap(
        " ".join(text.split()), width, initial_indent=head or indent, subsequent_indent=indent, break_on_hyphens=False
    )  # fmt: skip
