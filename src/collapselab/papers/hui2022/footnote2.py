"""Footnote 2: VGG networks, whose train variance does not vanish, and dropout, which accelerates collapse."""

from __future__ import annotations

from dataclasses import replace

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims.judges import lower_with, stays
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job, balanced, digits, job, scales
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import BEFORE_ARMS, in_arms, in_each_arm
from collapselab.papers.hui2022.common import changed, images, recipe
from collapselab.papers.hui2022.speed import sooner_with_dropout
from collapselab.records.recipe import Recipe
from collapselab.report import builders
from collapselab.report.builders import VARIANCES, Lines

_DROPOUT, _VGG = 0.5, "vgg11_bn-narrow"
_CPU_STEPS = 10_000
_CPU_DECAY = common.kept_decay(_CPU_STEPS)
_OPEN = f"{common.LEFT_OPEN} {common.STEM_NOTE} {common.STANDARDIZE_NOTE}"


def _mlps(seed: int, data: DataSpec, changes: Changes) -> list[Job]:
    one = recipe("mlp", data, seed, learning_rate=0.01, options=common.MLP)
    return _with_and_without(one, "mlp", changes)


def _with_and_without(one: Recipe, model: str, changes: Changes) -> list[Job]:
    name = "{dataset}-{model}-dropout-{dropout:g}"
    shares = {
        share: one.with_changes({"model.options.dropout": share, **changes}) for share in (0.0, _DROPOUT)
    }
    return [job(one, name, model=model, dropout=share) for share, one in shares.items()]


def _vggs(seed: int, names: tuple[str, ...], changes: Changes) -> list[Job]:
    # As in the paper, torchvision's VGG has dropout 0.5 in its two hidden linear layers.
    return [
        job(recipe("vgg11_bn", images(name), seed).with_changes(changes), dropout=_DROPOUT) for name in names
    ]


def _jobs(seed: int, changes: Changes) -> list[Job]:
    data = images("mnist", train=balanced(10_000), test=balanced(1000))
    return [*_vggs(seed, ("cifar10", "stl10"), changes), *_mlps(seed, data, changes)]


def _cpu(seed: int, changes: Changes) -> list[Job]:
    vgg = recipe(_VGG, images("cifar10", train=balanced(2500)), seed)
    mlps = _mlps(seed, images("mnist", train=balanced(1000)), {"model.options.width": 512, **changes})
    return [*mlps, *_with_and_without(vgg, _VGG, changes)]


_BY_DROPOUT = builders.by_column("dropout", "dropout {:g}")

_CHARTS = [
    Lines(
        "footnote2", "Train variance", VARIANCES[:1], split=_BY_DROPOUT, share_x=False,
        marks=(builders.zero_train_error, builders.VANISHED),
    ),
    Lines("test-variance", "Strong test variance", VARIANCES[1:2], split=_BY_DROPOUT, share_x=False, on_paper=False),
    replace(builders.ACCURACY_LINES, split=_BY_DROPOUT, share_x=False),
]  # fmt: skip
_CLAIMS = (
    *changed(*in_each_arm(
        stays(
            "train_variance", "Train variance of VGG networks does not become negligible.",
            only={"model": "vgg*", "dropout": f"{_DROPOUT:g}"},
        ),
        lower_with(
            "dropout", "train_variance", per=("dataset", "model"),
            says="Dropout accelerates collapse: after the same number of steps, train variance is lower with dropout.",
        ),
    )),
    *in_each_arm(
        sooner_with_dropout("train_variance", "Train variance falls to a common level in fewer steps with dropout."),
        sooner_with_dropout("train_loss", "Train loss in evaluation mode falls to a common level in fewer steps with dropout."),
    ),
)  # fmt: skip

EXPERIMENT = Experiment(
    id="hui2022/footnote2",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Footnote 2, sec. 2",
    title="Networks without train collapse, and the effect of dropout",
    question="Are there networks whose train variance does not converge to zero? Does dropout accelerate collapse?",
    presets=scales(
        in_arms(_jobs),
        paper=At(
            "Nothing is reduced: VGG-11 with batch norm on CIFAR-10 and STL-10, 80,000 steps. The paper does not describe "
            "its experiment with dropout; here it is an MLP with three layers of 1024 units on 10,000 digits of MNIST. "
            f"{_OPEN}"
        ),
        cpu=At(
            "VGG-11 with a quarter of the channels and 512 hidden units in the classifier, on 2,500 images of CIFAR-10, and an "
            "MLP with three layers of 512 units on 1,000 digits of MNIST, each with and without dropout; 1,000 test images; "
            f"{_CPU_STEPS:,} steps. The weight decay of the papyan arm is {_CPU_DECAY:g}, {common.KEPT}. MLPs "
            f"need more to collapse: their learning rate is 0.01, ten times that of the paper. {_OPEN}",
            changes={"data.test": balanced(1000), "steps": _CPU_STEPS, "measuring.count": 40},
            make=in_arms(_cpu, _CPU_DECAY),
        ),
        smoke=At(
            f"An MLP with three layers of 64 units on 300 digits of 8 x 8 pixels; no VGG. {common.SMOKE}",
            seeds=2,
            changes={
                "model.options.width": 64,
                "steps": 300,
                "measuring.count": 6,
                "optimizer.learning_rate": 0.05,
            },
            make=in_arms(lambda seed, changes: _mlps(seed, digits(300, 300), changes)),
        ),
    ),
    charts=_CHARTS,
    claims=_CLAIMS,
)
