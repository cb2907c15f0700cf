"""Section 2.1 and 4.1: what the definitions of collapse allow, shown on networks that are trained or constructed.

Some of the networks are trained: one past zero error, one for a single epoch, one on two super-classes. The others are
constructed: the one-hot decisions of the first, and two that know the train set by heart.
"""

from __future__ import annotations

from collapselab.experiments.experiment import Experiment, Extra
from collapselab.experiments.jobs import Job
from collapselab.experiments.recipes import At, Changes, balanced, digits, scales
from collapselab.papers.hui2022 import claims, figures
from collapselab.papers.hui2022.common import (
    LEFT_OPEN,
    MLP,
    MLP_NOTE,
    ODD_EVEN,
    PAPER,
    STANDARDIZE_NOTE,
    images,
    recipe,
)
from collapselab.papers.hui2022.measured_constructions import (
    PENALTIES,
    construction_rows,
    measure_constructions,
)
from collapselab.report.experiment_charts import construction_charts

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
    figures={"sec2": figures.figure_sec2},
    charts=construction_charts,
    claims=claims.SEC2,
    extras=(Extra("constructions", measure_constructions),),
    is_whole=True,
)
