"""What the experiments of Hui, Belkin and Nakkiran (2022) share: networks, optimisation, what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims import Claim
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Option, Recipe

PAPER = "Hui, Belkin, Nakkiran, Limitations of Neural Collapse for Understanding Generalization in Deep Learning (2022)"
BATCH_SIZE = 128  # sec. 3.2
STEPS = 80_000
# Sec. 3.2, 4.2 and 5.1: initial learning rates; all of them fall to 0 as a cosine.
LEARNING_RATES = {"resnet18": 0.1, "resnet50": 0.1, "densenet201": 0.01, "vgg11_bn": 0.01, "mlp": 0.001}
# Three hidden layers of 1024 (sec. 4.2 and 5.1).
MLP: dict[str, Option] = {"width": 1024, "depth": 3, "batch_norm": False}
# The classes of both MNIST and the digits, in the two super-classes of sec. 4.
ODD_EVEN = ((1, 3, 5, 7, 9), (0, 2, 4, 6, 8))
METRICS = ("normalized_within", "train_variance", "strong_test_variance")

# ---------------------------------------------------------------- what the paper leaves open

LEFT_OPEN = (
    "The paper mentions no weight decay (none here) and no evaluation mode (features are measured in it)."
)
STEM_NOTE = "Networks are torchvision's, with its stems for large images."
MLP_NOTE = "MLPs have no batch norm."
# "Pixel-wise" in sec. 3.2 can mean one mean and deviation per pixel, or the same two numbers for every pixel. On colour
# photographs the first is taken, as it reads. Digits and clothes have border pixels that hardly any training image inks:
# divided by their tiny deviation, a few test images would have values of a hundred deviations, and these outliers would
# dominate every variance. There it is the second.
STANDARDIZE_NOTE = "MNIST and FashionMNIST are standardised with one mean and deviation for all pixels."


def images(
    name: str,
    *,
    train: Sample | None = None,
    test: Sample | None = None,
    image_size: tuple[int, int] | None = None,
) -> DataSpec:
    """Return a data set, standardised as described above; all of it unless samples are given."""
    return DataSpec(
        name=name,
        train=train or Sample(),
        test=test or Sample(),
        standardize="channel" if name in ("mnist", "fashion_mnist") else "pixel",
        image_size=image_size,
    )


def recipe(
    model: str,
    data: DataSpec,
    seed: int,
    *,
    steps: int = STEPS,
    learning_rate: float | None = None,
    options: Mapping[str, Option] | None = None,
    count: int = 24,
    weak: bool = False,
    stop_below_loss: float | None = None,
    checkpoints: Checkpoints | None = None,
) -> Recipe:
    """Return a recipe with the optimisation of sec. 3.2, whose last layer is measured.

    Args:
        model: `mlp`, `convnet`, or a name of torchvision.
        learning_rate: default that of the paper for this network.
        count: log-spaced measurements.
        weak: whether weak test variance is measured.
        checkpoints: default none.
    """
    name = model if model in ("mlp", "convnet") else f"torchvision/{model}"
    rate = LEARNING_RATES[model] if learning_rate is None else learning_rate
    return Recipe(
        model=ModelSpec(name=name, options=dict(options or {})),
        data=data,
        optimizer=Optimizer(learning_rate=rate, momentum=0.9),
        steps=steps,
        batch_size=BATCH_SIZE,
        stop_below_loss=stop_below_loss,
        seed=seed,
        measuring=Measuring(
            count=count, layers="last", metrics=METRICS, weak_test_variance=weak, spectra=False
        ),
        checkpoints=checkpoints or Checkpoints(at=()),
    )


def changed(*claims: Claim) -> tuple[Claim, ...]:
    """Claims whose criterion is younger than the first results of this project."""
    note = "The criterion changed after first results had been seen; results/hui2022/README.md says how."
    return tuple(replace(claim, notes=[*claim.notes, note]) for claim in claims)
