"""Figure 4: with more training data, more collapse on test data and less on train data."""

from __future__ import annotations

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims.judges import correlates
from collapselab.experiments.experiment import Experiment, Job, Preset
from collapselab.experiments.rows import ended_rows
from collapselab.papers.hui2022.common import (
    PAPER,
    STANDARDIZE_NOTE,
    balanced,
    changed,
    first,
    images,
    recipe,
)
from collapselab.report.builders import FINAL_VARIANCES, FITTED, Lines, Points, by_column, ends

_CIFAR_SIZES = (12_500, 25_000, 30_000, 40_000, 50_000)
_FASHION_SIZES = (12_000, 24_000, 36_000, 48_000, 60_000)
_CPU_SIZES = (500, 1000, 2000, 4000)
_STOP_BELOW_LOSS = 1e-6
_PER = ("dataset", "model")


def _paper(seed: int) -> list[Job]:
    settings = [("cifar10", "resnet18", size) for size in _CIFAR_SIZES]
    settings += [("fashion_mnist", "vgg11_bn", size) for size in _FASHION_SIZES]
    return [
        Job(
            f"{name}-{model}-{size}",
            recipe(
                model,
                images(name, train=balanced(size), image_size=(32, 32) if name == "fashion_mnist" else None),
                seed,
                stop_below_loss=_STOP_BELOW_LOSS,
            ),
            {"dataset": name, "model": model, "num_train": size},
        )
        for name, model, size in settings
    ]


def _cpu(seed: int) -> list[Job]:
    return [
        Job(
            f"cifar10-resnet18-{size}",
            recipe(
                "resnet18",
                images("cifar10", train=balanced(size), test=balanced(1000)),
                seed,
                steps=1500,
                count=8,
                stop_below_loss=_STOP_BELOW_LOSS,
            ),
            {"dataset": "cifar10", "model": "resnet18", "num_train": size},
        )
        for size in _CPU_SIZES
    ]


def _smoke(seed: int) -> list[Job]:
    jobs = []
    for size in (100, 200, 400):
        data = DataSpec(name="digits", train=first(size), test=first(400))
        small = recipe(
            "mlp", data, seed, steps=200, count=3, learning_rate=0.05, options={"width": 32, "depth": 2}
        )
        jobs.append(
            Job(f"digits-mlp-{size}", small, {"dataset": "digits", "model": "mlp", "num_train": size})
        )
    return jobs


EXPERIMENT = Experiment(
    id="hui2022/fig4",
    paper=PAPER,
    where="Fig. 4, sec. 3.3",
    title="Train collapse and test collapse, by the size of the train set",
    question="When there are more samples to train on, do features collapse more, on train data and on test data?",
    presets={
        "paper": Preset(
            _paper,
            seeds=3,
            reduced="Nothing: each network is trained until its loss is below 1e-6, for at most 80,000 steps. The loss "
            "is the mean over an epoch of training, with the dropout that VGG-11 has; the paper does not say which it "
            "means. Nor does it say which subsets of FashionMNIST it takes; these are 12,000 to 60,000 images. Subsets "
            f"have as many images of each class. {STANDARDIZE_NOTE}",
        ),
        "cpu": Preset(
            _cpu,
            seeds=3,
            reduced="ResNet-18 on 500, 1,000, 2,000 and 4,000 images of CIFAR-10 instead of 12,500 to 50,000, 1,000 test "
            "images, as many of each class; at most 1,500 steps, over which the learning rate falls to 0, so that most "
            "networks end above a loss of 1e-6. No FashionMNIST.",
        ),
        "smoke": Preset(
            _smoke,
            seeds=2,
            reduced="An MLP on 100 to 400 digits of 8 x 8 pixels, 200 steps. Shows that the machinery works, nothing else.",
        ),
    },
    rows=ended_rows,
    charts=[
        Points(
            "fig4",
            "Train against test variance at the end",
            x="train_variance",
            y="strong_test_variance_final",
            x_title="train variance at the last step",
            y_title="strong test variance at the last step",
            split=by_column("num_train", "{:,} samples"),
            group="num_train",
            hollow=(lambda rows: rows["train_accuracy"] < FITTED, "over 0.1 % train errors"),
            text="Full collapse is at 0 on both axes.",
        ),
        Lines(
            "by-size",
            "The same by number of training samples",
            FINAL_VARIANCES,
            x="num_train",
            x_title="training samples",
            select=ends,
            references=False,
            on_paper=False,
        ),
    ],
    claims=changed(
        correlates(
            "num_train",
            "strong_test_variance",
            "With more train samples strong test variance is lower.",
            sign=-1,
            per=_PER,
        ),
        correlates(
            "num_train", "train_variance", "With more train samples train variance is higher.", per=_PER
        ),
    ),
)
