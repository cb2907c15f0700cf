"""Measurements of the trained and constructed networks of sections 2.1 and 4.1, relative to their own class means."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from torch import nn

from collapselab.data import DataSplits
from collapselab.experiments.claims import Void
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import Changes, Job, balanced
from collapselab.frames import rows_where
from collapselab.metrics.bounds import any_points_bound
from collapselab.models.constructions import Memoriser, OneHotDecisions
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import WEIGHT_DECAY
from collapselab.papers.hui2022.common import EVALUATION_BATCH, images, probe_accuracy, recipe
from collapselab.probes import profile
from collapselab.records.experiment import ExtraRow
from collapselab.records.rows_csv import FITTED
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import evaluate
from collapselab.training.weak_variance import fit_centres

# With a small batch, one epoch has hundreds of steps even on a small train set.
_ONE_EPOCH_BATCH = 8
_ONE_EPOCH_RATE = 0.01
# k-means centres of equal points have rounding errors; variances below this count as zero.
_ROUNDING = 1e-24
_COLUMNS = (
    "construction", "seed", "epochs", "train_variance", "strong_test_variance", "weak_test_variance", "train_accuracy",
    "test_accuracy", "bound", "probe_accuracy",
)  # fmt: skip
_VANISHED = 0.1  # train variance of a network that has collapsed
_ZERO, _ONE = (0.0, 1e-9), (1.0, 1e-9)
_CHANCE = (0.1, 0.1)  # on hundreds of samples, random decisions are practically always this close to it
# Id, network, sentence, numbers that must be near a value, and numbers that must be below a bound.
IDENTITIES: tuple[tuple[str, str, str, dict[str, tuple[float, float]], dict[str, float]], ...] = (
    (
        "weak-collapse-is-possible", "one_hot_decisions",
        "One-hot decisions of a network are weakly test-collapsed features, with the same accuracy.",
        {"weak_test_variance": _ZERO, "test_accuracy_less_that_of_the_network": _ZERO}, {},
    ),
    (
        "train-collapse-is-not-enough", "memoriser",
        "A network can be perfectly train-collapsed and have chance accuracy on test data.",
        {"train_variance": _ZERO, "train_accuracy": _ONE, "test_accuracy": _CHANCE}, {},
    ),
    (
        "weak-test-collapse-is-not-enough", "memoriser_weak",
        "A network can be weakly test-collapsed and have chance accuracy on test data.",
        {"weak_test_variance": _ZERO, "test_accuracy": _CHANCE}, {},
    ),
    (
        "two-points-cannot-tell-ten-classes", "super_class",
        "If features have collapsed to two points, no classifier of ten balanced classes has more than 20% accuracy (sec. 4.1).",
        {}, {"probe_accuracy": 0.2 + 1e-9},
    ),
)  # fmt: skip


def construction_jobs(seed: int, changes: Changes, decay: float = WEIGHT_DECAY) -> list[Job]:
    """Return the four trained networks: past zero error, the same in the papyan arm, for one epoch, on two super-classes."""
    data = images("mnist", test=balanced(5000))
    past_zero_error = recipe("mlp", data, seed, learning_rate=0.01, options=common.MLP, count=4).with_changes(
        {"checkpoints.at": "last", **changes}
    )
    num_train = past_zero_error.data.train.count or 60_000
    steps = num_train // _ONE_EPOCH_BATCH
    once = {"steps": steps, "batch_size": _ONE_EPOCH_BATCH, "optimizer.learning_rate": _ONE_EPOCH_RATE}
    one_epoch = past_zero_error.with_changes(once)
    super_class = past_zero_error.with_changes({"data.groups": common.ODD_EVEN})
    collapsed = past_zero_error.with_changes(
        {"optimizer.weight_decay": decay, "model.options.batch_norm": True}
    )
    jobs = {
        "network": past_zero_error,
        "collapsed": collapsed,
        "one_epoch": one_epoch,
        "super_class": super_class,
    }
    return [Job(name, recipe) for name, recipe in jobs.items()]


def measure_constructions(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return variances and accuracies of every network, trained and constructed: one row each."""
    trained = runs.of(seed)
    data, network = runs.samples.of(trained["network"].job.recipe), trained["network"].model()
    inputs, labels = data.train.inputs, data.train.labels
    models: dict[str, nn.Module] = {
        "network": network,
        "one_hot_decisions": OneHotDecisions(network, data.num_classes),
        "memoriser": Memoriser(inputs, labels, data.num_classes, seed),
        "memoriser_weak": Memoriser(inputs, labels, data.num_classes, seed, weakly_collapsed=True),
        "collapsed": trained["collapsed"].model(),
        "one_epoch": trained["one_epoch"].model(),
    }
    epochs = {name: run.folder.read_rows()[-1].epoch for name, run in trained.items()}
    rows: list[ExtraRow] = [
        {"construction": name, "epochs": epochs.get(name)} | _measured(model, data)
        for name, model in models.items()
    ]
    run = trained["super_class"]
    coarse, model = runs.samples.of(run.job.recipe), run.model()
    row: ExtraRow = {"construction": "super_class", "epochs": epochs["super_class"]}
    return [*rows, row | _measured(model, coarse) | _bound(model, coarse, data, seed)]


def _measured(model: nn.Module, data: DataSplits) -> ExtraRow:
    layer = classifier_name(model)
    batches = data.train.batches(EVALUATION_BATCH), data.test.batches(EVALUATION_BATCH)
    names = ["train_variance", "strong_test_variance"]
    last = profile(model, *batches, layers=[layer], reduce="flatten", metrics=names)[layer]
    loss = nn.functional.cross_entropy
    test = evaluate(model, data.test, loss, EVALUATION_BATCH, features_of=layer)
    assert test.features is not None, "they are asked for"
    weak = fit_centres(test.features, data.num_classes).variance(test.features)
    return {
        "train_variance": last.train["train_variance"],
        "strong_test_variance": last.test["strong_test_variance"],
        "weak_test_variance": 0.0 if weak is not None and weak <= _ROUNDING else weak,
        "train_accuracy": evaluate(model, data.train, loss, EVALUATION_BATCH).accuracy,
        "test_accuracy": test.accuracy,
    }


def _bound(model: nn.Module, coarse: DataSplits, fine: DataSplits, seed: int) -> ExtraRow:
    """Return what two points can do on ten classes, and what a linear probe of them does.

    The points are the one-hot decisions: what the network offers to a finer task once it has collapsed.
    """
    collapsed = OneHotDecisions(model, coarse.num_classes)
    counts = fine.test.labels.bincount(minlength=fine.num_classes).tolist()
    return {
        "bound": float(any_points_bound(coarse.num_classes, counts)),
        "probe_accuracy": probe_accuracy(collapsed, fine, seed),
    }


def construction_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per network and seed.

    Returns:
        Columns construction, seed, epochs (of trained networks), the three variances over references of their own,
        train_accuracy, test_accuracy, and of the super-classes bound and probe_accuracy.
    """
    rows = [row | {"seed": seed} for seed in runs.seeds for row in runs.extra("constructions", seed)]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def network(construction: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Select a network for a claim, with its test accuracy less those of the two networks trained past zero error."""

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        names = (construction, "network", "collapsed")
        own, fitted, collapsed = (rows_where(rows, construction=name) for name in names)
        if construction == "one_epoch" and not (own["epochs"] <= 1).all():
            raise Void("not trained for one epoch")
        has_collapsed = (collapsed["train_accuracy"] >= FITTED) & (collapsed["train_variance"] < _VANISHED)
        known = collapsed["test_accuracy"].where(has_collapsed).max()
        return own.assign(
            test_accuracy_less_that_of_the_network=own["test_accuracy"] - fitted["test_accuracy"].max(),
            test_accuracy_less_that_of_the_collapsed_network=own["test_accuracy"] - known,
            train_variance_of_the_collapsed_network=collapsed["train_variance"].max(),
        )

    return select
