"""Figure 4: with more training data, features collapse more on test data and less on train data."""

from __future__ import annotations

from functools import partial

from collapselab.experiments.claims.judges import correlates
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job, balanced, digits, first, job, scales
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import BEFORE_ARMS, in_arms, in_each_arm
from collapselab.papers.hui2022.common import changed, images, recipe
from collapselab.report.builders import FINAL_VARIANCES, FITTED, SPREAD, Lines, Points, by_column, ends
from collapselab.report.chart import Axis

_NAME = "{dataset}-{model}-{num_train}"
_SETTINGS = (
    *(("cifar10", "resnet18", size) for size in (12_500, 25_000, 30_000, 40_000, 50_000)),
    *(("fashion_mnist", "vgg11_bn", size) for size in (12_000, 24_000, 36_000, 48_000, 60_000)),
)
_CPU_SETTINGS = tuple(("cifar10", "resnet18-narrow", size) for size in (1000, 2000, 4000, 8000, 16_000))
_CPU_STEPS, _CPU_LOSS = 6000, 2e-3
_PER = ("dataset", "model", "arm")
_OPEN = f"{common.LEFT_OPEN} {common.STEM_NOTE}"


def _jobs(seed: int, changes: Changes, settings: tuple[tuple[str, str, int], ...] = _SETTINGS) -> list[Job]:
    jobs = []
    for name, model, size in settings:
        data = images(name, train=balanced(size), resized=True)
        one = recipe(model, data, seed, stop_below_loss=1e-6).with_changes(changes)
        jobs.append(job(one, _NAME, model=model, num_train=size))
    return jobs


def _smoke(seed: int, changes: Changes) -> list[Job]:
    small = recipe(
        "mlp", digits(400, 400), seed, learning_rate=0.05, options={**common.MLP, "width": 32, "depth": 2}
    )
    return [
        job(small.with_changes({**changes, "data.train": first(size)}), _NAME, num_train=size)
        for size in (100, 200, 400)
    ]


_TRAIN, _TEST = (Axis(f"{name} variance at the last step", "tight") for name in ("train", "strong test"))

_CHARTS = [
    Points(
        "fig4", "Train against test variance at the end", x="train_variance", y="strong_test_variance_final",
        axes=(_TRAIN, _TEST), split=by_column("num_train", "{:,} samples"), group="num_train",
        hollow=(lambda rows: rows["train_accuracy"] < FITTED, "over 0.1% train errors"),
        text="Full collapse is at 0 on both axes.",
    ),
    Lines(
        "by-size", "Variances by number of training samples", FINAL_VARIANCES, x="num_train", select=ends,
        axes=(Axis("training samples", "log"), SPREAD), references=False, on_paper=False,
    ),
]  # fmt: skip
_CLAIMS = changed(*in_each_arm(
    correlates(
        "num_train", "strong_test_variance", "Strong test variance is lower with more training samples.", sign=-1, per=_PER,
    ),
    correlates("num_train", "train_variance", "Train variance is higher with more training samples.", per=_PER),
))  # fmt: skip

EXPERIMENT = Experiment(
    id="hui2022/fig4",
    before=BEFORE_ARMS,
    paper=common.PAPER,
    where="Fig. 4, sec. 3.3",
    title="Train collapse and test collapse, by the size of the train set",
    question="With more training samples, do features collapse more on train data, and on test data?",
    presets=scales(
        in_arms(_jobs),
        paper=At(
            "Nothing is reduced: each network is trained until its loss is below 1e-6, for at most 80,000 steps. The paper "
            "does not specify the loss; here it is the mean over an epoch of training, with the dropout of VGG-11. The paper "
            "does not specify the subsets of FashionMNIST; here they have 12,000 to 60,000 images. Subsets have equally many "
            f"images of each class. {_OPEN} {common.STANDARDIZE_NOTE}"
        ),
        cpu=At(
            "ResNet-18 with a quarter of the channels on 1,000 to 16,000 images of CIFAR-10 instead of 12,500 to 50,000, equally "
            "many of each class; no FashionMNIST. Each network is trained until its loss on the train set, in evaluation mode, is "
            f"below {_CPU_LOSS:g} instead of 1e-6, for at most {_CPU_STEPS:,} steps. The weight decay of the papyan arm is "
            "5e-4 although there are fewer steps: it bounds the loss from below, and with 2e-3 the loss of a pilot run on 1,000 "
            f"images stayed above three times the limit. {_OPEN}",
            seeds=5,
            changes={
                "stop_below_loss": _CPU_LOSS,
                "stop_loss": "evaluation",
                "steps": _CPU_STEPS,
                "measuring.count": 8,
            },
            make=in_arms(partial(_jobs, settings=_CPU_SETTINGS)),
        ),
        smoke=At(
            f"An MLP on 100 to 400 digits of 8 x 8 pixels, 200 steps. {common.SMOKE}",
            seeds=2,
            changes={"steps": 200, "measuring.count": 3},
            make=in_arms(_smoke),
        ),
    ),
    charts=_CHARTS,
    claims=_CLAIMS,
)
