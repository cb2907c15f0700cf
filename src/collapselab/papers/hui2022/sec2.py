"""Section 2.1 and 4.1: what the definitions of collapse allow, shown on networks that are trained or constructed.

Some of the networks are trained: one past zero error, one for a single epoch, one on two super-classes. The others are
constructed: the one-hot decisions of the first, and two that know the train set by heart.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from torch import nn

from collapselab.data import DataSplits, Split
from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import Claim, Number, Void
from collapselab.experiments.claims.claim import FITTED
from collapselab.experiments.claims.judges import identity
from collapselab.experiments.experiment import Experiment, Extra, Job, Preset, Runs
from collapselab.frames import numbers, rows_where
from collapselab.metrics.generalization import fit_weak_reference, squared_distances_to_nearest
from collapselab.papers.hui2022.bounds import any_points_bound, collapsed_representation
from collapselab.papers.hui2022.common import (
    MLP,
    PAPER,
    STANDARDIZE_NOTE,
    balanced,
    changed,
    first,
    images,
    recipe,
)
from collapselab.papers.hui2022.constructions import Memoriser, OneHotDecisions
from collapselab.probes import profile
from collapselab.report.builders import ACCURACIES, VARIANCES, Dots, Quantity
from collapselab.report.chart import NEUTRAL, WEAK, Look
from collapselab.text import words
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import evaluate, layer_features

_ODD_EVEN = ((1, 3, 5, 7, 9), (0, 2, 4, 6, 8))
# A small batch: one epoch is then hundreds of steps even of a small train set.
_ONE_EPOCH_BATCH = 8
_ONE_EPOCH_RATE = 0.01
_BATCH = 1024
_PENALTIES = 13
_PROBE_NOTE = f"The penalty of the linear probe is one of {_PENALTIES}."
_ROUNDING = 1e-24
_COLUMNS = (
    "construction", "seed", "epochs", "train_variance", "strong_test_variance", "weak_test_variance", "train_accuracy",
    "test_accuracy", "bound", "probe_accuracy",
)  # fmt: skip


def _jobs(data: DataSpec, num_train: int, width: int, steps: int, rate: float, seed: int) -> list[Job]:
    options = MLP | {"width": width}
    past_zero_error = recipe(
        "mlp", data, seed, steps=steps, learning_rate=rate, options=options, count=4
    ).with_changes({"checkpoints.at": "last"})
    one_epoch = past_zero_error.with_changes(
        {
            "steps": num_train // _ONE_EPOCH_BATCH,
            "batch_size": _ONE_EPOCH_BATCH,
            "optimizer.learning_rate": _ONE_EPOCH_RATE,
        }
    )
    super_class = past_zero_error.with_changes({"data.groups": _ODD_EVEN})
    return [
        Job("network", past_zero_error),
        Job("one_epoch", one_epoch),
        Job("super_class", super_class),
    ]


def _cpu(seed: int) -> list[Job]:
    data = images("mnist", train=balanced(5000), test=balanced(1000))
    return _jobs(data, 5000, 512, 4000, 0.02, seed)


def _paper(seed: int) -> list[Job]:
    return _jobs(images("mnist", test=balanced(5000)), 60_000, 1024, 80_000, 0.01, seed)


def _smoke(seed: int) -> list[Job]:
    data = DataSpec(name="digits", train=first(1000), test=first(400))
    return _jobs(data, 1000, 64, 400, 0.05, seed)


# ---------------------------------------------------------------- rows


def measure_constructions(runs: Runs, seed: int) -> list[dict[str, Any]]:
    """Variances and accuracies of every network, trained and constructed, each over its own references."""
    trained = {job.name: job for job in runs.jobs(seed)}
    data = runs.data(trained["network"].recipe)
    network = runs.model(trained["network"])
    train = data.train
    models: dict[str, nn.Module] = {
        "network": network,
        "one_hot_decisions": OneHotDecisions(network, data.num_classes),
        "memoriser": Memoriser(train.inputs, train.labels, data.num_classes, seed),
        "memoriser_weak": Memoriser(
            train.inputs, train.labels, data.num_classes, seed, weakly_collapsed=True
        ),
        "one_epoch": runs.model(trained["one_epoch"]),
    }
    epochs = {name: runs.folder(name, seed).read_rows()[-1]["epoch"] for name in trained}
    rows = [
        {"construction": name, "epochs": epochs.get(name)} | _measured(model, data)
        for name, model in models.items()
    ]
    job = trained["super_class"]
    coarse, model = runs.data(job.recipe), runs.model(job)
    row = {"construction": "super_class", "epochs": epochs["super_class"]} | _measured(model, coarse)
    return [*rows, row | _bound(model, coarse, data, seed)]


def _measured(model: nn.Module, data: DataSplits) -> dict[str, float | None]:
    layer = classifier_name(model)
    batches = data.train.batches(_BATCH), data.test.batches(_BATCH)
    last = profile(model, *batches, [layer], metrics=["train_variance", "strong_test_variance"])[layer]
    features = layer_features(model, data.test, layer, _BATCH)
    reference = fit_weak_reference(features, data.num_classes)
    weak = None
    if reference is not None and reference.spread > 0:
        weak = float(squared_distances_to_nearest(features, reference).mean()) / reference.spread
        # k-means centres of equal points are off by rounding.
        weak = weak if weak > _ROUNDING else 0.0
    loss = nn.functional.cross_entropy
    return {
        "train_variance": last.train["train_variance"],
        "strong_test_variance": last.test["strong_test_variance"],
        "weak_test_variance": weak,
        "train_accuracy": evaluate(model, data.train, loss, _BATCH).accuracy,
        "test_accuracy": evaluate(model, data.test, loss, _BATCH).accuracy,
    }


def _bound(model: nn.Module, coarse: DataSplits, fine: DataSplits, seed: int) -> dict[str, float]:
    """What two points can do on ten classes, and what a linear probe of them does."""
    from collapselab.transfer import linear_probe

    train, test = (
        collapsed_representation(model, coarse.num_classes, Split(a.inputs, b.labels).batches(_BATCH))
        for a, b in ((coarse.train, fine.train), (coarse.test, fine.test))
    )
    counts = fine.test.labels.bincount(minlength=fine.num_classes).tolist()
    probe = linear_probe(
        (train.features, train.labels), (test.features, test.labels), num_penalties=_PENALTIES, seed=seed
    )
    return {
        "bound": float(any_points_bound(coarse.num_classes, counts)),
        "probe_accuracy": probe.accuracy,
    }


def construction_rows(runs: Runs) -> pd.DataFrame:
    """One row per network and seed: three variances, two accuracies, of trained ones the passes over the train set, and of
    the super-classes the bound.
    """
    rows = [row | {"seed": seed} for seed in runs.seeds for row in runs.extra("constructions", seed)]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


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
    presets={
        "paper": Preset(
            _paper,
            seeds=3,
            reduced="The paper argues and runs nothing here. These are MLPs of three layers of 1024 on MNIST, 80,000 steps "
            f"or one epoch. {_PROBE_NOTE} {STANDARDIZE_NOTE}",
        ),
        "cpu": Preset(
            _cpu,
            seeds=3,
            reduced="The paper argues and runs nothing here. These are MLPs of three layers of 512 on 5,000 digits of "
            f"MNIST, 4,000 steps or one epoch. {_PROBE_NOTE} {STANDARDIZE_NOTE}",
        ),
        "smoke": Preset(
            _smoke,
            seeds=1,
            reduced="The paper argues and runs nothing here. These are MLPs of three layers of 64 on 1,000 digits of "
            "8 x 8 pixels, 400 steps or one epoch.",
        ),
    },
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
