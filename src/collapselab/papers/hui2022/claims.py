"""The paper's sentences, each with a criterion in numbers, judged on the rows of an experiment and nothing else.

Claims about curves of training stand here; those about transfer and about constructed networks in `claims_transfer`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from collapselab.claims import Claim, Verdict
from collapselab.evidence import all_hold, correlated, inconclusive, over_seeds
from collapselab.papers.hui2022.claims_transfer import FIG5 as FIG5
from collapselab.papers.hui2022.claims_transfer import SEC2 as SEC2
from collapselab.papers.hui2022.common import PAPER
from collapselab.papers.hui2022.curve import Curve
from collapselab.papers.hui2022.definitions import TRAIN_COLLAPSE, VANISHED
from collapselab.papers.hui2022.grouping import groups, last_layer, mean_by, numbers, where

# "A large gap" and "do not collapse to negligible variance": an order of magnitude.
_GAP = 10.0
# A layer has begun to collapse when its variance is a tenth of that of the untrained network.
_FALLEN = 0.1

_BySeed = Mapping[int, pd.DataFrame]


def _runs(rows: pd.DataFrame) -> dict[str, dict[int, pd.DataFrame]]:
    """The last layer's curve of every job, by seed, in order of steps."""
    return {
        str(job): {int(seed): run for seed, run in groups(runs, "seed")}
        for job, runs in groups(last_layer(rows), "job")
    }


def _final(run: pd.DataFrame, name: str) -> float | None:
    value = float(run[name].iloc[-1])
    return value if math.isfinite(value) else None


def _log_ratio(above: float | None, below: float | None) -> float | None:
    if above is None or below is None or above <= 0 or below <= 0:
        return None
    return math.log10(above / below)


def _per_job(rows: pd.DataFrame, judge: Callable[[_BySeed], Verdict]) -> Verdict:
    """A claim about every job, over those networks that fit their train set: the paper trains all to zero error."""
    return all_hold({job: _only_if_fitted(runs, judge) for job, runs in _runs(rows).items()})


def _only_if_fitted(runs: _BySeed, judge: Callable[[_BySeed], Verdict]) -> Verdict:
    accuracy = {f"seed {seed}": _final(run, "train_accuracy") for seed, run in runs.items()}
    if any(value is None or value < 1 for value in accuracy.values()):
        found = judge(runs)
        reason = "the train error is not zero at the end, which the paper's is"
        return Verdict("inconclusive", {"reason": reason, "train accuracy": accuracy} | found.evidence)
    return judge(runs)


# ---------------------------------------------------------------- figures 1 to 3


def _train_vanishes(runs: _BySeed) -> Verdict:
    effects, falling = {}, {}
    for seed, run in runs.items():
        effects[seed] = _log_ratio(VANISHED, _final(run, "train_variance"))
        curve = Curve(run["step"].to_numpy(dtype=np.int64), run["train_variance"].to_numpy(dtype=np.float64))
        falling[f"seed {seed}"] = TRAIN_COLLAPSE.judge(curve).still_falling
    verdict = over_seeds(
        effects,
        0.0,
        f"decades that train variance at the end is below {VANISHED:g}",
        **{"still falling": falling},
    )
    if verdict.outcome == "fails" and any(falling.values()):
        reason = "train variance has not vanished, but is still falling"
        return Verdict("inconclusive", {"reason": reason} | verdict.evidence)
    return verdict


def _test_stays(metric: str) -> Callable[[_BySeed], Verdict]:
    def judge(runs: _BySeed) -> Verdict:
        effects: dict[int, float | None] = {}
        for seed, run in runs.items():
            final = _final(run, metric)
            above = _log_ratio(final, VANISHED)
            gap = _log_ratio(final, _final(run, "train_variance"))
            effects[seed] = None if above is None or gap is None else min(above, gap - math.log10(_GAP))
        return over_seeds(
            effects,
            0.0,
            f"decades by which it is above {VANISHED:g}, or above {_GAP:g} times train variance, the lesser of both",
            **{metric.replace("_", " "): {f"seed {s}": _final(run, metric) for s, run in runs.items()}},
        )

    return judge


def _weak_below_strong(runs: _BySeed) -> Verdict:
    effects = {
        seed: _log_ratio(_final(run, "strong_test_variance"), _final(run, "weak_test_variance"))
        for seed, run in runs.items()
    }
    return over_seeds(effects, 0.0, "decades that weak test variance is below strong at the end")


def _claim(id: str, where: str, statement: str, judge: Callable[[pd.DataFrame], Verdict]) -> Claim:
    return Claim(id, PAPER, where, statement, judge)


_NOT_NEGLIGIBLE = f"[at the end above {VANISHED:g}, and more than {_GAP:g} times train variance]"

FIG3 = (
    _claim(
        "train-collapses",
        "Fig. 1 and 3",
        f"Train variance converges to 0 [at the end below {VANISHED:g} of the spread of the class means].",
        lambda rows: _per_job(rows, _train_vanishes),
    ),
    _claim(
        "no-strong-test-collapse",
        "Fig. 1 and 3",
        f"Strong test variance does not {_NOT_NEGLIGIBLE}.",
        lambda rows: _per_job(rows, _test_stays("strong_test_variance")),
    ),
    _claim(
        "no-weak-test-collapse",
        "Fig. 3",
        f"Nor does weak test variance, about the best k points whatever the class {_NOT_NEGLIGIBLE}.",
        lambda rows: _per_job(rows, _test_stays("weak_test_variance")),
    ),
    _claim(
        "weak-below-strong",
        "Fig. 3",
        "Weak test variance is smaller than strong test variance [at the end].",
        lambda rows: _per_job(rows, _weak_below_strong),
    ),
)


def _not_always_zero(rows: pd.DataFrame) -> Verdict:
    """By seed, the setting with the largest train variance among those that fit their train set."""
    effects: dict[int, float | None] = {}
    settings = {}
    for job, runs in _runs(rows).items():
        for seed, run in runs.items():
            if _final(run, "train_accuracy") != 1:
                continue
            effect = _log_ratio(_final(run, "train_variance"), VANISHED)
            held = effects.get(seed)
            if effect is not None and (held is None or effect > held):
                effects[seed] = effect
                settings[f"seed {seed}"] = job
    if not effects:
        return inconclusive("no network has zero train error at the end")
    meaning = f"decades by which train variance is above {VANISHED:g} in the setting where it is largest"
    return over_seeds(effects, 0.0, meaning, **{"setting": settings})


FIG2 = (
    _claim(
        "gap-everywhere",
        "Fig. 2",
        f"In no setting does strong test variance become negligible, and in all of them the gap is large {_NOT_NEGLIGIBLE}.",
        lambda rows: _per_job(rows, _test_stays("strong_test_variance")),
    ),
    _claim(
        "train-not-always-zero",
        "Fig. 2, aside",
        f"Even train variance is not always close to 0 [above {VANISHED:g} at the end in some setting whose train error is "
        "zero].",
        _not_always_zero,
    ),
)


# ---------------------------------------------------------------- figure 4


def _by_size(metric: str, sign: Callable[[float], float], meaning: str) -> Callable[[pd.DataFrame], Verdict]:
    def judge(rows: pd.DataFrame) -> Verdict:
        ends = pd.concat([run.tail(1) for _, run in groups(last_layer(rows), "job", "seed")])
        verdicts = {}
        for (dataset, model), group in groups(ends, "dataset", "model"):
            by_seed = {
                int(seed): (numbers(part, "num_train"), numbers(part, metric))
                for seed, part in groups(group, "seed")
            }
            verdict = correlated(by_seed, meaning, sign)
            table = {f"{size:,} samples": mean for size, mean in mean_by(group, "num_train", metric).items()}
            fitted = bool((group["train_accuracy"] == 1).all())
            more = {f"mean {metric.replace('_', ' ')}": table, "zero train error everywhere": fitted}
            verdicts[f"{dataset}, {model}"] = Verdict(verdict.outcome, verdict.evidence | more)
        return all_hold(verdicts)

    return judge


FIG4 = (
    _claim(
        "more-data-more-test-collapse",
        "Fig. 4",
        "As the train set grows, strong test variance decreases [rank correlation over sizes below 0 in every seed].",
        _by_size(
            "strong_test_variance", lambda rho: -rho, "rank correlation with the number of samples, times -1"
        ),
    ),
    _claim(
        "more-data-less-train-collapse",
        "Fig. 4",
        "As the train set grows, train variance increases [rank correlation over sizes above 0 in every seed].",
        _by_size("train_variance", lambda rho: rho, "rank correlation with the number of samples"),
    ),
)


# ---------------------------------------------------------------- figure 6


def _hidden(rows: pd.DataFrame) -> dict[int, dict[int, pd.DataFrame]]:
    """By seed and depth, the curve of what each hidden layer puts out: depth 0 is what the network reads."""
    hidden = pd.DataFrame(rows[rows["depth"] >= 1]).sort_values(["step", "depth"])
    return {
        int(seed): {int(depth): layer for depth, layer in groups(run, "depth")}
        for seed, run in groups(hidden, "seed")
    }


def _degree_by_depth(rows: pd.DataFrame) -> Verdict:
    effects: dict[int, float | None] = {}
    finals = {}
    for seed, layers in _hidden(rows).items():
        values = [_final(layers[depth], "train_variance") for depth in sorted(layers)]
        finals[f"seed {seed}"] = values
        steps = [_log_ratio(a, b) for a, b in itertools.pairwise(values)]
        known = [step for step in steps if step is not None]
        effects[seed] = min(known) if known and len(known) == len(steps) else None
    meaning = "decades from a layer's train variance down to the next one's, where this is least"
    return over_seeds(effects, 0.0, meaning, **{"train variance, first to last layer": finals})


def _when_fallen(curve: pd.DataFrame) -> float | None:
    """Log10 of the step at which variance first is a tenth of that at step 0, between measurements; None if never."""
    steps = curve["step"].to_numpy(dtype=np.float64)
    values = curve["train_variance"].to_numpy(dtype=np.float64)
    target = _FALLEN * values[0]
    below = np.flatnonzero(values <= target)
    if not len(below) or not np.isfinite(values).all():
        return None
    at = int(below[0])
    before, after = (math.log10(max(step, 0.5)) for step in (steps[at - 1], steps[at]))
    high, low = (math.log10(value) for value in (values[at - 1], values[at]))
    share = (high - math.log10(target)) / (high - low) if high > low else 1.0
    return before + share * (after - before)


def _order_in_time(rows: pd.DataFrame) -> Verdict:
    effects: dict[int, float | None] = {}
    when = {}
    for seed, layers in _hidden(rows).items():
        depths = sorted(layers)
        times = [_when_fallen(layers[depth]) for depth in depths]
        when[f"seed {seed}"] = [None if time is None else round(10**time) for time in times]
        last, others = times[-1], times[:-1]
        ends = math.log10(max(float(layers[depths[-1]]["step"].max()), 1.0))
        # A layer that never gets there does so after the end at the earliest.
        effects[seed] = (
            None if last is None or not others else min(ends if t is None else t for t in others) - last
        )
    return over_seeds(
        effects,
        0.0,
        f"decades of steps by which the last layer falls to {_FALLEN:g} of its first value before any other does",
        **{"step, first to last layer": when},
    )


def _first_does_not_vanish(rows: pd.DataFrame) -> Verdict:
    finals = {seed: _final(layers[min(layers)], "train_variance") for seed, layers in _hidden(rows).items()}
    effects = {seed: _log_ratio(value, VANISHED) for seed, value in finals.items()}
    return over_seeds(
        effects,
        0.0,
        f"decades by which the first layer's train variance is above {VANISHED:g}",
        **{"train variance": {f"seed {seed}": value for seed, value in finals.items()}},
    )


FIG6 = (
    _claim(
        "last-layer-most",
        "Fig. 6, sec. 5.1",
        "The last layer has the greatest degree of collapse, each layer below it a lesser one, the first the least [train "
        "variance at the end falls from each hidden layer to the next].",
        _degree_by_depth,
    ),
    _claim(
        "last-layer-first",
        "Fig. 6, sec. 5.1",
        f"The last layer collapses first [its train variance falls to {_FALLEN:g} of that of the untrained network before "
        "that of any other hidden layer].",
        _order_in_time,
    ),
    _claim(
        "first-layer-not",
        "Fig. 6, sec. 5.1",
        f"Earlier layers saturate at a finite variance in the time observed [the first hidden layer's is above {VANISHED:g} "
        "at the end].",
        _first_does_not_vanish,
    ),
)


# ---------------------------------------------------------------- footnote 2


def _vgg_stays(rows: pd.DataFrame) -> Verdict:
    vgg = pd.DataFrame(rows[["vgg" in str(model) for model in rows["model"]]])
    if vgg.empty:
        return inconclusive("no VGG among the runs")

    def judge(runs: _BySeed) -> Verdict:
        effects = {seed: _log_ratio(_final(run, "train_variance"), VANISHED) for seed, run in runs.items()}
        return over_seeds(effects, 0.0, f"decades by which train variance is above {VANISHED:g}")

    return _per_job(vgg, judge)


def _dropout_is_faster(rows: pd.DataFrame) -> Verdict:
    verdicts = {}
    for (dataset, model), group in groups(last_layer(rows), "dataset", "model"):
        shares = sorted(set(numbers(group, "dropout")))
        if len(shares) < 2:
            continue
        effects: dict[int, float | None] = {}
        for seed, run in groups(group, "seed"):
            without, with_ = (
                _final(where(run, "dropout", share), "train_variance") for share in (shares[0], shares[-1])
            )
            effects[int(seed)] = _log_ratio(without, with_)
        meaning = f"decades that train variance at the end is lower with dropout {shares[-1]:g} than with {shares[0]:g}"
        verdicts[f"{dataset}, {model}"] = over_seeds(effects, 0.0, meaning)
    return (
        all_hold(verdicts) if verdicts else inconclusive("no network with and without dropout among the runs")
    )


FOOTNOTE2 = (
    _claim(
        "vgg-does-not-vanish",
        "Footnote 2",
        f"With VGG architectures train variance does not collapse to a negligible value [above {VANISHED:g} at the end, "
        "at zero train error].",
        _vgg_stays,
    ),
    _claim(
        "dropout-accelerates",
        "Footnote 2",
        "Adding stochasticity, such as dropout, often accelerates collapse [train variance after the same number of steps is "
        "lower with dropout].",
        _dropout_is_faster,
    ),
)
