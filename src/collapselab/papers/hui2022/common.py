"""Common parts of the experiments of Hui, Belkin and Nakkiran (2022): networks, optimisation, measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Bool
from torch import Tensor, nn

from collapselab.data import AnySplit, DataSplits
from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments import recipes
from collapselab.experiments.claims import Claim
from collapselab.papers.hui2022 import arms
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Option, Recipe
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import layer_features, predictions

PAPER = "Hui, Belkin, Nakkiran, Limitations of Neural Collapse for Understanding Generalization in Deep Learning (2022)"
BATCH_SIZE = 128  # sec. 3.2
STEPS = 80_000
# Sec. 3.2, 4.2 and 5.1: initial learning rates; all of them fall to 0 as a cosine.
LEARNING_RATES = {
    "resnet18": 0.1,
    "resnet18-narrow": 0.1,
    "resnet50": 0.1,
    "densenet201": 0.01,
    "vgg11_bn": 0.01,
    "mlp": 0.001,
    "densenet-small": 0.01,
    "vgg11_bn-narrow": 0.01,
}
# Three hidden layers of 1024 (sec. 4.2 and 5.1).
MLP: dict[str, Option] = {"width": 1024, "depth": 3, "batch_norm": False}
# For few cores: a quarter of the channels of each stage; a DenseNet of 16 layers instead of 98.
_NARROW: dict[str, tuple[str, dict[str, Option]]] = {
    "resnet18-narrow": ("timm/resnet18", {"channels": (16, 32, 64, 128), "stem_width": 16}),
    "densenet-small": ("timm/densenet121", {"growth_rate": 16, "block_config": (4, 4, 4, 4)}),
    "vgg11_bn-narrow": ("vgg11", {"width": 16, "units": 512}),
}
# The classes of both MNIST and the digits, in the two super-classes of sec. 4.
ODD_EVEN = ((1, 3, 5, 7, 9), (0, 2, 4, 6, 8))
METRICS = ("normalized_within", "train_variance", "strong_test_variance")

PENALTIES = 13  # of a linear probe, to choose from
EVALUATION_BATCH = 1024

# ---------------------------------------------------------------- what the paper does not specify

EVALUATION_NOTE = "Features are measured in evaluation mode, which the paper does not mention."
LEFT_OPEN = f"{arms.TEXT} {EVALUATION_NOTE}"
SMOKE = f"{recipes.SMOKE} {arms.TEXT}"
KEPT = "so that its product with the sum of learning rates is that of 5e-4 over 80,000 steps"
STEM_NOTE = "Networks are those of torchvision, whose first layers are designed for large images."
# "Pixel-wise" in sec. 3.2 can mean one mean and deviation per pixel, or one mean and deviation for all pixels. Colour
# photographs use the first, literal meaning. In digits and clothes, border pixels are almost always 0 in training images, so
# that their deviation is tiny: a few test images would have values of a hundred deviations, and these outliers would
# dominate every variance. These data sets use the second meaning.
STANDARDIZE_NOTE = (
    "MNIST and FashionMNIST are standardised with one mean and standard deviation for all pixels."
)


def kept_decay(steps: int) -> float:
    """Return the weight decay whose product with the sum of learning rates is that of 5e-4 over the paper's 80,000 steps."""
    return round(arms.WEIGHT_DECAY * STEPS / steps, 4)


def images(
    name: str, *, train: Sample | None = None, test: Sample | None = None, resized: bool = False
) -> DataSpec:
    """Return a data set, standardised as described above; default: all samples.

    With `resized`, grey images have 32 pixels instead of 28: convolutional networks halve the resolution five times.
    """
    is_grey = name in ("mnist", "fashion_mnist")
    return DataSpec(
        name=name,
        train=train or Sample(),
        test=test or Sample(),
        standardize="channel" if is_grey else "pixel",
        image_size=(32, 32) if resized and is_grey else None,
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
    """Return a recipe with the optimisation of sec. 3.2 that measures the last layer.

    Args:
        model: `mlp`, `convnet`, a narrow network, or the name of a torchvision network.
        learning_rate: default: that of the paper for this network.
        count: number of log-spaced measurements.
        weak: whether to measure weak test variance.
        checkpoints: default: none.
    """
    name = model if model in ("mlp", "convnet") else f"torchvision/{model}"
    name, own = _NARROW.get(model, (name, {}))
    rate = LEARNING_RATES[model] if learning_rate is None else learning_rate
    return Recipe(
        model=ModelSpec(name=name, options={**own, **(options or {})}),
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
    """Add a note to claims whose criterion changed after the first results of this project."""
    note = "The criterion changed after first results had been seen; see results/hui2022/README.md."
    return tuple(replace(claim, notes=[*claim.notes, note]) for claim in claims)


def probe_accuracy(model: nn.Module, data: DataSplits, seed: int) -> float:
    """Return the test accuracy of a linear probe of what the classifier of a network reads."""
    return float(probe_is_right(model, data, seed).double().mean())


def is_right(model: nn.Module, split: AnySplit) -> Bool[Tensor, " n"]:
    """Return which samples a network classifies correctly."""
    return predictions(model, split, EVALUATION_BATCH) == split.labels.cpu()


def probe_is_right(model: nn.Module, data: DataSplits, seed: int) -> Bool[Tensor, " n"]:
    """Return which test samples a linear probe of what the classifier of a network reads classifies correctly."""
    from collapselab.transfer import linear_probe

    layer = classifier_name(model)
    train, test = (
        (layer_features(model, split, layer, EVALUATION_BATCH), split.labels.cpu())
        for split in (data.train, data.test)
    )
    probe = linear_probe(train, test, num_penalties=PENALTIES, standardize=False, seed=seed)
    return probe.classifier.predict(test[0]) == test[1]
