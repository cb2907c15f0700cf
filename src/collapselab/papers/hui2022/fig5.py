"""Figure 5: checkpoints of more collapsed networks transfer worse.

Networks are trained on two super-classes; checkpoints along the way are fine-tuned to the classes within them, on other
samples, with a sweep of learning rates. Linear probes of the same checkpoints stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims.judges import at_end, correlates
from collapselab.experiments.experiment import Experiment, Extra
from collapselab.experiments.jobs import Job, checkpoint_of
from collapselab.experiments.recipes import SMOKE, At, Changes, balanced, digits, first, scales, sgd
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.common import changed, images
from collapselab.papers.hui2022.transfer import (
    PAGE_CHARTS,
    PENALTIES,
    best_rates,
    kinds,
    less_by_probing,
    probe_checkpoints,
    transfer_rows,
    transfers,
)
from collapselab.records.experiment import Label
from collapselab.records.recipe import Checkpoints, Measuring, Option, Recipe, StartFrom
from collapselab.report.builders import Points
from collapselab.report.chart import NEUTRAL, TEST, Look

# "We search over 0.0005 to 0.25": six values, evenly spaced on a logarithmic scale.
SWEEP = (0.0005, 0.0017, 0.006, 0.021, 0.072, 0.25)
_TEN = tuple((digit,) for digit in range(10))
_OBJECTS = ("airplane", "automobile", "ship", "truck")
_ANIMALS = ("bird", "cat", "frog", "horse")
_OPEN = (
    f"Batches are of {common.BATCH_SIZE}, as in sec. 3.2; the penalty of the linear probe is one of {PENALTIES}. {common.LEFT_OPEN} "
    f"{common.MLP_NOTE} {common.STANDARDIZE_NOTE} Of MNIST the samples are the first ones and those that follow them, the same for every "
    "seed."
)


@dataclass(frozen=True)
class _Half:
    """One panel of the figure: a network, the super-classes it is trained on, the classes it is fine-tuned to."""

    model: str
    learning_rate: float
    options: dict[str, Option]
    super_classes: DataSpec
    classes: DataSpec

    def pretraining(self, seed: int, checkpoints: Sequence[int]) -> Job:
        recipe = self._recipe(self.super_classes, checkpoints[-1], self.learning_rate, 16, seed)
        recipe = recipe.model_copy(update={"checkpoints": Checkpoints(at=tuple(checkpoints))})
        return Job(f"{self.classes.name}-pretraining", recipe, self._labels("pretraining"))

    def fine_tuning(self, seed: int, steps: int, checkpoint: int, rate: float) -> Job:
        name = self.classes.name
        start = StartFrom(checkpoint=checkpoint_of(f"{name}-pretraining", seed, checkpoint))
        recipe = self._recipe(self.classes, steps, rate, 2, seed)
        recipe = recipe.model_copy(update={"start": start, "checkpoints": Checkpoints(at=())})
        labels = self._labels("fine_tuning") | {"pretrain_step": checkpoint, "learning_rate": rate}
        return Job(f"{name}-from-{checkpoint}-lr-{rate:g}", recipe, labels, after=f"{name}-pretraining")

    def _labels(self, kind: str) -> dict[str, Label]:
        return {"kind": kind, "dataset": self.classes.name, "model": self.model}

    def _recipe(self, data: DataSpec, steps: int, rate: float, count: int, seed: int) -> Recipe:
        return sgd(
            self.model,
            data,
            seed,
            steps=steps,
            batch_size=common.BATCH_SIZE,
            learning_rate=rate,
            options=self.options,
            measuring=Measuring(
                count=count, layers="last", metrics=common.METRICS, weak_test_variance=False, spectra=False
            ),
        )


def _task(data: DataSpec, groups: Sequence[tuple[int | str, ...]]) -> DataSpec:
    return data.model_copy(update={"groups": tuple(groups)})


_MNIST = _Half(
    "mlp",
    common.MLP_LEARNING_RATE,
    common.MLP,
    _task(images("mnist", train=first(1000), test=first(200)), common.ODD_EVEN),
    _task(images("mnist", train=first(500, skip=1000), test=first(100, skip=200)), _TEN),
)
_CIFAR = _Half(
    "resnet18",
    common.LEARNING_RATES["resnet18"],
    {},
    _task(images("cifar10", train=balanced(20_000), test=balanced(4000)), (_OBJECTS, _ANIMALS)),
    _task(
        images("cifar10", train=balanced(10_000, skip=20_000), test=balanced(2000, skip=4000)),
        [(name,) for name in _OBJECTS + _ANIMALS],
    ),
)
_DIGITS = _Half(
    "mlp",
    0.05,
    common.MLP | {"width": 32},
    _task(digits(300, 200), common.ODD_EVEN),
    _task(DataSpec(name="digits", train=first(200, skip=300), test=first(200, skip=200)), _TEN),
)


def _jobs(
    seed: int,
    changes: Changes,
    halves: Sequence[_Half] = (_MNIST, _CIFAR),
    checkpoints: Sequence[int] = (1000, 3000, 10_000, 30_000, 60_000, 100_000),
    tuning: int = 100_000,
    sweep: Sequence[float] = SWEEP,
) -> list[Job]:
    jobs: list[Job] = []
    for half in halves:
        tuned = [half.fine_tuning(seed, tuning, step, rate) for step in checkpoints for rate in sweep]
        jobs += [half.pretraining(seed, checkpoints), *tuned]
    return [replace(job, recipe=job.recipe.with_changes(changes)) for job in jobs]


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
    paper=common.PAPER,
    where="Fig. 5, sec. 4",
    title="Collapsed features transfer worse",
    question="A network is trained on two super-classes and then fine-tuned to the classes within them. Does it do worse "
    "when it starts from a checkpoint that has collapsed more?",
    presets=scales(
        _jobs,
        paper=At(
            "Nothing is reduced: MNIST and CIFAR-10, 100,000 steps of pre-training and of each fine-tuning. The paper names "
            "neither its checkpoints nor the learning rates within 0.0005 to 0.25: six of each. "
            f"{_OPEN} Of CIFAR-10 they are drawn, as many of each class. {common.STEM_NOTE}",
        ),
        cpu=At(
            "The MNIST half; 20,000 steps of pre-training and 2,000 of fine-tuning instead of 100,000 each; six checkpoints, "
            f"six learning rates. {_OPEN}",
            jobs=partial(
                _jobs, halves=(_MNIST,), checkpoints=(200, 600, 2000, 6000, 12_000, 20_000), tuning=2000
            ),
        ),
        smoke=At(
            "300 + 200 digits of 8 x 8 pixels, layers of 32, three checkpoints, two learning rates. " + SMOKE,
            seeds=1,
            changes={"batch_size": 64},
            jobs=partial(_jobs, halves=(_DIGITS,), checkpoints=(20, 60, 200), tuning=60, sweep=(0.01, 0.1)),
        ),
    ),
    rows=transfer_rows,
    charts=[
        Points(
            "fig5",
            "Accuracy after transfer, by collapse of the checkpoint",
            x="train_variance",
            y="accuracy",
            x_title="train variance of the checkpoint (left: more collapse)",
            y_title="downstream test accuracy",
            select=transfers,
            split=kinds,
            group="pretrain_step",
            label="step {:,}",
            percent=True,
            looks=(Look(TEST), Look(NEUTRAL, marker="square")),
            text="Fine-tuning has the best of all learning rates on these same test samples.",
        ),
        *PAGE_CHARTS,
    ],
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
            "least_accuracy_lost_by_probing",
            "Linear probing transfers worse than fine-tuning at every checkpoint.",
            above=(0.0,),
            scale="difference",
            beside="mean_accuracy_lost_by_probing",
            id="probing-is-worse",
            where="Sec. 4.2",
            rows=less_by_probing,
            only={"kind": "[fl]*"},  # fine-tuning and linear probes
            **_PER_CHECKPOINT,
        ),
    ),
    extras=(Extra("linear_probe", probe_checkpoints),),
)
