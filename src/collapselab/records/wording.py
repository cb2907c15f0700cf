"""Format judgements as text, from their typed fields only; files, terminal and pages have the same full text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from collapselab.inference import MIN_SEEDS
from collapselab.records.judgement import Effect, Judgement, Reading, SettingJudgement
from collapselab.text import counted, number

_SMOKE = "The scale smoke only tests that everything works: its verdicts say nothing about the paper."
_FEW_SEEDS = "With fewer than three seeds, a finding is always inconclusive."
_VERBS = {
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
}
_INDENT = 14  # INCONCLUSIVE and two spaces


def verdicts_text(judgements: Sequence[Judgement], scale: str = "", width: int = 100) -> str:
    """Return judgements as text: verdict, sentence, where, what was measured.

    Args:
        judgements: in the order in which they are listed.
        scale: scale of the experiment; for `smoke` the text says that verdicts mean nothing.
        width: maximum length of a line.
    """
    shared = (
        [note for note in judgements[0].notes if all(note in one.notes for one in judgements)]
        if judgements
        else []
    )
    lines = textwrap.wrap(" ".join([summary(judgements), *cautions(judgements, scale), *shared]), width)
    for one in judgements:
        own = one.model_copy(update={"notes": [note for note in one.notes if note not in shared]})
        lines += ["", *_wrapped(one.statement, width, one.verdict.upper().ljust(_INDENT))]
        for line in [one.where, *sentences(own)]:
            lines += _wrapped(line, width)
    return "\n".join(lines) + "\n"


def summary(judgements: Sequence[Judgement]) -> str:
    """Count the verdicts: `5 findings: 1 holds, 4 are inconclusive (3 are met in every valid seed); 4 of 4 identities hold.`"""
    findings = [one for one in judgements if one.kind == "finding"]
    identities = [one for one in judgements if one.kind == "identity"]
    parts = []
    if findings:
        counts = {verdict: sum(one.verdict == verdict for one in findings) for verdict in _VERBS}
        said = [f"{count} {_VERBS[verdict][count != 1]}" for verdict, count in counts.items() if count]
        towards = sum(one.verdict == "inconclusive" and _is_pointed_to(one) for one in findings)
        pointing = f" ({towards} {'are' if towards > 1 else 'is'} met in every valid seed)" if towards else ""
        parts.append(f"{counted(len(findings), 'finding')}: {', '.join(said)}{pointing}")
    if identities:
        held = sum(one.verdict == "holds" for one in identities)
        parts.append(
            f"{held} of {len(identities)} {'identity holds' if len(identities) == 1 else 'identities hold'}"
        )
    text = "; ".join(parts) or "no claims were judged"
    return f"{text[0].upper()}{text[1:]}."


def cautions(judgements: Sequence[Judgement], scale: str = "") -> list[str]:
    """Return warnings about verdicts that mean less than they seem to."""
    effects = [part.effect for one in judgements for part in one.settings or [one] if part.effect]
    few = any(0 < len(effect.by_seed) < MIN_SEEDS for effect in effects)
    return [_SMOKE] * (scale == "smoke" and bool(judgements)) + [_FEW_SEEDS] * few


def sentences(one: SettingJudgement) -> list[str]:
    """Return sentences about the measured values, the seeds in which the claim holds, void seeds, the interval, and notes."""
    settings = one.settings if isinstance(one, Judgement) else []
    lines = _measured(one)
    if settings:
        lines = [f"Holds in {one.agreement}{_p_value(one)}."]
        for part in settings:
            first, *others = sentences(part)
            lines += [f"{part.setting}: {part.verdict}. {first}", *others]
    if one.void:
        reasons = {why: [seed for seed in one.void if one.void[seed] == why] for why in one.void.values()}
        lines.append("Void: " + "; ".join(f"{_seeds(seeds)} ({why})" for why, seeds in reasons.items()) + ".")
    if one.effect and one.effect.low is not None:
        lines.append(f"{_interval(one.effect)}{_p_value(one)}.")
    # With fewer seeds all of these are inconclusive.
    if one.sensitivity and one.effect and len(one.effect.by_seed) >= MIN_SEEDS:
        lines.append(
            "With other thresholds: "
            + "; ".join(f"{other.what}: {other.verdict}" for other in one.sensitivity)
            + "."
        )
    return [*lines, *(f"Note: {note.rstrip('.')}." for note in one.notes)]


def _measured(one: SettingJudgement) -> list[str]:
    """Return one sentence per reading with a criterion, after those without; the last one has the result over all seeds."""
    asked = [_reading(reading, one) for reading in one.readings if reading.must]
    shown = [reading for reading in one.readings if not reading.must]
    if len(asked) > 1 and one.agreement != "0 of 0":
        asked.append(f"all criteria hold in {one.agreement} seeds")
    if one.verdict == "inconclusive" and asked:
        asked[-1] += f"; {_why_open(one)}"
    beside = [_beside(shown)] if shown else []
    # Without any seed, notes say it all: no run matched, or what an earlier version measured.
    nothing = [] if beside or asked or (one.notes and not one.void) else ["nothing was measured"]
    return [f"{line[0].upper()}{line[1:]}." for line in [*beside, *asked, *nothing]]


def _beside(shown: Sequence[Reading]) -> str:
    """Format readings without a criterion; list the seeds only once if they are the same."""
    seeds = {tuple(reading.by_seed) for reading in shown}
    if len(seeds) == 1 and any(seeds):
        return "; ".join(map(_values, shown)) + f" ({_seeds(seeds.pop())})"
    return "; ".join(map(_with_seeds, shown))


def _values(reading: Reading) -> str:
    values = ", ".join(f"{number(value)}{reading.unit}" for value in reading.by_seed.values())
    return f"{reading.what}: {values or 'undefined'}"


def _with_seeds(reading: Reading) -> str:
    return _values(reading) + (f" ({_seeds(list(reading.by_seed))})" if reading.by_seed else "")


def _reading(reading: Reading, one: SettingJudgement) -> str:
    count, met = len(set(reading.by_seed) - set(one.void)), len(reading.met)
    outcome = (
        f"holds in {met} of {counted(count, 'seed')}"
        if met
        else f"fails in {count} of {counted(count, 'seed')}"
    )
    return f"{_with_seeds(reading)}; must {reading.must}" + (f": {outcome}" if count else "")


def _why_open(one: SettingJudgement) -> str:
    count = len(one.effect.by_seed) if one.effect else 0
    if not count:
        return "inconclusive: no valid seed"
    reason = "" if count < MIN_SEEDS else ": the 95% interval includes the threshold"
    return f"inconclusive with {counted(count, 'seed')}{reason}"


def _seeds(seeds: Sequence[int]) -> str:
    """`seed 0`, `seeds 0, 1`, `seeds 0-4`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def _interval(effect: Effect) -> str:
    mean, low, high = (number(value) for value in (effect.mean, effect.low, effect.high))
    means = f"{effect.means[0].upper()}{effect.means[1:]}"
    return f"{means}: mean {mean}, 95% interval {low} to {high}, threshold {number(effect.threshold)}"


def _p_value(one: SettingJudgement) -> str:
    corrected = "" if one.p_holm is None else f" ({number(one.p_holm, 2)} by Holm's correction)"
    return "" if one.p is None else f"; p = {number(one.p, 2)}{corrected}"


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
