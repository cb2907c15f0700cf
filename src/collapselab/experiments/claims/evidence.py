"""How a claim is judged over seeds.

Each seed gives one number, the effect, larger where the claim is more true, and the claim says which value it must exceed.
Seeds are the unit of chance: layers, steps and sizes of one run are not independent of each other.

- *holds*: every seed is above the threshold, and with three seeds or more so is the 95 % bootstrap interval of their mean
  (which then follows: a mean of numbers above a threshold is above it; it is stored to be read).
- *fails*: every seed is at or below it.
- *inconclusive*: seeds disagree, or one of them has no effect (not measured, not a number).

How much that is worth stands in the evidence beside it, since an outcome alone does not say:

- Where effects fall on either side by chance, n seeds are all on one given side with probability 2^-n: 1/2 for one seed,
  1/8 for three. With fewer than six no two-sided sign test reaches p < 0.05. One or two seeds can hold a claim, because a
  run of the paper's own kind must be sayable, but the evidence then carries a note of this.
- The interval is a percentile one. Of few values it is too short: of three it is their range, and covers the mean of
  normal effects in 0.67 of cases, of five in 0.84, of seven in 0.88 (by simulation). It describes, it does not decide.
- The sign test is two-sided; an effect at the threshold itself has no sign and is left out of it (not of the verdict), and
  the evidence says how many. The permutation test is one-sided, towards the claim. It takes the points of one seed for
  exchangeable, which separate trainings are; checkpoints of one training are not quite, and its p-value is then too small.

Nothing is dropped silently.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from collapselab.experiments.claims.claim import Outcome, Verdict

_Values = npt.NDArray[np.float64]
_CONFIDENCE = 0.95
# Up to these, all resamples of seeds and all orders within seeds are counted; beyond, they are drawn.
_MOST_SEEDS = 7
_MOST_ORDERS = 50_000
_FEW = 3
_DRAWN = 20_000
_PERMUTATIONS = 20_000
# Orders that tie with the observed one must not fall below it by rounding.
_ROUNDING = 1e-9


def over_seeds(effects: Mapping[int, float | None], threshold: float, meaning: str, **more: Any) -> Verdict:
    """A verdict from one effect per seed.

    Args:
        effects: by seed; None or NaN where there is none.
        threshold: what an effect must exceed.
        meaning: of an effect, in words.
        more: further evidence, plain values.
    """
    held = {seed: _plain(value) for seed, value in sorted(effects.items())}
    known = [value for value in held.values() if value is not None]
    outcome: Outcome
    if not held or len(known) < len(held):
        outcome = "inconclusive"
    elif all(value > threshold for value in known):
        outcome = "holds"
    elif all(value <= threshold for value in known):
        outcome = "fails"
    else:
        outcome = "inconclusive"
    evidence: dict[str, Any] = {
        "effect": meaning,
        "threshold": threshold,
        "by seed": {f"seed {seed}": value for seed, value in held.items()},
        "seeds": len(held),
    }
    if len(known) < len(held):
        evidence["seeds without an effect"] = [seed for seed, value in held.items() if value is None]
    if len(known) > 1:
        low, high = bootstrap_interval(known)
        evidence |= {"mean": float(np.mean(known)), "95 % interval": [low, high]}
        evidence["sign test p"] = sign_test([value - threshold for value in known])
        if ties := sum(value == threshold for value in known):
            evidence["seeds at the threshold, without a sign"] = ties
    if outcome != "inconclusive" and len(known) < _FEW:
        evidence["note"] = (
            f"{len(known)} seed{'s' if len(known) > 1 else ''}: an interval says nothing, this rests on agreement, which "
            f"chance alone gives with probability {0.5 ** len(known):g}"
        )
    return Verdict(outcome, evidence | more)


def all_hold(parts: Mapping[str, Verdict]) -> Verdict:
    """One verdict over settings that a claim speaks of together: it holds if it holds in each, fails if it fails in any.

    Args:
        parts: by setting; none at all is inconclusive.
    """
    outcomes = [part.outcome for part in parts.values()]
    outcome: Outcome = "inconclusive"
    if "fails" in outcomes:
        outcome = "fails"
    elif outcomes and all(one == "holds" for one in outcomes):
        outcome = "holds"
    evidence = {
        name: {"verdict": part.outcome} | part.evidence if len(parts) > 1 else part.evidence
        for name, part in parts.items()
    }
    return Verdict(outcome, evidence)


def inconclusive(reason: str) -> Verdict:
    """Where the rows cannot tell."""
    return Verdict("inconclusive", {"reason": reason})


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over resampled values: of all resamples up to seven values, drawn beyond."""
    # In order, so that which seed had which value does not matter to what is drawn.
    data = np.sort(np.asarray(values, dtype=np.float64))
    count = len(data)
    if count <= _MOST_SEEDS:
        # Resamples with the same values have the same mean: one of them stands for all its orders.
        kinds = list(itertools.combinations_with_replacement(range(count), count))
        orders = [
            math.factorial(count) // math.prod(map(math.factorial, Counter(kind).values())) for kind in kinds
        ]
        means = np.repeat(data[np.array(kinds)].mean(axis=1), orders)
    else:
        means = data[np.random.default_rng(seed).integers(count, size=(_DRAWN, count))].mean(axis=1)
    edge = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)


def sign_test(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of as many positive differences by fair coins; zeros are left out, None of nothing else."""
    signs = [value > 0 for value in differences if value != 0]
    if not signs:
        return None
    fewer = min(sum(signs), len(signs) - sum(signs))
    tail = sum(math.comb(len(signs), k) for k in range(fewer + 1)) / 2 ** len(signs)
    return min(1.0, 2 * tail)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's: Pearson's correlation of average ranks. None where either is constant or has fewer than two values."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values for {len(y)}")
    if len(x) < 2:
        return None
    a, b = (_ranks(np.asarray(values, dtype=np.float64)) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 0 else None


def permutation_p(groups: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> float | None:
    """One-sided p-value of the mean rank correlation over groups, when y is shuffled within each.

    Groups are seeds: values of different seeds are never exchanged. All orders are counted where there are up to 50,000,
    else 20,000 are drawn, with the one observed counted in.

    Args:
        groups: (x, y) of each.
    """
    observed = [rank_correlation(x, y) for x, y in groups]
    if not observed or any(value is None for value in observed):
        return None
    total = sum(value for value in observed if value is not None)
    ranked = [tuple(_standard(_ranks(np.asarray(one, dtype=np.float64))) for one in pair) for pair in groups]
    if math.prod(math.factorial(len(a)) for a, _ in ranked) <= _MOST_ORDERS:
        sums = np.zeros(1)
        for a, b in ranked:
            orders = np.array(list(itertools.permutations(b)))
            sums = np.add.outer(sums, orders @ a).ravel()
        return float((sums >= total - _ROUNDING).mean())
    generator = np.random.default_rng(seed)
    shuffled = np.zeros(_PERMUTATIONS)
    for a, b in ranked:
        shuffled += generator.permuted(np.tile(b, (_PERMUTATIONS, 1)), axis=1) @ a
    return float((1 + (shuffled >= total - _ROUNDING).sum()) / (1 + _PERMUTATIONS))


def correlated(
    by_seed: Mapping[int, tuple[Sequence[float], Sequence[float]]],
    meaning: str,
    sign: Callable[[float], float],
) -> Verdict:
    """Whether the rank correlation of x and y has one sign in every seed.

    Args:
        by_seed: (x, y); fewer than three distinct x are too few to speak of a correlation.
        meaning: of a positive effect, in words.
        sign: turns a correlation into an effect.
    """
    if any(len(set(x)) < 3 for x, _ in by_seed.values()):
        return inconclusive("fewer than three different values to correlate over")
    effects = {}
    for seed, (x, y) in by_seed.items():
        found = None if any(_plain(value) is None for value in (*x, *y)) else rank_correlation(x, y)
        effects[seed] = None if found is None else sign(found)
    towards = sign(1.0)
    groups = [(x, [towards * value for value in y]) for x, y in by_seed.values()]
    known = all(value is not None for value in effects.values())
    return over_seeds(effects, 0.0, meaning, **{"permutation p": permutation_p(groups) if known else None})


def _ranks(values: _Values) -> _Values:
    """From 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse].astype(np.float64)


def _standard(values: _Values) -> _Values:
    centred = values - values.mean()
    return centred / math.sqrt(float(centred @ centred))


def _plain(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
