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
# The H-score of labels that say nothing is p / (n - 1) of its maximum; above this share, it decides the order.
_CHANCE = 0.1
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
    if name in ("h_score", "vci") and chance >= 1:
        return "says nothing: needs more samples than features"
    if name in ("h_score", "vci") and chance > _CHANCE and len(widths) > 1:
        return f"favours wide features: up to {chance:.0%} of it is chance"
    if name.startswith(_FITTED) and few:
        return "too good: fewer samples per class than features"
    if name.startswith(_UNIT) and len(widths) > 1:
        return "depends on the width of the features"
    return ""


def mean(values: Sequence[Number | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def advice(scores: Mapping[str, ScoreTrust], num_models: int, sizes: Sequence[int]) -> tuple[str, ...]:
    """Say which scores to trust at this number of samples, and which not.

    Args:
        scores: by name.
        num_models: how many were ranked.
        sizes: numbers of samples, by data set.
    """
    at = "n = " + listed(dict.fromkeys(f"{size:,}" for size in sizes))
    if num_models < LEAST_MODELS:
        return (f"{num_models} models are too few to check the scores; rank at least {LEAST_MODELS}.",)
    stable = {
        name: trust
        for name, trust in scores.items()
        if not trust.caveat and (trust.stability is None or trust.stability >= STABLE)
    }
    best = sorted(stable, key=lambda name: -_strength(stable[name]))[:3]
    if not best:
        return (
            f"At {at}, no score can be trusted: none orders the models alike on two halves of the samples.",
        )
    reasons = [f"{name} ({_reason(scores[name])})" for name in best]
    sentences = [f"At {at}, trust {_and(reasons)}."]
    if num_models < _FEW_MODELS:
        sentences.append(f"With {num_models} models, these correlations are rough.")
    doubtful = [
        f"{name}: {trust.caveat}"
        for name, trust in scores.items()
        if trust.caveat and name in ("h_score", "vci")
    ]
    unstable = [name for name, trust in scores.items() if not trust.caveat and name not in stable]
    if doubtful:
        sentences.append(f"Do not trust {'; '.join(doubtful)}.")
    if unstable:
        sentences.append(f"Unstable over two halves of the samples: {', '.join(unstable)}.")
    return tuple(sentences)


def _strength(trust: ScoreTrust) -> float:
    return float(trust.stability or 0.0 if trust.correlation is None else 10 + trust.correlation)


def _reason(trust: ScoreTrust) -> str:
    parts = [] if trust.correlation is None else [f"correlation with accuracy {number(trust.correlation, 2)}"]
    parts += [] if trust.stability is None else [f"stability {number(trust.stability, 2)}"]
    return ", ".join(parts) or "nothing speaks against it"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
