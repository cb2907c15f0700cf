"""Figures 1 to 5 and 8 to 14, sec. 6: every property of neural collapse in every layer, along training."""

from __future__ import annotations

from collections.abc import Sequence

from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import SMOKE, At, Changes, Job, balanced, digits, job, scales
from collapselab.papers.rangamani2023 import common
from collapselab.papers.rangamani2023.common import (
    CONVNET,
    DATASETS,
    MLP,
    NARROW,
    images,
    kept_decay,
    paper_steps,
    recipe,
)
from collapselab.papers.rangamani2023.layer_claims import CLAIMS
from collapselab.papers.rangamani2023.layer_rows import layer_rows, measure_recalibrated
from collapselab.papers.rangamani2023.properties import PROPERTIES, along_training
from collapselab.records.recipe import ModelSpec


def _jobs(seed: int, changes: Changes) -> list[Job]:
    jobs = []
    for name, (_, depth) in DATASETS.items():
        networks = [(MLP, MLP), (CONVNET, CONVNET), (f"torchvision/resnet{depth}", f"resnet{depth}")]
        for model, label in networks:
            data = images(name, resized=label.startswith("resnet"))
            jobs.append(
                job(
                    recipe(ModelSpec(name=model), data, seed, paper_steps(name)).with_changes(changes),
                    model=label,
                )
            )
    return jobs


_CPU = (
    (ModelSpec(name=MLP, options={"width": 256, "depth": 10}), MLP, "mnist", 7000, 6000),
    (ModelSpec(name=CONVNET, options={"width": 32, "depth": 10}), CONVNET, "cifar10", 2000, 3000),
    (NARROW, "resnet18-narrow", "cifar10", 2000, 3000),
)


def _cpu(seed: int, changes: Changes) -> list[Job]:
    jobs = []
    for model, label, dataset, images_used, steps in _CPU:
        own = {
            "data.train": balanced(images_used),
            "data.test": balanced(1500),
            "optimizer.weight_decay": kept_decay(steps),
        }
        jobs.append(
            job(recipe(model, images(dataset), seed, steps).with_changes({**own, **changes}), model=label)
        )
    return jobs


def _smoke(seed: int, changes: Changes) -> Sequence[Job]:
    model = ModelSpec(name=MLP, options={"width": 32, "depth": 4})
    return [job(recipe(model, digits(300, 200), seed, 150).with_changes(changes))]


EXPERIMENT = Experiment(
    id="rangamani2023/layers",
    paper=common.PAPER,
    where="Fig. 1 to 5 and 8 to 14, sec. 5 and 6",
    title="Intermediate neural collapse",
    question="Which layers collapse, and which of the properties of neural collapse do they have?",
    presets=scales(
        _jobs,
        paper=At(
            "Nothing is reduced: 350 epochs of every network on every data set. The paper changed hyperparameters of some networks, "
            f"and gives their values only with its code; here all have those of its text. {common.LEFT_OPEN}"
        ),
        cpu=At(
            "One data set per network: an MLP of 10 layers of 256 units on 7,000 digits of MNIST (6,000 steps), a ConvNet of 10 layers "
            "of 32 channels and ResNet-18 with a quarter of its channels on 2,000 images of CIFAR-10 (3,000 steps). Samples are drawn "
            f"for each seed, equally many of each class; 1,500 test samples. {common.CPU_DECAY_NOTE} {common.LEFT_OPEN}",
            seeds=5,
            make=_cpu,
        ),
        smoke=At(
            f"300 digits of 8 x 8 pixels, an MLP of 4 layers of 32 units, 150 steps. {SMOKE}",
            seeds=1,
            changes={"measuring.count": 3, "optimizer.learning_rate": 0.05, "optimizer.weight_decay": 0.01},
            make=_smoke,
        ),
    ),
    rows=layer_rows,
    extras={"recalibrated": measure_recalibrated},
    charts=[*PROPERTIES, along_training],
    claims=CLAIMS,
)  # fmt: skip
