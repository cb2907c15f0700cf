"""Claims of sec. 4 about transfer, and of sec. 2.1 and 4.1 about what the definitions allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from collapselab.claims import Claim, Verdict
from collapselab.evidence import all_hold, correlated, inconclusive, over_seeds
from collapselab.papers.hui2022.common import PAPER
from collapselab.papers.hui2022.definitions import VANISHED
from collapselab.papers.hui2022.grouping import groups, numbers, where

# Chance is 1/k; a tenth of all decisions more is what a random function will hardly ever reach on hundreds of samples.
_CHANCE_MARGIN = 0.1
# "Can match the performance of interpolating models": within five points of accuracy.
_MATCHES = 0.05
_NUM_CLASSES = 10


_Point = dict[str, float]


def _best(rows: pd.DataFrame) -> dict[str, dict[int, dict[int, _Point]]]:
    """By data set, seed and checkpoint: its train variance and the best accuracy over learning rates.

    Runs that diverged have no accuracy and are not the best.
    """
    out: dict[str, dict[int, dict[int, _Point]]] = {}
    for (dataset, seed, step), part in groups(
        where(rows, "kind", "fine_tuning"), "dataset", "seed", "pretrain_step"
    ):
        accuracies = [value for value in numbers(part, "accuracy") if math.isfinite(value)]
        out.setdefault(str(dataset), {}).setdefault(int(seed), {})[int(step)] = {
            "train variance": numbers(part, "train_variance")[0],
            "accuracy": max(accuracies, default=math.nan),
        }
    return out


def _collapse_hurts(rows: pd.DataFrame) -> Verdict:
    verdicts = {}
    for dataset, seeds in _best(rows).items():
        by_seed = {
            seed: (
                [point["train variance"] for point in points.values()],
                [point["accuracy"] for point in points.values()],
            )
            for seed, points in seeds.items()
        }
        verdict = correlated(
            by_seed, "rank correlation of train variance and the best downstream accuracy", lambda rho: rho
        )
        steps = sorted({step for points in seeds.values() for step in points})
        table = {
            f"step {step:,}": {
                name: sum(points[step][name] for points in seeds.values()) / len(seeds)
                for name in ("train variance", "accuracy")
            }
            for step in steps
            if all(step in points and math.isfinite(points[step]["accuracy"]) for points in seeds.values())
        }
        verdicts[dataset] = Verdict(verdict.outcome, verdict.evidence | {"means over seeds": table})
    return all_hold(verdicts)


def _probe_is_worse(rows: pd.DataFrame) -> Verdict:
    probes = where(rows, "kind", "linear_probe")
    if probes.empty:
        return inconclusive("no linear probes among the rows")
    best = _best(rows)
    gaps: dict[str, dict[int, list[float]]] = {}
    for (dataset, seed, step), part in groups(probes, "dataset", "seed", "pretrain_step"):
        tuned = best.get(str(dataset), {}).get(int(seed), {}).get(int(step), {}).get("accuracy", math.nan)
        gap = tuned - numbers(part, "accuracy")[0]
        gaps.setdefault(str(dataset), {}).setdefault(int(seed), []).append(gap)
    verdicts = {}
    for dataset, seeds in gaps.items():
        effects: dict[int, float | None] = {seed: _least(*values) for seed, values in seeds.items()}
        means = {
            f"seed {seed}": sum(values) / len(values)
            for seed, values in seeds.items()
            if effects[seed] is not None
        }
        verdicts[dataset] = over_seeds(
            effects,
            0.0,
            "accuracy of fine-tuning less that of the linear probe, at the checkpoint where this is least",
            **{"mean over checkpoints": means},
        )
    return all_hold(verdicts)


def _least(*values: float) -> float | None:
    """The smallest of several margins; None where one of them is not measured."""
    return min(values) if all(math.isfinite(value) for value in values) else None


FIG5 = (
    Claim(
        "collapse-transfers-worse",
        PAPER,
        "Fig. 5, sec. 4.3",
        "Checkpoints with more train collapse transfer worse [rank correlation of the checkpoint's train variance with the "
        "best downstream test accuracy over learning rates is above 0 in every seed].",
        _collapse_hurts,
    ),
    Claim(
        "probing-is-worse",
        PAPER,
        "Sec. 4.2",
        "Linear probing transfers worse than fine-tuning [at every checkpoint].",
        _probe_is_worse,
    ),
)


# ---------------------------------------------------------------- section 2


_Effect = Callable[[Mapping[str, float], Mapping[str, float]], float | None]


def _about(construction: str, meaning: str, effect: _Effect) -> Callable[[pd.DataFrame], Verdict]:
    """A claim about one construction, its effect a function of its row and of the trained network's."""

    def judge(rows: pd.DataFrame) -> Verdict:
        if not {construction, "network"} <= set(rows["construction"]):
            return inconclusive(f"no {construction.replace('_', ' ')} among the rows")
        names = [name for name in rows.columns if name not in ("construction", "seed")]
        by_seed = {}
        values = {}
        for seed, group in groups(rows, "seed"):
            row, network = (
                {name: numbers(where(group, "construction", which), name)[0] for name in names}
                for which in (construction, "network")
            )
            by_seed[int(seed)] = effect(row, network)
            values[f"seed {seed}"] = {
                name.replace("_", " "): value for name, value in row.items() if math.isfinite(value)
            }
        return over_seeds(by_seed, 0.0, meaning, **{"measured": values})

    return judge


SEC2 = (
    Claim(
        "weak-collapse-is-possible",
        PAPER,
        "Sec. 2.1",
        "A network whose features are the one-hot decisions of a trained one is weakly test-collapsed, with the same accuracy "
        f"[weak test variance below {VANISHED:g}, accuracies equal].",
        _about(
            "one_hot_decisions",
            f"how far weak test variance is below {VANISHED:g}; below 0 if the accuracy is another",
            lambda row, network: _least(
                VANISHED - row["weak_test_variance"],
                VANISHED if row["test_accuracy"] == network["test_accuracy"] else -1.0,
            ),
        ),
    ),
    Claim(
        "train-collapse-is-not-enough",
        PAPER,
        "Sec. 2.1",
        "A network can be train-collapsed perfectly and a random function at test time [train variance below "
        f"{VANISHED:g}, train accuracy 1, test accuracy within {_CHANCE_MARGIN:g} of chance].",
        _about(
            "memoriser",
            "the least of the margins by which it is collapsed, right on train data and near chance on test data",
            lambda row, _: _least(
                VANISHED - row["train_variance"],
                VANISHED if row["train_accuracy"] == 1 else -1.0,
                _CHANCE_MARGIN - abs(row["test_accuracy"] - 1 / _NUM_CLASSES),
            ),
        ),
    ),
    Claim(
        "weak-test-collapse-is-not-enough",
        PAPER,
        "Sec. 2.1",
        "A network can be weakly test-collapsed and decide at random [weak test variance below "
        f"{VANISHED:g}, test accuracy within {_CHANCE_MARGIN:g} of chance].",
        _about(
            "memoriser_weak",
            "the lesser of the margins by which it is collapsed and near chance on test data",
            lambda row, _: _least(
                VANISHED - row["weak_test_variance"],
                _CHANCE_MARGIN - abs(row["test_accuracy"] - 1 / _NUM_CLASSES),
            ),
        ),
    ),
    Claim(
        "collapse-is-not-necessary",
        PAPER,
        "Sec. 2.1",
        "A network trained for one epoch does not collapse on its train set, and matches one that interpolates it [train "
        f"variance above {VANISHED:g} and above the other's, test accuracy at most {_MATCHES:g} below the other's].",
        _about(
            "one_epoch",
            "the least of the margins by which it is not collapsed, less so than the other, and as accurate",
            lambda row, network: _least(
                row["train_variance"] - VANISHED,
                row["train_variance"] - network["train_variance"],
                row["test_accuracy"] - network["test_accuracy"] + _MATCHES,
            ),
        ),
    ),
    Claim(
        "two-points-cannot-tell-ten-classes",
        PAPER,
        "Sec. 4.1",
        "From features that have collapsed to the two points of super-classes, no classifier tells ten balanced classes "
        "with more than 20 % accuracy [a linear probe of them does not exceed the bound].",
        _about(
            "super_class",
            "bound less the accuracy of the probe, plus rounding",
            lambda row, _: _least(row["bound"] - row["probe_accuracy"] + 1e-9),
        ),
    ),
)
