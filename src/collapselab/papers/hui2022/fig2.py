"""Figure 2: the same gap between train and test on every combination of data set and network."""

from __future__ import annotations

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims.judges import gap, stays
from collapselab.experiments.experiment import Experiment, Job, Preset
from collapselab.experiments.rows import curve_rows
from collapselab.papers.hui2022.common import PAPER, STANDARDIZE_NOTE, balanced, first, images, recipe
from collapselab.report.builders import ACCURACY_LINES, VANISHED, VARIANCES, Lines

_NETWORKS = ("resnet18", "densenet201", "vgg11_bn")
_STL_NETWORKS = ("resnet50", "densenet201", "vgg11_bn")
# Five halvings leave nothing of 28 pixels.
_SIZE_OF_GREY = (32, 32)
_SVHN_TRAIN, _SVHN_TEST = 4600, 1500  # of each class


def _data(name: str) -> DataSpec:
    if name == "svhn":
        return images(
            name,
            train=Sample(method="balanced", per_class=_SVHN_TRAIN),
            test=Sample(method="balanced", per_class=_SVHN_TEST),
        )
    return images(name, image_size=_SIZE_OF_GREY if name in ("mnist", "fashion_mnist") else None)


def _paper(seed: int) -> list[Job]:
    pairs = [(name, model) for name in ("mnist", "fashion_mnist", "cifar10", "svhn") for model in _NETWORKS]
    pairs += [("stl10", model) for model in _STL_NETWORKS]
    return [
        Job(f"{name}-{model}", recipe(model, _data(name), seed), {"dataset": name, "model": model})
        for name, model in pairs
    ]


def _cpu(seed: int) -> list[Job]:
    return [
        Job(
            f"{name}-{model}",
            recipe(
                model,
                images(
                    name,
                    train=balanced(1000),
                    test=balanced(500),
                    image_size=_SIZE_OF_GREY if name == "mnist" else None,
                ),
                seed,
                steps=400,
                batch_size=64,
                count=10,
            ),
            {"dataset": name, "model": model},
        )
        for name in ("mnist", "cifar10")
        for model in _NETWORKS
    ]


def _smoke(seed: int) -> list[Job]:
    data = DataSpec(name="digits", train=first(200), test=first(200))
    residual = recipe("resnet18", data, seed, steps=20, batch_size=32, count=4)
    plain = recipe(
        "convnet",
        data,
        seed,
        steps=40,
        batch_size=32,
        count=4,
        learning_rate=0.05,
        options={"width": 16, "depth": 2},
    )
    # The stem of the plain network halves twice; grey digits in one channel are all it needs.
    return [
        Job("digits-resnet18", residual, {"dataset": "digits", "model": "resnet18"}),
        Job(
            "digits-convnet",
            plain.with_changes({"data.channels": 1}),
            {"dataset": "digits", "model": "convnet"},
        ),
    ]


EXPERIMENT = Experiment(
    id="hui2022/fig2",
    paper=PAPER,
    where="Fig. 2, sec. 3.3",
    title="Train and test variance on data sets and networks",
    question="Does the gap between collapse on train data and on test data depend on the data set or on the network?",
    presets={
        "paper": Preset(
            _paper,
            seeds=1,
            reduced="Nothing: 80,000 steps of each of 15 networks. Grey images are brought to 32 x 32 pixels and three "
            f"equal channels, which the networks need. {STANDARDIZE_NOTE}",
        ),
        "cpu": Preset(
            _cpu,
            seeds=1,
            reduced="MNIST and CIFAR-10 of the five data sets, 1,000 training and 500 test images of each, 400 steps of "
            f"64 images instead of 80,000 of 128. {STANDARDIZE_NOTE}",
        ),
        "smoke": Preset(
            _smoke,
            seeds=1,
            reduced="200 + 200 digits of 8 x 8 pixels; ResNet-18 and a small plain network, a few dozen steps. Shows "
            "that the machinery works, nothing else.",
        ),
    },
    rows=curve_rows,
    charts=[
        Lines("fig2", "Train and strong test variance", VARIANCES[:2], marks=(VANISHED,), grid=True),
        ACCURACY_LINES,
    ],
    claims=(
        stays("strong_test_variance", "Strong test variance becomes negligible in no setting."),
        gap(
            "strong_test_variance",
            "train_variance",
            "Strong test variance is far above train variance everywhere.",
        ),
        stays("train_variance", "Train variance is not close to 0 in every setting.", anywhere=True),
    ),
)
