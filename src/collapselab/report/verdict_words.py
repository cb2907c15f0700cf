"""Verdicts in words: what was measured, short enough to be read, and the same for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from collapselab.report.figures import number

_SMOKE = "scale smoke shows that everything works: its verdicts say nothing about the paper"
_WIDTH = 100
_INDENT = 14  # INCONCLUSIVE and two spaces
_EVIDENCE_LINES = 2
# Evidence that every judgement over seeds has; see `collapselab.experiments.claims.evidence`.
_SUMMARIES = ("mean", "95 % interval", "sign test p", "permutation p")
_EFFECT, _THRESHOLD, _BY_SEED = "effect", "threshold", "by seed"


def verdicts_text(verdicts: Sequence[dict[str, Any]], scale: str = "") -> str:
    """The verdicts for a terminal or a file, at most 100 columns wide: outcome, sentence, where, what was measured.

    Args:
        verdicts: as `judge_all` gives them.
        scale: of the experiment's preset; verdicts of `smoke` mean nothing, and that is said.
    """
    lines = [f"{counted(verdicts).capitalize()}."] if verdicts else ["No claims were judged."]
    lines += textwrap.wrap(cautions(verdicts, scale), _WIDTH)
    for verdict in verdicts:
        head = verdict["verdict"].upper().ljust(_INDENT)
        lines += ["", *_wrapped(verdict["statement"], head), *_wrapped(verdict["where"])]
        lines += _wrapped(f"Measured: {in_words(verdict['evidence'], brief=True)}", most=_EVIDENCE_LINES)
    return "\n".join(lines) + "\n"


def counted(verdicts: Sequence[dict[str, Any]]) -> str:
    """`of 3 claims, 2 hold, 1 fails`."""
    verbs = {
        "holds": ("holds", "hold"),
        "fails": ("fails", "fail"),
        "inconclusive": ("is inconclusive", "are inconclusive"),
    }
    counts = {outcome: sum(verdict["verdict"] == outcome for verdict in verdicts) for outcome in verbs}
    said = [f"{count} {verbs[outcome][count != 1]}" for outcome, count in counts.items() if count]
    return f"of {len(verdicts)} claim{'s' if len(verdicts) != 1 else ''}, {', '.join(said)}"


def cautions(verdicts: Sequence[dict[str, Any]], scale: str = "") -> str:
    """What keeps a reader from taking verdicts for more than they are: sentences, or nothing."""
    said = [_SMOKE] if scale == "smoke" and verdicts else []
    said += dict.fromkeys(note for verdict in verdicts for note in _notes(verdict["evidence"]))
    return " ".join(f"{one[0].upper()}{one[1:].rstrip('.')}." for one in said)


def _notes(evidence: Any) -> list[str]:
    if not isinstance(evidence, Mapping):
        return []
    own = [str(evidence["note"])] if "note" in evidence else []
    return own + [note for part in evidence.values() for note in _notes(part)]


def in_words(evidence: Any, *, brief: bool = False) -> str:
    """Evidence as text, numbers to three digits.

    A judgement over seeds is told by its effects, and one over several settings setting by setting; of anything else,
    all is said, what is nested in brackets behind its name.

    Args:
        evidence: as in a verdict.
        brief: of several settings, only those where the claim does not hold, or the one where it holds least.
    """
    if not isinstance(evidence, Mapping):
        return _value(evidence)
    if _is_judgement(evidence):
        return _judgement(evidence, brief)
    nested = {
        str(name): part
        for name, part in evidence.items()
        if isinstance(part, Mapping) and _is_judgement(part)
    }
    if not nested or len(nested) + ("reason" in evidence) + ("train accuracy" in evidence) < len(evidence):
        return "; ".join(f"{_name(key)}: {_value(part)}" for key, part in evidence.items()) or "nothing"
    if len(nested) == 1:
        said = [f"{name}: {_judgement(part, brief)}" for name, part in nested.items()]
    else:
        said = _settings(nested, brief)
    return "; ".join(([str(evidence["reason"])] if "reason" in evidence else []) + said)


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Everything inside by the names on the way to it; lists as text."""
    if isinstance(value, Mapping):
        return [
            pair
            for key, item in value.items()
            for pair in flat(item, f"{name}, {_name(key)}" if name else _name(key))
        ]
    if isinstance(value, (list, tuple)) or value is None or is_flag(value):
        return [(name, _value(value))]
    if isinstance(value, float) and not math.isfinite(value):
        return [(name, "undefined")]
    return [(name, value)]


def is_flag(value: Any) -> bool:
    """Python's or numpy's true or false."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


# ---------------------------------------------------------------- judgements over seeds


def _is_judgement(evidence: Mapping[Any, Any]) -> bool:
    return {_EFFECT, _THRESHOLD, _BY_SEED} <= set(evidence) or set(evidence) - {"verdict"} == {"reason"}


def _judgement(evidence: Mapping[Any, Any], brief: bool) -> str:
    """The effects of one judgement, what they must exceed and what they are."""
    reason = [str(evidence["reason"])] if "reason" in evidence else []
    if _EFFECT not in evidence:
        return reason[0]
    said = [f"{_effects(evidence)}, to exceed {number(evidence[_THRESHOLD])}: {evidence[_EFFECT]}"]
    if not brief:
        more = [
            name for name in ("mean", "95 % interval", "sign test p", "permutation p") if name in evidence
        ]
        said += [f"{name} {_value(evidence[name], deep=True)}" for name in more]
    return "; ".join(reason + said)


def _effects(evidence: Mapping[Any, Any]) -> str:
    values = list(evidence[_BY_SEED].values())
    return ", ".join(map(_value, values)) + (" by seed" if len(values) > 1 else "")


def _settings(parts: Mapping[str, Mapping[Any, Any]], brief: bool) -> list[str]:
    """Setting by setting, those that do not hold first; what the numbers mean once where it is the same in all."""
    judged = {name: part for name, part in parts.items() if _EFFECT in part}
    open_ = [name for name, part in parts.items() if part.get("verdict") != "holds"]
    said = [f"holds in {len(parts) - len(open_)} of {len(parts)}"]
    shown = open_ + [name for name in parts if name not in open_]
    if brief:
        shown = open_ or sorted(judged, key=lambda name: _least(judged[name]))[:1]
    for name in shown:
        part = parts[name]
        what = _effects(part) if _EFFECT in part else str(part["reason"])
        outcome = f"{part['verdict']} in " if name in open_ else "least in " if brief else ""
        said.append(f"{outcome}{name} ({what})")
    for meaning, threshold in dict.fromkeys((part[_EFFECT], part[_THRESHOLD]) for part in judged.values()):
        said.append(f"to exceed {number(threshold)}: {meaning}")
    return said


def _least(evidence: Mapping[Any, Any]) -> float:
    return min((value for value in evidence[_BY_SEED].values() if value is not None), default=math.inf)


# ---------------------------------------------------------------- anything


def _value(value: Any, deep: bool = False) -> str:
    if isinstance(value, Mapping):
        said = ", ".join(
            f"{_name(name)} ({_value(item, True)})"
            if isinstance(item, Mapping)
            else f"{_name(name)} {_value(item, True)}"
            for name, item in value.items()
        )
        return said or "nothing"
    if isinstance(value, (list, tuple)):
        return (" / " if deep else ", ").join(_value(item, True) for item in value) or "nothing"
    if value is None:
        return "undefined"
    if is_flag(value):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def _name(key: object) -> str:
    return str(key).replace("_", " ")


def _wrapped(text: str, head: str = "", most: int | None = None) -> list[str]:
    """Lines behind the outcome; what does not fit into `most` of them is in verdicts.json."""
    wrapper = textwrap.TextWrapper(
        _WIDTH,
        initial_indent=head or " " * _INDENT,
        subsequent_indent=" " * _INDENT,
        max_lines=most,
        break_on_hyphens=False,
        placeholder=" … (verdicts.json has all)",
    )
    return wrapper.wrap(" ".join(text.split()))
