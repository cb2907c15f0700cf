"""Figure 5: checkpoints of more collapsed networks transfer worse.

Networks are trained on two super-classes; checkpoints along the way are fine-tuned to the classes within them, on other
samples, with a sweep of learning rates. Linear probing of the same checkpoints stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims.judges import at_end, correlates
from collapselab.experiments.experiment import Experiment, Extra, Job, Preset, Runs, checkpoint_of
from collapselab.experiments.rows import run_curve
from collapselab.frames import rows_where
from collapselab.papers.hui2022 import figures
from collapselab.papers.hui2022.common import (
    BATCH_SIZE,
    LEARNING_RATES,
    MLP,
    MLP_LEARNING_RATE,
    MOMENTUM,
    PAPER,
    STANDARDIZE_NOTE,
    balanced,
    changed,
    first,
    images,
)
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Option, StartFrom
from collapselab.report.experiment_charts import transfer_charts
from collapselab.training import Recipe
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import layer_features

# "We search over 0.0005 to 0.25": six values, evenly spaced on a logarithmic scale.
SWEEP = (0.0005, 0.0017, 0.006, 0.021, 0.072, 0.25)
_ODD_EVEN = ((1, 3, 5, 7, 9), (0, 2, 4, 6, 8))
_DIGITS = tuple((digit,) for digit in range(10))
_OBJECTS = ("airplane", "automobile", "ship", "truck")
_ANIMALS = ("bird", "cat", "frog", "horse")
_PENALTIES = 13
_LEFT_OPEN = (
    f"Batches are of {BATCH_SIZE}, as in sec. 3.2; the penalty of the linear probe is one of {_PENALTIES}. Of MNIST the "
    "samples are the first ones and those that follow them, the same for every seed."
)
_BATCH = 1024


@dataclass(frozen=True)
class _Half:
    """One panel of the figure: a network, its super-classes, and the classes it is fine-tuned to."""

    dataset: str
    model: str
    options: dict[str, Option]
    learning_rate: float
    super_classes: DataSpec
    classes: DataSpec
    batch_size: int = BATCH_SIZE

    def pretraining(self, seed: int, steps: int, checkpoints: Sequence[int]) -> Job:
        recipe = self._recipe(self.super_classes, self.learning_rate, steps, seed).model_copy(
            update={
                "measuring": _measuring(count=16),
                "checkpoints": Checkpoints(at=tuple(checkpoints)),
            }
        )
        return Job(f"{self.dataset}-pretraining", recipe, self._labels("pretraining"))

    def fine_tuning(self, seed: int, steps: int, checkpoint: int, learning_rate: float) -> Job:
        start = StartFrom(checkpoint=checkpoint_of(f"{self.dataset}-pretraining", seed, checkpoint))
        recipe = self._recipe(self.classes, learning_rate, steps, seed).model_copy(
            update={"start": start, "measuring": _measuring(count=2), "checkpoints": Checkpoints(at=())}
        )
        labels = self._labels("fine_tuning") | {"pretrain_step": checkpoint, "learning_rate": learning_rate}
        name = f"{self.dataset}-from-{checkpoint}-lr-{learning_rate:g}"
        return Job(name, recipe, labels, after=f"{self.dataset}-pretraining")

    def _labels(self, kind: str) -> dict[str, str | int | float]:
        return {"kind": kind, "dataset": self.dataset, "model": self.model}

    def _recipe(self, data: DataSpec, learning_rate: float, steps: int, seed: int) -> Recipe:
        return Recipe(
            model=ModelSpec(
                name="mlp" if self.model == "mlp" else f"torchvision/{self.model}", options=self.options
            ),
            data=data,
            optimizer=Optimizer(learning_rate=learning_rate, momentum=MOMENTUM),
            steps=steps,
            batch_size=self.batch_size,
            seed=seed,
        )


def _measuring(count: int) -> Measuring:
    metrics = ("normalized_within", "train_variance", "strong_test_variance")
    return Measuring(count=count, layers="last", metrics=metrics, weak_test_variance=False, spectra=False)


def _jobs(
    half: _Half, seed: int, *, steps: int, checkpoints: Sequence[int], tuning: int, sweep: Sequence[float]
) -> list[Job]:
    return [
        half.pretraining(seed, steps, checkpoints),
        *(half.fine_tuning(seed, tuning, step, rate) for step in checkpoints for rate in sweep),
    ]


_MNIST = _Half(
    dataset="mnist",
    model="mlp",
    options=MLP,
    learning_rate=MLP_LEARNING_RATE,
    super_classes=images("mnist", train=first(1000), test=first(200)).model_copy(
        update={"groups": _ODD_EVEN}
    ),
    classes=images("mnist", train=first(500, skip=1000), test=first(100, skip=200)).model_copy(
        update={"groups": _DIGITS}
    ),
)
_CIFAR = _Half(
    dataset="cifar10",
    model="resnet18",
    options={},
    learning_rate=LEARNING_RATES["resnet18"],
    super_classes=images("cifar10", train=balanced(20_000), test=balanced(4000)).model_copy(
        update={"groups": (_OBJECTS, _ANIMALS)}
    ),
    classes=images("cifar10", train=balanced(10_000, skip=20_000), test=balanced(2000, skip=4000)).model_copy(
        update={"groups": tuple((name,) for name in _OBJECTS + _ANIMALS)}
    ),
)
_EMBEDDED = _Half(
    dataset="digits",
    model="mlp",
    options=MLP | {"width": 32},
    learning_rate=0.05,
    super_classes=DataSpec(name="digits", train=first(300), test=first(200), groups=_ODD_EVEN),
    classes=DataSpec(
        name="digits",
        train=Sample(method="first", count=200, skip=300),
        test=Sample(method="first", count=200, skip=200),
        groups=_DIGITS,
    ),
    batch_size=64,
)


def _paper(seed: int) -> list[Job]:
    checkpoints = (1000, 3000, 10_000, 30_000, 60_000, 100_000)
    return [
        job
        for half in (_MNIST, _CIFAR)
        for job in _jobs(half, seed, steps=100_000, checkpoints=checkpoints, tuning=100_000, sweep=SWEEP)
    ]


def _cpu(seed: int) -> list[Job]:
    checkpoints = (200, 600, 2000, 6000, 12_000, 20_000)
    return _jobs(_MNIST, seed, steps=20_000, checkpoints=checkpoints, tuning=2000, sweep=SWEEP)


def _smoke(seed: int) -> list[Job]:
    return _jobs(_EMBEDDED, seed, steps=200, checkpoints=(20, 60, 200), tuning=60, sweep=(0.01, 0.1))


# ---------------------------------------------------------------- rows


def probe_checkpoints(runs: Runs, seed: int) -> list[dict[str, Any]]:
    """A linear probe of every checkpoint, on the samples that fine-tuning has: one row each."""
    from collapselab.transfer import linear_probe

    rows = []
    done: set[tuple[str, int]] = set()
    pretrained = {
        job.labels["dataset"]: job for job in runs.jobs(seed) if job.labels["kind"] == "pretraining"
    }
    for job in runs.jobs(seed):
        if job.labels["kind"] != "fine_tuning":
            continue
        dataset, step = str(job.labels["dataset"]), int(job.labels["pretrain_step"])
        if (dataset, step) in done:
            continue
        done.add((dataset, step))
        data = runs.data(job.recipe)
        # The features are those of the pre-trained network; its two outputs play no part.
        model = runs.model(pretrained[dataset], step)
        layer = classifier_name(model)
        train, test = (
            (layer_features(model, split, layer, _BATCH), split.labels) for split in (data.train, data.test)
        )
        result = linear_probe(train, test, num_penalties=_PENALTIES, seed=seed)
        rows.append(
            {
                "kind": "linear_probe",
                "dataset": dataset,
                "model": job.labels["model"],
                "pretrain_step": step,
                "accuracy": result.accuracy,
            }
        )
    return rows


def transfer_rows(runs: Runs) -> pd.DataFrame:
    """Columns kind, dataset, model, seed, pretrain_step, train_variance, learning_rate, accuracy.

    `pretraining` rows are the measured steps of the networks on the super-classes, with their test accuracy there.
    `fine_tuning` and `linear_probe` rows have the train variance of the checkpoint they begin with, and the test
    accuracy on the classes in the end; it is missing where training diverged.
    """
    rows: list[dict[str, Any]] = []
    for seed in runs.seeds:
        variances: dict[tuple[str, int], float] = {}
        for job in runs.jobs(seed):
            curve = run_curve(runs.folder(job.name, seed), job, seed)
            head = dict(job.labels) | {"seed": seed}
            if job.labels["kind"] == "pretraining":
                for row in curve.to_dict("records"):
                    variances[str(job.labels["dataset"]), row["step"]] = row["train_variance"]
                    rows.append(
                        head
                        | {
                            "pretrain_step": row["step"],
                            "train_variance": row["train_variance"],
                            "accuracy": row["test_accuracy"],
                        }
                    )
                continue
            run = runs.folder(job.name, seed).read_run() or {}
            last = curve.iloc[-1]
            accuracy = None if run["ended"] == "diverged" else float(last["test_accuracy"])
            rows.append(head | {"accuracy": accuracy})
        rows += [row | {"seed": seed} for row in runs.extra("linear_probe", seed)]
        for row in rows:
            if row["seed"] == seed and "train_variance" not in row:
                row["train_variance"] = variances[str(row["dataset"]), int(row["pretrain_step"])]
    columns = [
        "kind", "dataset", "model", "seed", "pretrain_step", "train_variance", "learning_rate", "accuracy",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def best_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per fine-tuned checkpoint, with the best accuracy over learning rates; diverged runs have none."""
    tuned = rows_where(rows, kind="fine_tuning").groupby(
        ["dataset", "model", "seed", "pretrain_step"], sort=False, as_index=False
    )
    return tuned.agg(
        train_variance=("train_variance", "first"),
        accuracy=("accuracy", "max"),
        learning_rates=("learning_rate", "size"),
        measured=("accuracy", "count"),
    )


# ---------------------------------------------------------------- claims


def less_by_probing(rows: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the linear probe is less accurate than fine-tuning, where this is least and over checkpoints."""
    tuned, probed = (
        part.set_index("pretrain_step")["accuracy"]
        for part in (best_rates(rows), rows_where(rows, kind="linear_probe"))
    )
    less = tuned - probed
    return pd.DataFrame(
        {"least_loss_by_probing": [less.min(skipna=False)], "mean_loss_by_probing": [less.mean()]}
    )


_PER_CHECKPOINT: dict[str, Any] = {
    "per": ("dataset",),
    "runs": "pretrain_step",
    "fitted": None,
    "notes": [
        "The best learning rate is chosen on the test samples, as in the paper; runs that diverged have no accuracy."
    ],
}


EXPERIMENT = Experiment(
    id="hui2022/fig5",
    paper=PAPER,
    where="Fig. 5, sec. 4",
    title="Collapsed features transfer worse",
    question="A network is trained on two super-classes and then fine-tuned to the classes within them. Does it do worse "
    "when it starts from a checkpoint that has collapsed more?",
    presets={
        "paper": Preset(
            _paper,
            seeds=3,
            reduced="Nothing: MNIST and CIFAR-10, 100,000 steps of pre-training and of each fine-tuning. The paper names "
            "neither its checkpoints nor the learning rates within 0.0005 to 0.25: six of each. "
            f"{_LEFT_OPEN} Of CIFAR-10 they are drawn, as many of each class. {STANDARDIZE_NOTE}",
        ),
        "cpu": Preset(
            _cpu,
            seeds=3,
            reduced="The MNIST half; 20,000 steps of pre-training and 2,000 of fine-tuning instead of 100,000 each; six "
            f"checkpoints, six learning rates. {_LEFT_OPEN} {STANDARDIZE_NOTE}",
        ),
        "smoke": Preset(
            _smoke,
            seeds=1,
            reduced="300 + 200 digits of 8 x 8 pixels, layers of 32, three checkpoints, two learning rates. Shows that the "
            "machinery works, nothing else.",
        ),
    },
    rows=transfer_rows,
    figures={"fig5": figures.figure_5},
    charts=transfer_charts,
    claims=changed(
        correlates(
            "train_variance",
            "accuracy",
            "Checkpoints with more train collapse transfer worse.",
            id="collapse-transfers-worse",
            only={"kind": "fine_tuning"},
            rows=best_rates,
            **_PER_CHECKPOINT,
        ),
        at_end(
            "least_loss_by_probing",
            "Linear probing transfers worse than fine-tuning at every checkpoint.",
            above=(0.0,),
            scale="difference",
            beside="mean_loss_by_probing",
            id="probing-is-worse",
            where="Sec. 4.2",
            only={"kind": "[fl]*"},  # fine-tuning and linear probes
            rows=less_by_probing,
            **_PER_CHECKPOINT,
        ),
    ),
    extras=(Extra("linear_probe", probe_checkpoints),),
)
