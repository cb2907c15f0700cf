"""Common parts of the experiments of Rangamani et al. (2023): networks, optimisation, measurements (appendix A)."""

from __future__ import annotations

import math

from collapselab.data.recipe import DataSpec
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Recipe
from collapselab.records.training_parts import Schedule

PAPER = (
    "Rangamani, Lindegaard, Galanti, Poggio, Feature learning in deep classifiers through Intermediate Neural Collapse "
    "(2023)"
)
EPSILON = 0.2  # sec. 4: a layer is collapsed where the within-class share of the variance is below this
EPOCHS, BATCH_SIZE = 350, 128
LEARNING_RATE, WEIGHT_DECAY = 0.02, 5e-4
# Of each data set, the training images and the ResNet of appendix A.
DATASETS = {
    "mnist": (60_000, 18),
    "cifar10": (50_000, 50),
    "fashion_mnist": (60_000, 18),
    "svhn": (73_257, 34),
}
CPU_DECAY_NOTE = (
    "The weight decay is such that its product with the sum of learning rates is that of the paper's runs on CIFAR-10. With half of it, a pilot run "
    "kept most of the noise of its initial weights."
)
MLP, CONVNET = "mlp", "convnet"
# For few cores: a quarter of the channels of each stage of ResNet-18.
NARROW = ModelSpec(name="timm/resnet18", options={"channels": (16, 32, 64, 128), "stem_width": 16})
# What needs no covariance matrix: these are measured along training. Shortcuts read what the block reads, and are left out.
METRICS = (
    "within_trace", "between_trace", "normalized_within", "mean_cosine_gap", "equiangularity", "equinorm", "etf_distance",
    "self_duality", "alignment", "alignment_random", "weight_top_spread", "weight_stable_rank", "ncc_agreement", "ncc_accuracy",
)  # fmt: skip
# Shares of all steps at which weights are stored, and that figures draw.
DRAWN = (0.0, 0.02, 0.1, 0.3, 1.0)

LEFT_OPEN = (
    "The paper gives no batch size, and not when the learning rate falls: here 128, and after a third and two thirds of the "
    "steps, as in Papyan et al. (2020), whom Han et al. (2022) follow. MNIST and FashionMNIST are standardised with one mean "
    "and deviation for all pixels, because many pixels at the border never vary; colour images with one per pixel. Features "
    "are the inputs of each weight layer, measured in evaluation mode; maps are flattened, shortcuts of ResNets are left out."
)


def images(name: str, *, resized: bool = False) -> DataSpec:
    """Return a data set, standardised as described above; with `resized`, grey images have 32 pixels as colour ones do."""
    is_grey = name.endswith("mnist")
    size = (32, 32) if resized and is_grey else None
    return DataSpec(name=name, standardize="channel" if is_grey else "pixel", image_size=size)


def paper_steps(name: str) -> int:
    """Return the steps of 350 epochs of a data set."""
    return EPOCHS * math.ceil(DATASETS[name][0] / BATCH_SIZE)


def kept_decay(steps: int) -> float:
    """Return the weight decay whose product with the sum of learning rates is that of the paper's runs on 50,000 images."""
    return round(WEIGHT_DECAY * paper_steps("cifar10") / steps, 4)


def drawn_steps(steps: int) -> tuple[int, ...]:
    """Return the steps whose weights are stored."""
    return tuple(sorted({round(share * steps) for share in DRAWN}))


def recipe(
    model: ModelSpec, data: DataSpec, seed: int, steps: int, metrics: tuple[str, ...] = METRICS
) -> Recipe:
    """Return a recipe with the optimisation of appendix A: mean squared error, and a rate that falls twice by 0.2."""
    layers = ("!*downsample*",) if "resnet" in model.name else "all"
    return Recipe(
        model=model,
        data=data,
        loss="mse",
        optimizer=Optimizer(learning_rate=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY),
        schedule=Schedule(name="steps", shares=(1 / 3, 2 / 3), factor=0.2),
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        measuring=Measuring(
            count=12, layers=layers, metrics=metrics, weak_test_variance=False, spectra=False
        ),
        checkpoints=Checkpoints(at=drawn_steps(steps)),
    )
