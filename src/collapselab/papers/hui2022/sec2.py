"""Section 2.1 and 4.1: what the definitions of collapse allow, shown on networks that are trained or constructed.

Some of the networks are trained: one past zero error, one for a single epoch, one on two super-classes. The others are
constructed: the one-hot decisions of the first, and two that know the train set by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
from torch import nn

from collapselab.data import DataSplits, Split
from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import Void
from collapselab.experiments.claims.claim import FITTED
from collapselab.experiments.claims.judges import at_end, identity
from collapselab.experiments.experiment import Experiment, Extra, Job, Preset, Runs
from collapselab.frames import rows_where
from collapselab.metrics.generalization import fit_weak_reference, squared_distances_to_nearest
from collapselab.papers.hui2022 import figures
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
from collapselab.report.experiment_charts import construction_charts
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


# ---------------------------------------------------------------- claims

_CLAIMED: dict[str, Any] = {"per": (), "runs": "construction", "fitted": None, "where": "Sec. 2.1"}
_ZERO, _ONE = (0.0, 1e-9), (1.0, 1e-9)
_CHANCE = (0.1, 0.1)  # a random function of hundreds of samples is never as far from one in ten classes


def _of(construction: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Select a network, with its accuracy less that of the network past zero error."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        own, network = (rows_where(rows, construction=name) for name in (construction, "network"))
        if construction == "one_epoch" and not (own["epochs"] <= 1).all():
            raise Void("not trained for one epoch")
        less = own["test_accuracy"] - network["test_accuracy"].max()
        is_past_zero_error = bool((network["train_accuracy"] >= FITTED).all())
        return own.assign(
            accuracy_less=less, accuracy_less_than_fitted=less if is_past_zero_error else math.nan
        )

    return select


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
    figures={"sec2": figures.figure_sec2},
    charts=construction_charts,
    claims=changed(
        identity(
            "weak-collapse-is-possible",
            "One-hot decisions of a network are weakly test-collapsed features, with the same accuracy.",
            {"weak_test_variance": _ZERO, "accuracy_less": _ZERO},
            rows=_of("one_hot_decisions"),
            **_CLAIMED,
        ),
        identity(
            "train-collapse-is-not-enough",
            "A network can be train-collapsed perfectly and a random function at test time.",
            {"train_variance": _ZERO, "train_accuracy": _ONE, "test_accuracy": _CHANCE},
            rows=_of("memoriser"),
            **_CLAIMED,
        ),
        identity(
            "weak-test-collapse-is-not-enough",
            "A network can be weakly test-collapsed and decide at random.",
            {"weak_test_variance": _ZERO, "test_accuracy": _CHANCE},
            rows=_of("memoriser_weak"),
            **_CLAIMED,
        ),
        identity(
            "two-points-cannot-tell-ten-classes",
            "From two points no classifier tells ten balanced classes with more than 20% accuracy.",
            {},
            {"probe_accuracy": 0.2 + 1e-9},
            rows=_of("super_class"),
            **_CLAIMED | {"where": "Sec. 4.1"},
        ),
        at_end(
            "train_variance",
            "A network trained for one epoch does not collapse on its train set.",
            above=(0.1, 0.03, 0.3),
            id="one-epoch-does-not-collapse",
            rows=_of("one_epoch"),
            **_CLAIMED,
        ),
        at_end(
            "accuracy_less_than_fitted",
            "A network trained for one epoch is as accurate on test data as one trained past zero error.",
            above=(-0.05, -0.02, 0.0),
            scale="difference",
            id="one-epoch-matches",
            rows=_of("one_epoch"),
            **_CLAIMED,
        ),
    ),
    extras=(Extra("constructions", measure_constructions),),
    is_whole=True,
)
