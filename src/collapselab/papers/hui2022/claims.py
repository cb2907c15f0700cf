"""The paper's sentences, each with a criterion in numbers, judged on the rows of an experiment and nothing else.

Here those of figures 1 to 4; of layers, transfer, constructed networks and footnote 2 in the modules beside this one. All
are taken from here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pandas as pd

from collapselab.experiments.claims.claim import Verdict
from collapselab.experiments.claims.evidence import all_hold, correlated, inconclusive, over_seeds
from collapselab.papers.hui2022.claims_constructions import SEC2 as SEC2
from collapselab.papers.hui2022.claims_footnote import FOOTNOTE2 as FOOTNOTE2
from collapselab.papers.hui2022.claims_layers import FIG6 as FIG6
from collapselab.papers.hui2022.claims_transfer import FIG5 as FIG5
from collapselab.papers.hui2022.definitions import VANISHED
from collapselab.papers.hui2022.endings import (
    BySeed,
    claim,
    decades,
    final,
    per_job,
    runs_of,
    seeds_of,
    still_falling,
    unless_falling,
)
from collapselab.papers.hui2022.grouping import groups, last_layer, numbers, where

# "A large gap" and "do not collapse to negligible variance": an order of magnitude. Less than that is "similar".
_GAP = 10.0


# ---------------------------------------------------------------- figures 1 to 3


def _train_vanishes(runs: BySeed) -> Verdict:
    effects = {seed: decades(VANISHED, final(run, "train_variance")) for seed, run in runs.items()}
    meaning = f"decades that train variance at the end is below {VANISHED:g}"
    return unless_falling(over_seeds(effects, 0.0, meaning), runs, "train_variance", "fails")


def _test_stays(metric: str, *, gap_is_claimed: bool) -> Callable[[BySeed], Verdict]:
    """That test variance does not vanish, and stands far above train variance.

    Args:
        gap_is_claimed: by the sentence itself. Else it is about networks whose train variance vanishes: where test
            variance stays and train variance does too, there is nothing to tell them apart by.
    """

    def judge(runs: BySeed) -> Verdict:
        effects: dict[int, float | None] = {}
        neither: list[int] = []
        for seed, run in runs.items():
            above = decades(final(run, metric), VANISHED)
            gap = decades(final(run, metric), final(run, "train_variance"))
            if above is None or gap is None:
                effects[seed] = None
                continue
            effects[seed] = least = min(above, gap - math.log10(_GAP))
            if not gap_is_claimed and above > 0 >= least and _above(final(run, "train_variance")):
                effects[seed] = None
                neither.append(seed)
        open_seeds = {"seeds in which train variance has not vanished either": neither} if neither else {}
        verdict = over_seeds(
            effects,
            0.0,
            f"decades by which it is above {VANISHED:g}, or above {_GAP:g} times train variance, the lesser of both",
            **{metric.replace("_", " "): {f"seed {s}": final(run, metric) for s, run in runs.items()}},
            **open_seeds,
        )
        if verdict.outcome == "fails" and all(_above(final(run, metric)) for run in runs.values()):
            # It stays; only the gap is too small, which grows while train variance falls.
            verdict = unless_falling(verdict, runs, "train_variance", "fails")
        return unless_falling(verdict, runs, metric, "holds")

    return judge


def _above(value: float | None) -> bool:
    return value is not None and value > VANISHED


def _weak_below_strong(runs: BySeed) -> Verdict:
    effects = {
        seed: decades(final(run, "strong_test_variance"), final(run, "weak_test_variance"))
        for seed, run in runs.items()
    }
    return over_seeds(effects, 0.0, "decades that weak test variance is below strong at the end")


def _weak_like_strong(runs: BySeed) -> Verdict:
    effects: dict[int, float | None] = {}
    for seed, run in runs.items():
        pairs = zip(numbers(run, "strong_test_variance"), numbers(run, "weak_test_variance"), strict=True)
        apart = [decades(a, b) if math.isfinite(a) and math.isfinite(b) else None for a, b in pairs]
        known = [abs(one) for one in apart if one is not None]
        effects[seed] = math.log10(_GAP) - max(known) if known and len(known) == len(apart) else None
    meaning = (
        f"decades by which they are less than a factor of {_GAP:g} apart, at the step where they are farthest"
    )
    return over_seeds(effects, 0.0, meaning)


_NOT_NEGLIGIBLE = (
    f"at the end above {VANISHED:g} and no longer falling, and more than {_GAP:g} times train variance"
)
_BESIDE_COLLAPSE = (
    f"{_NOT_NEGLIGIBLE}; open where only the gap is too small and train variance has not vanished"
)

FIG3 = (
    claim(
        "train-collapses",
        "Fig. 1 and 3",
        f"Train variance converges to 0 [at the end below {VANISHED:g} of the spread of the class means].",
        lambda rows: per_job(rows, _train_vanishes),
    ),
    claim(
        "no-strong-test-collapse",
        "Fig. 1 and 3",
        f"Strong test variance does not [{_BESIDE_COLLAPSE}].",
        lambda rows: per_job(rows, _test_stays("strong_test_variance", gap_is_claimed=False)),
    ),
    claim(
        "no-weak-test-collapse",
        "Fig. 3",
        f"Nor does weak test variance, about the best k points whatever the class [{_BESIDE_COLLAPSE}].",
        lambda rows: per_job(rows, _test_stays("weak_test_variance", gap_is_claimed=False)),
    ),
    claim(
        "weak-below-strong",
        "Fig. 3",
        "Weak test variance is smaller than strong test variance [at the end].",
        lambda rows: per_job(rows, _weak_below_strong),
    ),
    claim(
        "weak-like-strong",
        "Sec. 3.3",
        f"Strong and weak collapse have similar behaviour [less than a factor of {_GAP:g} apart at every measured step].",
        lambda rows: per_job(rows, _weak_like_strong),
    ),
)


def _not_always_zero(rows: pd.DataFrame) -> Verdict:
    """By seed, the setting with the largest train variance among those that fit their train set and are at rest.

    One setting above is enough, whatever the others do. That none is above takes all of them: where one is missing, has
    train errors or still falls, the seed has no effect.
    """
    seeds = seeds_of(rows)
    effects: dict[int, float | None] = dict.fromkeys(seeds)
    settings: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    for seed in seeds:
        for job, runs in runs_of(rows, seeds).items():
            run = runs[seed]
            effect = decades(final(run, "train_variance"), VANISHED)
            fitted = final(run, "train_accuracy") == 1
            if (
                effect is None
                or not fitted
                or (effect > 0 and still_falling(run, "train_variance") is not False)
            ):
                unknown.setdefault(f"seed {seed}", []).append(job)
                continue
            held = effects[seed]
            if held is None or effect > held:
                effects[seed] = effect
                settings[f"seed {seed}"] = job
        known = effects[seed]
        if known is not None and known <= 0 and f"seed {seed}" in unknown:
            effects[seed] = None
    if all(value is None for value in effects.values()) and not settings:
        return inconclusive(
            "no network has zero train error at the end, and a train variance that stands still"
        )
    return over_seeds(
        effects,
        0.0,
        f"decades by which train variance is above {VANISHED:g} in the setting where it is largest",
        **{"setting": settings, "train errors, still falling or not measured": unknown},
    )


FIG2 = (
    claim(
        "gap-everywhere",
        "Fig. 2",
        f"In no setting does strong test variance become negligible, and in all of them the gap is large [{_NOT_NEGLIGIBLE}].",
        lambda rows: per_job(rows, _test_stays("strong_test_variance", gap_is_claimed=True)),
    ),
    claim(
        "train-not-always-zero",
        "Fig. 2, aside",
        f"Even train variance is not always close to 0 [above {VANISHED:g} at the end and no longer falling, in some setting "
        "whose train error is zero].",
        _not_always_zero,
    ),
)


# ---------------------------------------------------------------- figure 4


def _by_size(metric: str, sign: Callable[[float], float], meaning: str) -> Callable[[pd.DataFrame], Verdict]:
    def judge(rows: pd.DataFrame) -> Verdict:
        seeds = seeds_of(rows)
        ends = pd.concat([run.tail(1) for _, run in groups(last_layer(rows), "job", "seed")])
        verdicts = {}
        for (dataset, model), group in groups(ends, "dataset", "model"):
            sizes = sorted(set(numbers(group, "num_train")))
            # A size that one seed has is asked of every seed.
            of_seed = {seed: where(group, "seed", seed) for seed in seeds}
            by_seed = {
                seed: (sizes, [final(where(part, "num_train", size), metric) for size in sizes])
                for seed, part in of_seed.items()
            }
            pairs = {
                seed: (x, [math.nan if value is None else value for value in y])
                for seed, (x, y) in by_seed.items()
            }
            verdict = correlated(pairs, meaning, sign)
            table = {
                f"{size:,.0f} samples": {f"seed {seed}": y[index] for seed, (_, y) in by_seed.items()}
                for index, size in enumerate(sizes)
            }
            evidence = verdict.evidence | {metric.replace("_", " "): table}
            endings = Counter(str(ended) for ended in group["ended"]) if "ended" in group else Counter[str]()
            if endings:
                evidence["ended by"] = dict(sorted(endings.items()))
            reason = None
            if any(value != 1 for value in numbers(group, "train_accuracy")):
                reason = "not every network has zero train error at the end; larger train sets are then less far, not less collapsed"
            elif len(endings) > 1:
                reason = (
                    "some networks came to the loss at which they are compared, others only to the last step"
                )
            if reason:
                verdicts[f"{dataset}, {model}"] = Verdict("inconclusive", {"reason": reason} | evidence)
            else:
                verdicts[f"{dataset}, {model}"] = Verdict(verdict.outcome, evidence)
        return all_hold(verdicts)

    return judge


FIG4 = (
    claim(
        "more-data-more-test-collapse",
        "Fig. 4",
        "As the train set grows, strong test variance decreases [rank correlation over sizes below 0 in every seed, of "
        "networks at zero train error that ended alike].",
        _by_size(
            "strong_test_variance", lambda rho: -rho, "rank correlation with the number of samples, times -1"
        ),
    ),
    claim(
        "more-data-less-train-collapse",
        "Fig. 4",
        "As the train set grows, train variance increases [rank correlation over sizes above 0 in every seed, of networks at "
        "zero train error that ended alike].",
        _by_size("train_variance", lambda rho: rho, "rank correlation with the number of samples"),
    ),
)
