"""What the experiments of Hui, Belkin and Nakkiran (2022) share: networks, optimisation, what is measured."""

from __future__ import annotations

from dataclasses import replace

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims import Claim
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Option
from collapselab.training import Recipe

PAPER = "Hui, Belkin, Nakkiran, Limitations of Neural Collapse for Understanding Generalization in Deep Learning (2022)"
BATCH_SIZE = 128  # sec. 3.2
STEPS = 80_000
MOMENTUM = 0.9
# Sec. 3.2: initial learning rates; all of them fall to 0 as a cosine.
LEARNING_RATES = {"resnet18": 0.1, "resnet50": 0.1, "densenet201": 0.01, "vgg11_bn": 0.01}
# Three hidden layers of 1024 (sec. 4.2 and 5.1); the paper says nothing of batch norm.
MLP: dict[str, Option] = {"width": 1024, "depth": 3, "batch_norm": False}
MLP_LEARNING_RATE = 0.001
_METRICS = ("normalized_within", "train_variance", "strong_test_variance")

# "Pixel-wise" in sec. 3.2 can mean one mean and deviation per pixel, or the same two numbers for every pixel. On colour
# photographs the first is taken, as it reads. Digits and clothes have border pixels that hardly any training image inks:
# divided by their tiny deviation they would be a hundred deviations large in some test images and dominate every
# variance. There it is the second.
STANDARDIZE_NOTE = "MNIST and FashionMNIST are standardised with one mean and deviation for all pixels."


def images(
    name: str,
    *,
    train: Sample | None = None,
    test: Sample | None = None,
    image_size: tuple[int, int] | None = None,
) -> DataSpec:
    """A data set, standardised as said above; the whole of it unless samples are given."""
    return DataSpec(
        name=name,
        train=train or Sample(),
        test=test or Sample(),
        standardize="channel" if name in ("mnist", "fashion_mnist") else "pixel",
        image_size=image_size,
    )


def balanced(count: int, skip: int = 0) -> Sample:
    return Sample(method="balanced", count=count, skip=skip)


def first(count: int, skip: int = 0) -> Sample:
    return Sample(method="first", count=count, skip=skip)


def recipe(
    model: str,
    data: DataSpec,
    seed: int,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float | None = None,
    options: dict[str, Option] | None = None,
    count: int = 24,
    weak: bool = False,
    stop_below_loss: float | None = None,
    checkpoints: Checkpoints | None = None,
) -> Recipe:
    """SGD with momentum 0.9, cross-entropy and a cosine schedule; the last layer is measured.

    Args:
        model: a name of torchvision, or `mlp` or `convnet`.
        learning_rate: default that of sec. 3.2 for this network.
        count: log-spaced measurements.
        weak: whether weak test variance is measured.
    """
    own = model in ("mlp", "convnet")
    return Recipe(
        model=ModelSpec(name=model if own else f"torchvision/{model}", options=options or {}),
        data=data,
        optimizer=Optimizer(
            learning_rate=LEARNING_RATES[model] if learning_rate is None else learning_rate, momentum=MOMENTUM
        ),
        steps=steps,
        batch_size=batch_size,
        stop_below_loss=stop_below_loss,
        seed=seed,
        measuring=Measuring(
            count=count, layers="last", metrics=_METRICS, weak_test_variance=weak, spectra=False
        ),
        checkpoints=checkpoints or Checkpoints(at=()),
    )


def changed(*claims: Claim) -> tuple[Claim, ...]:
    """Claims whose criterion is younger than the first results of this project."""
    note = "The criterion changed after first results had been seen; results/hui2022/README.md says how."
    return tuple(replace(claim, notes=[*claim.notes, note]) for claim in claims)
