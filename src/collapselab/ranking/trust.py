"""How far a score can be trusted: on two halves of the samples, beside measured accuracies, at this number of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from collapselab.inference import rank_correlation
from collapselab.ranking.results import Number, RankedModel, ScoreTrust
from collapselab.text import listed, number
from collapselab.transfer.scores import BY_NAME

# A correlation of fewer models says nothing.
LEAST_MODELS = 3
_FEW_MODELS = 6
STABLE = 0.8
# The least rank correlation with measured accuracies, and the most scores that are named.
_PREDICTS, _MOST = 0.5, 3
# The H-score of labels that say nothing is p / (n - 1) of its maximum; above this share, it decides the order.
_CHANCE = 0.1
_DEPENDS_ON_CHANCE = ("h_score", "vci")
_UNIT = ("transrate", "ncti", "within_trace", "between_trace", "total_trace")
# Computed on the samples that it is fitted to.
_FITTED = ("ncc_accuracy", "ncti")
_NCTI_COMPONENTS = 64

# Values of a score by model.
Values = Mapping[str, Number | None]


def direction_of(name: str) -> str:
    """Return which values of a score predict better transfer; `ncti` is combined from three scores."""
    return "larger" if name == "ncti" else BY_NAME[name].direction


def goodness(name: str, value: Number | None) -> float:
    """Return a number that is larger where a score predicts better transfer; -inf without a value."""
    if value is None:
        return -math.inf
    return float(-value if direction_of(name) == "smaller" else value)


def agreement(name: str, values: Values, others: Values, *, same_score: bool) -> float | None:
    """Return the rank correlation over models that have both values; None where it is undefined.

    Args:
        name: of the score that `values` are of.
        values, others: by model.
        same_score: whether `others` are of this score too, else accuracies.
    """
    models = [model for model in values if values[model] is not None and others.get(model) is not None]
    if len(models) < LEAST_MODELS:
        return None
    first = [goodness(name, values[model]) for model in models]
    second = [goodness(name, others[model]) if same_score else float(others[model] or 0) for model in models]
    found = rank_correlation(first, second)
    return None if math.isnan(found) else found


def regret(name: str, values: Values, accuracies: Values) -> float | None:
    """Return the accuracy that is lost by taking the model that a score prefers; None where it prefers none."""
    known = {model: float(value) for model, value in accuracies.items() if value is not None}
    models = [model for model in known if values.get(model) is not None]
    if not models or direction_of(name) == "neither":
        return None
    preferred = max(models, key=lambda model: goodness(name, values[model]))
    return max(known.values()) - known[preferred]


def caveat(name: str, rows: Sequence[RankedModel]) -> str:
    """Return why a score should not be trusted on features of these sizes; empty if it can be."""
    chance = max((row.dim / (row.num_samples - 1) for row in rows), default=0.0)
    most = _NCTI_COMPONENTS if name.startswith("ncti") else math.inf
    few = any(row.num_samples / row.num_classes < min(row.dim, most) for row in rows)
    widths = {row.dim for row in rows}
    if direction_of(name) == "neither":
        return "predicts nothing by itself"
    if name in _DEPENDS_ON_CHANCE and chance >= 1:
        return "needs more samples than features"
    if name in _DEPENDS_ON_CHANCE and chance > _CHANCE and len(widths) > 1:
        return f"favours wide features: up to {chance:.0%} of it is chance"
    if name.startswith(_FITTED) and few:
        return "too good: fewer samples per class than features"
    if name.startswith(_UNIT) and len(widths) > 1:
        return "depends on the width of the features"
    return ""


def mean(values: Sequence[Number | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def advice(
    scores: Mapping[str, ScoreTrust], num_models: int, sizes: Sequence[int], *, is_measured: bool
) -> tuple[str, ...]:
    """Say which scores to trust at this number of samples, and which not.

    Args:
        scores: by name.
        num_models: how many were ranked.
        sizes: numbers of samples, by data set.
        is_measured: whether accuracies were; they need not differ.
    """
    if num_models < LEAST_MODELS:
        return (f"{num_models} models are too few to check the scores; rank at least {LEAST_MODELS}.",)
    at = "At n = " + listed(dict.fromkeys(f"{size:,}" for size in sizes))
    halved = any(trust.stability is not None for trust in scores.values())
    usable = {
        name: trust
        for name, trust in scores.items()
        if not trust.caveat and (not halved or (trust.stability or 0.0) >= STABLE)
    }
    sentences = [_measured(at, scores, usable) if is_measured else _unmeasured(at, scores, usable)]
    if num_models < _FEW_MODELS:
        sentences.append(f"With {num_models} models, rank correlations are rough.")
    for reason, names in _doubts(scores).items():
        sentences.append(f"Do not trust {_and(names)} here: {reason}.")
    unstable = [name for name, trust in scores.items() if not trust.caveat and name not in usable]
    if unstable:
        sentences.append(f"Not stable, or undefined: {', '.join(unstable)}.")
    return tuple(sentences)


def _measured(at: str, scores: Mapping[str, ScoreTrust], usable: Mapping[str, ScoreTrust]) -> str:
    found = {name: trust.correlation for name, trust in scores.items() if trust.correlation is not None}
    if not found:
        return f"{at}, scores and measured accuracies cannot be compared: they are equal or undefined for these models."
    good = sorted((name for name in found if found[name] >= _PREDICTS), key=lambda name: -found[name])
    best = [f"{name} ({number(found[name], 2)})" for name in good if name in usable][:_MOST]
    if best:
        return f"{at}, trust {_and(best)}: rank correlation with accuracy."
    if good:
        return f"{at}, only scores that are unstable or have a caveat predict the measured accuracies: {_and(good[:_MOST])}."
    return f"{at}, no score predicts the measured accuracies of these models."


def _unmeasured(at: str, scores: Mapping[str, ScoreTrust], usable: Mapping[str, ScoreTrust]) -> str:
    found = {name: trust.stability for name, trust in scores.items() if trust.stability is not None}
    if not found:
        return f"{at}, no score can be compared on two halves of the samples: it is equal or undefined for these models."
    if not usable and (stable := [name for name in found if found[name] >= STABLE]):
        return f"{at}, no score can be trusted: those that are stable have a caveat ({', '.join(stable)})."
    if not usable:
        return f"{at}, no score can be trusted: none orders the models alike on two halves of the samples."
    return (
        f"{at}, {_and(list(usable))} {'is' if len(usable) == 1 else 'are'} stable. Whether they predict transfer here is "
        "unknown until a probe measures it."
    )


def _doubts(scores: Mapping[str, ScoreTrust]) -> dict[str, list[str]]:
    """Return the scores that depend on chance, by reason."""
    found: dict[str, list[str]] = {}
    for name in _DEPENDS_ON_CHANCE:
        if name in scores and scores[name].caveat:
            found.setdefault(scores[name].caveat, []).append(name)
    return found


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
