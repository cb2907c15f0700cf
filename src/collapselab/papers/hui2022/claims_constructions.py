"""Claims of sec. 2.1 and 4.1: what the definitions of collapse allow, on networks that are trained or constructed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from collapselab.experiments.claims.claim import Claim, Verdict
from collapselab.experiments.claims.evidence import inconclusive, over_seeds
from collapselab.papers.hui2022.common import PAPER
from collapselab.papers.hui2022.definitions import VANISHED
from collapselab.papers.hui2022.grouping import groups, least, only, where

# Chance is 1/k; a tenth of all decisions more is what a random function will hardly ever reach on hundreds of samples.
_CHANCE_MARGIN = 0.1
# "Can match the performance of interpolating models": within five points of accuracy.
_MATCHES = 0.05
_NUM_CLASSES = 10


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
                {name: only(where(group, "construction", which), name) for name in names}
                for which in (construction, "network")
            )
            by_seed[int(seed)] = effect(row, network)
            values[f"seed {seed}"] = {
                name.replace("_", " "): value for name, value in row.items() if math.isfinite(value)
            }
        return over_seeds(by_seed, 0.0, meaning, **{"measured": values})

    return judge


def _exactly(value: float, wanted: float) -> float:
    """A margin for what is either so or not: 1 or -1, NaN where it is not known."""
    return math.nan if math.isnan(value) or math.isnan(wanted) else 1.0 if value == wanted else -1.0


SEC2 = (
    Claim(
        "weak-collapse-is-possible",
        PAPER,
        "Sec. 2.1",
        "A network whose features are the one-hot decisions of a trained one is weakly test-collapsed, with the same accuracy "
        f"[weak test variance below {VANISHED:g}, accuracies equal].",
        _about(
            "one_hot_decisions",
            f"how far weak test variance is below {VANISHED:g}; -1 if the accuracy is another",
            lambda row, network: least(
                VANISHED - row["weak_test_variance"],
                _exactly(row["test_accuracy"], network["test_accuracy"]),
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
            "the lesser of the margins by which it is collapsed, and near chance on test data; -1 if it errs on train data",
            lambda row, _: least(
                VANISHED - row["train_variance"],
                _exactly(row["train_accuracy"], 1.0),
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
            lambda row, _: least(
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
        f"variance above {VANISHED:g}, test accuracy at most {_MATCHES:g} below the other's].",
        _about(
            "one_epoch",
            "the lesser of the margins by which it is not collapsed, and as accurate; none where "
            "the other does not interpolate, or it was trained for more than an epoch",
            lambda row, network: least(
                # Preconditions: without them there is nothing to match, or nothing that may match it.
                1.0 if network["train_accuracy"] == 1 else math.nan,
                1.0 if row["epochs"] <= 1 else math.nan,
                row["train_variance"] - VANISHED,
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
            lambda row, _: least(row["bound"] - row["probe_accuracy"] + 1e-9),
        ),
    ),
)
