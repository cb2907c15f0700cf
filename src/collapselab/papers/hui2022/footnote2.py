"""Footnote 2: networks whose train variance does not vanish, and dropout, which is said to accelerate collapse."""

from __future__ import annotations

from dataclasses import replace

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims.judges import lower_with, stays
from collapselab.experiments.experiment import Experiment, Job, Preset
from collapselab.experiments.rows import curve_rows
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
from collapselab.report.builders import (
    ACCURACY_LINES,
    VANISHED,
    VARIANCES,
    Lines,
    by_column,
    zero_train_error,
)

_DROPOUT = 0.5
_RATE = 0.01


def _dropout_jobs(data: DataSpec, width: int, steps: int, count: int, rate: float, seed: int) -> list[Job]:
    return [
        Job(
            f"{data.name}-mlp-dropout-{share:g}",
            recipe(
                "mlp",
                data,
                seed,
                steps=steps,
                learning_rate=rate,
                options=MLP | {"width": width, "dropout": share},
                count=count,
            ),
            {"dataset": data.name, "model": "mlp", "dropout": share},
        )
        for share in (0.0, _DROPOUT)
    ]


def _vgg_job(data: DataSpec, steps: int, batch_size: int, count: int, seed: int) -> Job:
    # torchvision's VGG drops half of the units of its two hidden linear layers, as the paper's.
    return Job(
        f"{data.name}-vgg11_bn",
        recipe("vgg11_bn", data, seed, steps=steps, batch_size=batch_size, count=count),
        {"dataset": data.name, "model": "vgg11_bn", "dropout": _DROPOUT},
    )


def _paper(seed: int) -> list[Job]:
    digits = images("mnist", train=balanced(10_000), test=balanced(1000))
    return [
        _vgg_job(images("cifar10"), 80_000, 128, 24, seed),
        _vgg_job(images("stl10"), 80_000, 128, 24, seed),
        *_dropout_jobs(digits, 1024, 80_000, 24, _RATE, seed),
    ]


def _cpu(seed: int) -> list[Job]:
    digits = images("mnist", train=balanced(1000), test=balanced(500))
    photographs = images("cifar10", train=balanced(1000), test=balanced(500))
    return [
        *_dropout_jobs(digits, 512, 4000, 16, _RATE, seed),
        _vgg_job(photographs, 400, 64, 8, seed),
    ]


def _smoke(seed: int) -> list[Job]:
    data = DataSpec(name="digits", train=first(300), test=first(300))
    return _dropout_jobs(data, 64, 300, 6, 0.05, seed)


_BY_DROPOUT = by_column("dropout", "dropout {:g}")

EXPERIMENT = Experiment(
    id="hui2022/footnote2",
    paper=PAPER,
    where="Footnote 2, sec. 2",
    title="Where train variance does not vanish, and what dropout does",
    question="Are there networks whose train variance does not go to zero? Does dropout make features collapse sooner?",
    presets={
        "paper": Preset(
            _paper,
            seeds=3,
            reduced="Nothing: VGG-11 with batch norm on CIFAR-10 and STL-10, 80,000 steps. The paper's experiment with "
            "dropout is not described; here it is an MLP of three layers of 1024 on 10,000 digits of MNIST. "
            f"{STANDARDIZE_NOTE}",
        ),
        "cpu": Preset(
            _cpu,
            seeds=3,
            reduced="VGG-11 on 1,000 images of CIFAR-10 for 400 steps of 64; an MLP of three layers of 512 on 1,000 "
            f"digits of MNIST for 4,000 steps. {STANDARDIZE_NOTE}",
        ),
        "smoke": Preset(
            _smoke,
            seeds=2,
            reduced="An MLP of three layers of 64 on 300 digits of 8 x 8 pixels; no VGG. Shows that the machinery works, "
            "nothing else.",
        ),
    },
    rows=curve_rows,
    charts=[
        Lines(
            "footnote2",
            "Train variance",
            VARIANCES[:1],
            split=_BY_DROPOUT,
            marks=(zero_train_error, VANISHED),
            share_x=False,
        ),
        Lines(
            "test-variance",
            "Strong test variance",
            VARIANCES[1:2],
            split=_BY_DROPOUT,
            share_x=False,
            on_paper=False,
        ),
        replace(ACCURACY_LINES, split=_BY_DROPOUT, share_x=False),
    ],
    claims=changed(
        stays(
            "train_variance",
            "With VGG architectures train variance does not collapse to a negligible value.",
            only={"model": "vgg*"},
        ),
        lower_with(
            "dropout",
            "train_variance",
            "Dropout accelerates collapse: train variance after the same number of steps is lower with it.",
            only={"model": "mlp"},
            per=("dataset", "model"),
        ),
    ),
)
