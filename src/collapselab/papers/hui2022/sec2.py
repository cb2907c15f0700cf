"""Section 2.1 and 4.1: what the definitions of collapse allow, shown on networks that are trained or constructed.

Some of the networks are trained: one past zero error, one for a single epoch, one on two super-classes. The others are
constructed: the one-hot decisions of the first, and two that know the train set by heart.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from collapselab.experiments.claims import Claim, Number, Void
from collapselab.experiments.claims.claim import FITTED
from collapselab.experiments.claims.judges import identity
from collapselab.experiments.experiment import Experiment, Extra
from collapselab.experiments.jobs import Job
from collapselab.experiments.recipes import At, Changes, balanced, digits, scales
from collapselab.frames import numbers, rows_where
from collapselab.papers.hui2022.common import (
    LEFT_OPEN,
    MLP,
    MLP_NOTE,
    ODD_EVEN,
    PAPER,
    STANDARDIZE_NOTE,
    changed,
    images,
    recipe,
)
from collapselab.papers.hui2022.measured_constructions import (
    PENALTIES,
    construction_rows,
    measure_constructions,
)
from collapselab.report.builders import ACCURACIES, VARIANCES, Dots, Quantity
from collapselab.report.chart import NEUTRAL, WEAK, Look
from collapselab.text import words

# A small batch: one epoch is then hundreds of steps even of a small train set.
_ONE_EPOCH_BATCH = 8
_ONE_EPOCH_RATE = 0.01
_ARGUED = "The paper argues and runs nothing here. These are MLPs of"
_PROBE_NOTE = f"The penalty of the linear probe is one of {PENALTIES}."
_OPEN = f"{LEFT_OPEN} {MLP_NOTE} {STANDARDIZE_NOTE}"


def _jobs(seed: int, changes: Changes) -> list[Job]:
    data = images("mnist", test=balanced(5000))
    past_zero_error = recipe("mlp", data, seed, learning_rate=0.01, options=MLP, count=4).with_changes(
        {"checkpoints.at": "last", **changes}
    )
    num_train = past_zero_error.data.train.count or 60_000
    one_epoch = past_zero_error.with_changes(
        {
            "steps": num_train // _ONE_EPOCH_BATCH,
            "batch_size": _ONE_EPOCH_BATCH,
            "optimizer.learning_rate": _ONE_EPOCH_RATE,
        }
    )
    super_class = past_zero_error.with_changes({"data.groups": ODD_EVEN})
    return [
        Job("network", past_zero_error),
        Job("one_epoch", one_epoch),
        Job("super_class", super_class),
    ]


_NAMES = {
    "network": "past zero error",
    "one_hot_decisions": "one-hot decisions",
    "memoriser_weak": "memoriser, one-hot",
    "super_class": "two super-classes",
}
_TWO_POINTS = (
    Quantity("probe_accuracy", "linear probe of two points", Look(WEAK, marker="diamond")),
    Quantity("bound", "bound for two points", Look(NEUTRAL, marker="bar")),
)


# ---------------------------------------------------------------- claims

_CLAIMED: dict[str, Any] = {"per": (), "runs": "construction", "fitted": None}
_ZERO, _ONE = (0.0, 1e-9), (1.0, 1e-9)
_AT_CHANCE = (0.1, 0.1)  # a random function of hundreds of samples is never as far from one in ten classes


def _of(rows: pd.DataFrame, construction: str, name: str) -> float:
    return next(iter(numbers(rows_where(rows, construction=construction), name)), math.nan)


def _constructed(id: str, says: str, construction: str, **wanted: tuple[float, float]) -> Claim:
    """Claim that numbers of a construction are what they must be."""

    def measure(rows: pd.DataFrame) -> list[Number]:
        return [
            Number(words(name), _of(rows, construction, name), near=near) for name, near in wanted.items()
        ]

    return identity(id, says, measure, where="Sec. 2.1", **_CLAIMED)


def _decisions(rows: pd.DataFrame) -> list[Number]:
    accuracies = [_of(rows, name, "test_accuracy") for name in ("one_hot_decisions", "network")]
    return [
        Number("weak test variance", _of(rows, "one_hot_decisions", "weak_test_variance"), near=_ZERO),
        Number("test accuracy less that of the network", accuracies[0] - accuracies[1], near=_ZERO),
    ]


def _bounded(rows: pd.DataFrame) -> list[Number]:
    bound = _of(rows, "super_class", "bound") + 1e-9
    return [Number("accuracy of a linear probe", _of(rows, "super_class", "probe_accuracy"), below=bound)]


def _after_one_epoch(rows: pd.DataFrame, name: str) -> float:
    if not _of(rows, "one_epoch", "epochs") <= 1:
        raise Void("not trained for one epoch")
    return _of(rows, "one_epoch", name)


def _collapse(rows: pd.DataFrame, above: float) -> list[Number]:
    return [Number("train variance after one epoch", _after_one_epoch(rows, "train_variance"), above=above)]


def _accuracy(rows: pd.DataFrame, above: float) -> list[Number]:
    if not _of(rows, "network", "train_accuracy") >= FITTED:
        raise Void("the network trained past zero error has train errors")
    less = _after_one_epoch(rows, "test_accuracy") - _of(rows, "network", "test_accuracy")
    return [
        Number(
            "test accuracy after one epoch less that past zero error", less, above=above, scale="difference"
        )
    ]


EXPERIMENT = Experiment(
    id="hui2022/sec2",
    paper=PAPER,
    where="Definitions 1 to 3, sec. 2.1 and 4.1",
    title="What the definitions of collapse allow",
    question="Is train collapse, or weak test collapse, needed for a network to generalise, or enough? What can be learned "
    "from features that have collapsed?",
    presets=scales(
        _jobs,
        paper=At(
            f"{_ARGUED} three layers of 1024 on MNIST, 80,000 steps or one epoch. {_PROBE_NOTE} {_OPEN}"
        ),
        cpu=At(
            f"{_ARGUED} three layers of 512 on 5,000 digits of MNIST, 4,000 steps or one epoch. {_PROBE_NOTE} {_OPEN}",
            changes={
                "data.train": balanced(5000),
                "data.test": balanced(1000),
                "model.options.width": 512,
                "steps": 4000,
                "optimizer.learning_rate": 0.02,
            },
        ),
        smoke=At(
            f"{_ARGUED} three layers of 64 on 1,000 digits of 8 x 8 pixels, 400 steps or one epoch.",
            seeds=1,
            changes={
                "data": digits(1000, 400),
                "model.options.width": 64,
                "steps": 400,
                "optimizer.learning_rate": 0.05,
            },
        ),
    ),
    rows=construction_rows,
    charts=[
        Dots(
            "sec2",
            "Variances and accuracies of every network",
            by="construction",
            names=_NAMES,
            panels=(
                ("variance / class-mean spread (0: full collapse)", False, VARIANCES),
                ("accuracy", True, (*ACCURACIES, *_TWO_POINTS)),
            ),
            text="Each over its own references. What is undefined is missing.",
        )
    ],
    claims=changed(
        identity(
            "weak-collapse-is-possible",
            "One-hot decisions of a network are weakly test-collapsed features, with the same accuracy.",
            _decisions,
            where="Sec. 2.1",
            **_CLAIMED,
        ),
        _constructed(
            "train-collapse-is-not-enough",
            "A network can be train-collapsed perfectly and a random function at test time.",
            "memoriser",
            train_variance=_ZERO,
            train_accuracy=_ONE,
            test_accuracy=_AT_CHANCE,
        ),
        _constructed(
            "weak-test-collapse-is-not-enough",
            "A network can be weakly test-collapsed and decide at random.",
            "memoriser_weak",
            weak_test_variance=_ZERO,
            test_accuracy=_AT_CHANCE,
        ),
        identity(
            "two-points-cannot-tell-ten-classes",
            "From two points no classifier tells ten balanced classes with more than 20 % accuracy.",
            _bounded,
            where="Sec. 4.1",
        ),
        Claim(
            id="one-epoch-does-not-collapse",
            statement="A network trained for one epoch does not collapse on its train set.",
            where="Sec. 2.1",
            numbers=_collapse,
            thresholds=(0.1, 0.03, 0.3),
            **_CLAIMED,
        ),
        Claim(
            id="one-epoch-matches",
            statement="A network trained for one epoch is as accurate on test data as one trained past zero error.",
            where="Sec. 2.1",
            numbers=_accuracy,
            thresholds=(-0.05, -0.02, 0.0),
            **_CLAIMED,
        ),
    ),
    extras=(Extra("constructions", measure_constructions),),
    is_whole=True,
)
