"""Fig. 7 of Xu and Liu (2023): pre-trained networks, probes of their features on other tasks, and the mean log odds gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.grid import Grid, GridRun
from collapselab.experiments.recipes import balanced, digits, first
from collapselab.frames import groups, numbers
from collapselab.papers.xu2023.curves import run_rows
from collapselab.records.experiment import ExtraRow
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import layer_features
from collapselab.transfer import linear_probe, mean_log_odds, mean_log_odds_gain

TEMPERATURE, REGULARISER, BOTH = "temperature", "regulariser", "both groups"
_EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class Task:
    """A downstream task.

    Attributes:
        name: for readers.
        data: its samples.
        score: `mean_per_class` accuracy or `top1`.
        num_penalties: number of penalties that the probe chooses from.
    """

    name: str
    data: DataSpec
    score: Literal["top1", "mean_per_class"] = "top1"
    num_penalties: int = 97


def _named(*names: str, score: Literal["top1", "mean_per_class"] = "top1") -> list[Task]:
    spec = DataSpec(standardize="channel", image_size=(224, 224))
    return [Task(name, spec.model_copy(update={"name": name}), score) for name in names]


_SIX = ("airplane", "automobile", "bird", "cat", "deer", "dog")
_HELD_OUT = ("frog", "horse", "ship", "truck")
# For few cores: pre-training on six classes.
SIX_CLASSES = DataSpec(
    name="cifar10",
    train=balanced(3000),
    test=Sample(),
    standardize="channel",
    groups=tuple((name,) for name in _SIX),
)
_CIFAR = SIX_CLASSES.model_copy(update={"groups": None})
SIX_DIGITS = digits(300, 200).model_copy(update={"groups": tuple((digit,) for digit in range(6))})
# Tasks by the data set of pre-training; sec. 6.3 says which of them have mean accuracy per class.
TASKS: Mapping[str, Sequence[Task]] = {
    "imagenet": [
        *_named("oxford_pets", "oxford_flowers", "fgvc_aircraft", "caltech101", score="mean_per_class"),
        *_named("stanford_cars", "dtd", "cifar10", "food101", "cifar100", "sun397"),
    ],
    "cifar10": [
        Task(
            "held-out classes",
            _CIFAR.model_copy(
                update={"train": balanced(2000), "groups": tuple((name,) for name in _HELD_OUT)}
            ),
        ),
        # As many as pre-training takes of each class are skipped: no sample is used twice.
        Task("all ten classes", _CIFAR.model_copy(update={"train": balanced(2000, skip=5000)})),
        Task(
            "MNIST digits",
            DataSpec(
                name="mnist",
                train=balanced(2000),
                test=first(2000),
                standardize="channel",
                image_size=(32, 32),
            ),
        ),
    ],
    "digits": [
        Task(
            "held-out classes",
            digits(200, 200).model_copy(update={"groups": tuple((digit,) for digit in range(6, 10))}),
            num_penalties=5,
        ),
        Task("all ten classes", digits(200, 200), num_penalties=5),
    ],
}  # fmt: skip


def probe_tasks(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return the accuracy of a linear probe of every network of a seed on every task.

    Returns:
        Rows with job, task, accuracy, penalty and num_test. Networks that diverged have none.
    """
    finished = [run for run in runs.of(seed).values() if run.record.ended != "diverged"]
    rows: list[ExtraRow] = []
    for task in TASKS[str(finished[0].job.labels["dataset"])] if finished else ():
        for run in finished:
            rows.append({"job": run.job.name, "task": task.name} | _probe(run, runs, task, seed))
    return rows


def _probe(run: GridRun, runs: Grid, task: Task, seed: int) -> ExtraRow:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = run.model().to(device)
    data = runs.samples.of(run.job.recipe.model_copy(update={"data": task.data})).to(device)
    layer = classifier_name(model)
    train, test = (
        (layer_features(model, split, layer, _EVALUATION_BATCH).to(device), split.labels.cpu())
        for split in (data.train, data.test)
    )
    probe = linear_probe(train, test, num_penalties=task.num_penalties, score=task.score, seed=seed)
    return {"accuracy": probe.accuracy, "penalty": probe.penalty, "num_test": len(test[1])}


def transfer_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per network and group; a network that belongs to both groups has two.

    Returns:
        Columns job, its labels, seed, ended, what was measured at the last step (see `metric_rows`), value (of what the group
        varies), `mean_log_odds` and `gain` (mean log odds gain, eq. 6 of the paper); and of each task its accuracy. NaN where
        the network diverged.
    """
    rows: list[dict[str, Any]] = []
    for seed in runs.seeds:
        probed = pd.DataFrame(runs.extra("probes", seed), columns=["job", "task", "accuracy", "num_test"])
        by_job = dict(groups(probed, "job"))
        for name, run in runs.of(seed).items():
            last = run_rows(run).iloc[-1].to_dict()
            row = last | _gain(by_job.get(name), last["test_accuracy"])
            chosen = [TEMPERATURE, REGULARISER] if row["group"] == BOTH else [row["group"]]
            rows += [row | {"group": group, "value": row[group]} for group in chosen]
    return pd.DataFrame(rows)


def _gain(probed: pd.DataFrame | None, pretrain_accuracy: float) -> dict[str, float]:
    if probed is None:
        return {"mean_log_odds": float("nan"), "gain": float("nan")}
    accuracies, sizes = (
        dict(zip(probed["task"], numbers(probed, name), strict=True)) for name in ("accuracy", "num_test")
    )
    return {
        **{f"accuracy, {task}": value for task, value in accuracies.items()},
        "mean_log_odds": mean_log_odds(accuracies, num_samples=sizes),
        "gain": mean_log_odds_gain(accuracies, pretrain_accuracy, num_samples=sizes),
    }
