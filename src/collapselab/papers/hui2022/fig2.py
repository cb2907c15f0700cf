"""Figure 2: the gap between train and test variance on every combination of data set and network."""

from __future__ import annotations

from functools import partial

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims.judges import at_end, gap
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job, balanced, digits, job, scales
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import BEFORE_ARMS, in_arms, in_each_arm
from collapselab.papers.hui2022.common import images, recipe
from collapselab.report.builders import ACCURACY_LINES, VANISHED, VARIANCES, Lines

_NETWORKS = ("resnet18", "densenet201", "vgg11_bn")
_PAIRS = (
    *((name, model) for name in ("mnist", "fashion_mnist", "cifar10", "svhn") for model in _NETWORKS),
    *(("stl10", model) for model in ("resnet50", "densenet201", "vgg11_bn")),
)
_SMALL = ("resnet18-narrow", "densenet-small", "vgg11_bn-narrow")
_CPU_PAIRS = tuple((name, model) for name in ("mnist", "cifar10") for model in _SMALL)
_CPU_STEPS = 2000
_CPU_DECAY = common.kept_decay(_CPU_STEPS)
_OPEN = f"{common.LEFT_OPEN} {common.STEM_NOTE} {common.STANDARDIZE_NOTE}"


def _data(name: str) -> DataSpec:
    if name == "svhn":
        train, test = (Sample(method="balanced", per_class=count) for count in (4600, 1500))
        return images(name, train=train, test=test)
    return images(name, resized=True)


def _jobs(seed: int, changes: Changes, pairs: tuple[tuple[str, str], ...] = _PAIRS) -> list[Job]:
    return [job(recipe(model, _data(name), seed).with_changes(changes), model=model) for name, model in pairs]


def _smoke(seed: int, changes: Changes) -> list[Job]:
    data = digits(200, 200)
    residual = recipe("resnet18-narrow", data, seed, steps=20)
    # The convnet halves the resolution twice in its first layers; it accepts grey images with one channel.
    grey, small = data.model_copy(update={"channels": 1}), {"width": 16, "depth": 2}
    plain = recipe("convnet", grey, seed, steps=40, learning_rate=0.05, options=small)
    return [
        job(residual.with_changes(changes), model="resnet18-narrow"),
        job(plain.with_changes(changes)),
    ]


EXPERIMENT = Experiment(
    id="hui2022/fig2",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Fig. 2, sec. 3.3",
    title="Train and test variance on data sets and networks",
    question="Does the gap between collapse on train data and on test data depend on the data set or on the network?",
    presets=scales(
        in_arms(_jobs),
        paper=At(
            "Nothing is reduced: 15 networks, 80,000 steps each. Grey images are resized to 32 x 32 pixels with three equal "
            f"channels, as the networks require. {_OPEN}",
            seeds=1,
        ),
        cpu=At(
            "MNIST and CIFAR-10 instead of five data sets, 1,500 training images of each and all test images; ResNet-18 and "
            "VGG-11 with a quarter of the channels and 512 hidden units in the classifier of VGG; a DenseNet with 4 blocks of 4 "
            f"layers and growth rate 16; {_CPU_STEPS:,} steps instead of 80,000. The weight decay of the papyan arm is "
            f"{_CPU_DECAY:g}, {common.KEPT}. {_OPEN}",
            changes={
                "data.train": balanced(1500),
                "steps": _CPU_STEPS,
                "measuring.count": 8,
                "measuring.at": (1150, 1500, 1750),  # log-spaced ones are far apart where features collapse
            },
            make=in_arms(partial(_jobs, pairs=_CPU_PAIRS), _CPU_DECAY),
        ),
        smoke=At(
            f"200 + 200 digits of 8 x 8 pixels; a narrow ResNet-18 and a small plain network, a few dozen steps. {common.SMOKE}",
            seeds=1,
            changes={"batch_size": 32, "measuring.count": 4},
            make=in_arms(_smoke),
        ),
    ),
    charts=[
        Lines("fig2", "Train and strong test variance", VARIANCES[:2], marks=(VANISHED,), grid=True),
        ACCURACY_LINES,
    ],
    claims=in_each_arm(
        # At the last step the learning rate is 0, so that nothing is still falling.
        at_end(
            "strong_test_variance",
            "Strong test variance does not become negligible in any setting.",
            above=(0.1, 0.03, 0.3),
        ),
        gap(
            "strong_test_variance",
            "train_variance",
            "Strong test variance is far above train variance in every setting whose train variance vanished.",
            vanished=0.1,
        ),
        at_end(
            "train_variance",
            "On CIFAR-10, SVHN or STL-10, train variance does not become negligible in some settings.",
            above=(0.1, 0.03, 0.3),
            only={"dataset": "[cs]*"},  # those three
            anywhere=True,
        ),
    ),
)
