"""Claims of sec. 4 about transfer, and of sec. 2.1 and 4.1 about what the definitions allow."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from collapselab.claims import Claim, Verdict
from collapselab.evidence import all_hold, correlated, inconclusive, over_seeds
from collapselab.papers.hui2022.common import PAPER
from collapselab.papers.hui2022.definitions import VANISHED

# Chance is 1/k; a tenth of all decisions more is what a random function will hardly ever reach on hundreds of samples.
_CHANCE_MARGIN = 0.1
# "Can match the performance of interpolating models": within five points of accuracy.
_MATCHES = 0.05
_NUM_CLASSES = 10


def _best(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each checkpoint, the best accuracy over learning rates; runs that diverged have none and are not the best."""
    tuned = rows[rows["kind"] == "fine_tuning"]
    keys = ["dataset", "seed", "pretrain_step"]
    return tuned.groupby(keys, sort=False).agg(
        train_variance=("train_variance", "first"), accuracy=("accuracy", "max")
    ).reset_index()  # fmt: skip


def _collapse_hurts(rows: pd.DataFrame) -> Verdict:
    verdicts = {}
    for dataset, group in _best(rows).groupby("dataset", sort=False):
        by_seed = {
            int(seed): (part["train_variance"].tolist(), part["accuracy"].tolist())  # pyright: ignore[reportArgumentType] a seed is a number
            for seed, part in group.groupby("seed")
        }
        verdict = correlated(
            by_seed, "rank correlation of train variance and the best downstream accuracy", lambda rho: rho
        )
        means = group.groupby("pretrain_step")[["train_variance", "accuracy"]].mean()
        table = {
            f"step {step:,}": {
                "train variance": float(row["train_variance"]),
                "accuracy": float(row["accuracy"]),
            }  # pyright: ignore[reportIndexIssue] steps are numbers
            for step, row in means.iterrows()
        }
        verdicts[str(dataset)] = Verdict(verdict.outcome, verdict.evidence | {"means over seeds": table})
    return all_hold(verdicts)


def _probe_is_worse(rows: pd.DataFrame) -> Verdict:
    probes = rows[rows["kind"] == "linear_probe"]
    if probes.empty:
        return inconclusive("no linear probes among the rows")
    keys = ["dataset", "seed", "pretrain_step"]
    both = _best(rows).merge(probes[[*keys, "accuracy"]], on=keys, suffixes=("", "_probe"))
    verdicts = {}
    for dataset, group in both.groupby("dataset", sort=False):
        gaps = (group["accuracy"] - group["accuracy_probe"]).groupby(group["seed"])
        effects: dict[int, float | None] = {int(seed): float(gap.min()) for seed, gap in gaps}  # pyright: ignore[reportArgumentType] a seed is a number
        means = {f"seed {seed}": float(gap.mean()) for seed, gap in gaps}
        verdicts[str(dataset)] = over_seeds(
            effects,
            0.0,
            "accuracy of fine-tuning less that of the linear probe, at the checkpoint where this is least",
            **{"mean over checkpoints": means},
        )
    return all_hold(verdicts)


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


_Effect = Callable[[pd.Series, pd.Series], float | None]


def _about(construction: str, meaning: str, effect: _Effect) -> Callable[[pd.DataFrame], Verdict]:
    """A claim about one construction, its effect a function of its row and of the trained network's."""

    def judge(rows: pd.DataFrame) -> Verdict:
        names = set(rows["construction"])
        if not {construction, "network"} <= names:
            return inconclusive(f"no {construction.replace('_', ' ')} among the rows")
        by_seed = {}
        values = {}
        for seed, group in rows.groupby("seed"):
            of = group.set_index("construction")
            row, network = of.loc[construction], of.loc["network"]
            by_seed[int(seed)] = effect(row, network)  # pyright: ignore[reportArgumentType] one row each; a seed is a number
            values[f"seed {seed}"] = {
                name.replace("_", " "): float(row[name])
                for name in row.index
                if name != "seed" and math.isfinite(float(row[name]))
            }
        return over_seeds(by_seed, 0.0, meaning, **{"measured": values})

    return judge


def _least(*values: float) -> float | None:
    """The smallest of several margins; None where one of them is not measured."""
    return min(values) if all(math.isfinite(value) for value in values) else None


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
