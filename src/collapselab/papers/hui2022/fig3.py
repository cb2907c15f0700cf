"""Figures 1 and 3: ResNet-18 on CIFAR-10 collapses on train data but not on test data, neither strongly nor weakly."""

from __future__ import annotations

from functools import partial

from collapselab.experiments.claims.judges import agrees, gap, stays, vanishes
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job, balanced, digits, job, scales
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import BEFORE_ARMS, DECIDED, in_arms, in_each_arm
from collapselab.papers.hui2022.common import images, recipe
from collapselab.report.builders import ACCURACY_LINES, VANISHED, VARIANCES, Lines, zero_train_error


def _jobs(seed: int, changes: Changes, model: str = "resnet18") -> list[Job]:
    one = recipe(model, images("cifar10"), seed, weak=True).with_changes(changes)
    return [job(one, model=model)]


_CPU_STEPS = 6000
_CPU_DECAY = common.kept_decay(_CPU_STEPS)
_MARKS = (zero_train_error, VANISHED)

EXPERIMENT = Experiment(
    id="hui2022/fig3",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Fig. 1 and 3, sec. 3.3",
    title="Collapse on the train set and on the test set",
    question="If a network is trained past zero error, do its last-layer features collapse to k points on training samples, "
    "and on test samples?",
    presets=scales(
        in_arms(_jobs),
        paper=At(f"Nothing is reduced: 50,000 images, 80,000 steps. {common.LEFT_OPEN} {common.STEM_NOTE}"),
        cpu=At(
            "ResNet-18 of timm with a quarter of the channels in each stage; 2,500 training images, equally many of each class, "
            f"instead of 50,000, and all test images; 6,000 steps instead of 80,000. The weight decay of the papyan arm is {_CPU_DECAY:g}, {common.KEPT}. "
            f"The first layers are designed for large images. {common.LEFT_OPEN}",
            seeds=5,
            changes={
                "data.train": balanced(2500),
                "steps": _CPU_STEPS,
                # Features collapse in the last third of the steps, where log-spaced ones are far apart.
                "measuring.count": 12,
                "measuring.at": (3500, 4500, 5200),
            },
            make=in_arms(partial(_jobs, model="resnet18-narrow"), _CPU_DECAY),
        ),
        smoke=At(
            "The narrow network of the scale cpu on 200 training and 200 test digits of 8 x 8 pixels; 30 steps with batches of "
            f"32. {common.SMOKE}",
            seeds=1,
            changes={"data": digits(200, 200), "steps": 30, "batch_size": 32, "measuring.count": 4},
            make=in_arms(partial(_jobs, model="resnet18-narrow")),
        ),
    ),
    charts=[
        Lines("fig1", "Train variance and strong test variance", VARIANCES[:2], marks=_MARKS),
        Lines("fig3", "Train, strong and weak test variance", VARIANCES, marks=_MARKS),
        ACCURACY_LINES,
    ],
    claims=(
        DECIDED,
        *in_each_arm(
            vanishes("train_variance", "Train variance converges to 0."),
            stays(
                "strong_test_variance",
                "Strong test variance does not converge to 0.",
                beside="train_variance",
            ),
            stays(
                "weak_test_variance", "Weak test variance does not converge to 0.", beside="train_variance"
            ),
            gap(
                "strong_test_variance", "train_variance", "Strong test variance is far above train variance."
            ),
            gap(
                "strong_test_variance",
                "weak_test_variance",
                "Weak test variance is smaller than strong test variance.",
                decades=(0.0, 0.1, 0.3),
            ),
            agrees(
                "weak_test_variance",
                "strong_test_variance",
                "Weak test variance is within a factor of 3 of strong test variance.",
                where="Sec. 3.3 (“similar behavior”)",
            ),
        ),
    ),
)
