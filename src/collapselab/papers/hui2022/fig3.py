"""Figures 1 and 3: ResNet-18 on CIFAR-10 collapses on train data and not on test data, strongly or weakly."""

from __future__ import annotations

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims.judges import agrees, gap, stays, vanishes
from collapselab.experiments.experiment import Experiment, Job, Preset
from collapselab.experiments.rows import curve_rows
from collapselab.papers.hui2022.common import PAPER, balanced, changed, first, images, recipe
from collapselab.report.builders import ACCURACY_LINES, VANISHED, VARIANCES, Lines, zero_train_error

_LABELS = {"dataset": "cifar10", "model": "resnet18"}


def _paper(seed: int) -> list[Job]:
    return [Job("cifar10-resnet18", recipe("resnet18", images("cifar10"), seed, weak=True), _LABELS)]


def _cpu(seed: int) -> list[Job]:
    data = images("cifar10", train=balanced(2000), test=balanced(1000))
    return [Job("cifar10-resnet18", recipe("resnet18", data, seed, steps=3000, count=16, weak=True), _LABELS)]


def _smoke(seed: int) -> list[Job]:
    data = DataSpec(name="digits", train=first(200), test=Sample(method="first", count=200))
    small = recipe("resnet18", data, seed, steps=30, batch_size=32, count=4, weak=True)
    return [Job("digits-resnet18", small, {"dataset": "digits", "model": "resnet18"})]


EXPERIMENT = Experiment(
    id="hui2022/fig3",
    also=("hui2022/fig1",),
    paper=PAPER,
    where="Fig. 1 and 3, sec. 3.3",
    title="Collapse on the train set, not on the test set",
    question="While a network is trained past zero error, do its last-layer features gather at k points on the samples it "
    "was trained on, and on samples it was not?",
    presets={
        "paper": Preset(_paper, seeds=3, reduced="Nothing: 50,000 images, 80,000 steps."),
        "cpu": Preset(
            _cpu,
            seeds=3,
            reduced="2,000 training and 1,000 test images, balanced, instead of 50,000 and 10,000; 3,000 steps "
            "instead of 80,000.",
        ),
        "smoke": Preset(
            _smoke,
            seeds=1,
            reduced="200 + 200 digits of 8 x 8 pixels instead of CIFAR-10; 30 steps of 32 images. Shows that the "
            "machinery works, nothing else.",
        ),
    },
    rows=curve_rows,
    charts=[
        Lines(
            "fig1",
            "Train variance and strong test variance",
            VARIANCES[:2],
            marks=(zero_train_error, VANISHED),
        ),
        Lines("fig3", "The same with weak test variance", VARIANCES, marks=(zero_train_error, VANISHED)),
        ACCURACY_LINES,
    ],
    claims=changed(
        vanishes("train_variance", "Train variance converges to 0."),
        stays(
            "strong_test_variance", "Strong test variance does not converge to 0.", beside="train_variance"
        ),
        stays("weak_test_variance", "Weak test variance does not converge to 0.", beside="train_variance"),
        gap("strong_test_variance", "train_variance", "Strong test variance is far above train variance."),
        gap(
            "strong_test_variance",
            "weak_test_variance",
            "Weak test variance is smaller than strong test variance.",
            decades=(0.0, 0.1, 0.3),
        ),
        agrees(
            "weak_test_variance", "strong_test_variance", "Weak test variance is like strong test variance."
        ),
    ),
)
