"""How sec. 6.1 of Xu and Liu (2023) trains networks, and smaller networks for few cores.

The text that this project has lost the numbers of sec. 6.1. A published summary of the paper has them, without signs of
exponents (https://ri.k117.org/papers/quantifying_the_variability_collapse_of_neural_networks__0a1ebe19). They are read as: a
learning rate of 0.1 for each 256 samples of a batch, a warm-up from 1e-5, and a weight decay of 8e-5. All else is in the text.

The effect of weight decay is proportional to the sum of all learning rates. With these numbers, the product of the two is 0.24
for ResNet-18 on CIFAR-10 and 6 for ResNet-50 on ImageNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from collapselab.data.recipe import DataSpec
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Recipe
from collapselab.records.training_parts import Augmentation, Schedule

Loss = Literal["cross_entropy", "mse"]
Decay = Literal["cosine", "steps"]
LOSSES: dict[Loss, str] = {"cross_entropy": "cross-entropy", "mse": "squared loss"}
DECAYS: dict[Decay, str] = {"cosine": "cosine", "steps": "step decay"}

EPOCHS = 300
CIFAR_BATCH, IMAGENET_BATCH = 256, 1024  # one GPU, and four
CIFAR_STEPS, IMAGENET_STEPS = EPOCHS * 196, EPOCHS * 1252  # 50,000 and 1,281,167 images
WEIGHT_DECAY = 8e-5
CPU_RATE, CPU_BATCH = 0.1, 128
SMOKE_CHANGES: dict[str, object] = {
    "batch_size": 32,
    "optimizer.weight_decay": 1e-3,
    "measuring.count": 2,
    "measuring.at": (2, 10),
}
_RATE, _START, _FACTOR = 0.1 / 256, 1e-5, 0.975

MEASURED = (
    "within_trace",
    "between_trace",
    "squared_distance",
    "squared_distance_debiased",
    "fuzziness",
    "vci",
    "vci_adjusted",
    "cosine_similarity",
    "within_in_weight_space",
    "within_off_weight_space",
    "between_in_weight_space",
    "between_off_weight_space",
)
# Random crop after padding 4 pixels, and flip, as in He et al. 2016.
CIFAR_AUGMENTATION = Augmentation(crop=4, flip=0.5)
IMAGENET_AUGMENTATION = Augmentation(resized_crop=0.08, flip=0.5, auto_augment="imagenet")
_DEIT_AUGMENTATION = IMAGENET_AUGMENTATION.model_copy(update={"erasing": 0.25, "mixup": 0.8, "cutmix": 1.0})

DEITS = {"DeiT-T": "deit_tiny_patch16_224", "DeiT-S": "deit_small_patch16_224"}

IMAGENET = DataSpec(name="imagenet", standardize="channel", image_size=(224, 224))
CIFAR10 = DataSpec(name="cifar10", standardize="channel")
NUMBERS = (
    "The learning rate (0.1 for each 256 samples of a batch), the start of the warm-up (1e-5) and the weight decay (8e-5) are "
    "missing in the text that this project has; they are those of a published summary of the paper."
)


def narrow_resnet(num_features: int = 128) -> ModelSpec:
    """Return ResNet-18 with a quarter of the channels, and a number of features that its classifier reads."""
    return ModelSpec(name="timm/resnet18", options={"channels": (16, 32, 64, num_features), "stem_width": 16})


def kept_decay(product: float, steps: int) -> float:
    """Return the weight decay whose product with the sum of learning rates of a cosine from 0.1 is the given one."""
    return float(f"{product / (CPU_RATE * steps / 2):.2g}")


def decay_product(steps: int, batch_size: int) -> float:
    """Return the product of the paper's weight decay and the sum of learning rates of a cosine."""
    return WEIGHT_DECAY * _RATE * batch_size * steps / 2


def settings() -> Iterator[tuple[Loss, Decay]]:
    """Yield every combination of loss and schedule."""
    for loss in LOSSES:
        for decay in DECAYS:
            yield loss, decay


def setting_labels(loss: Loss, decay: Decay) -> dict[str, str]:
    """Return the labels of a job that say how it is trained."""
    names = {"loss": LOSSES[loss], "decay": DECAYS[decay]}
    return {**names, "setting": ", ".join(names.values())}


def resnet(
    model: ModelSpec,
    data: DataSpec,
    seed: int,
    augmentation: Augmentation,
    *,
    steps: int,
    batch_size: int,
    loss: Loss = "cross_entropy",
    decay: Decay = "cosine",
) -> Recipe:
    """Return the recipe of sec. 6.1 for ResNets.

    Steps stand for the paper's 300 epochs: 10 of them are the warm-up, the step decay multiplies the learning rate by 0.975
    after each, and metrics are measured every 20.
    """
    schedule = Schedule(
        name=decay,
        factor=_FACTOR if decay == "steps" else Schedule().factor,
        every=max(1, steps // EPOCHS) if decay == "steps" else None,
        warm_up=steps // 30,
        warm_up_from=_START,
    )
    return Recipe(
        model=model,
        data=data,
        loss=loss,
        optimizer=Optimizer(
            learning_rate=_RATE * batch_size, nesterov=True, momentum=0.9, weight_decay=WEIGHT_DECAY
        ),
        schedule=schedule,
        augmentation=augmentation,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        measuring=_measuring(steps),
        checkpoints=Checkpoints(),
    )


def deit(network: str, seed: int) -> Recipe:
    """Return the recipe of sec. 6.1 for DeiT-T and DeiT-S: that of Touvron et al. 2021, with AutoAugment."""
    return Recipe(
        model=ModelSpec(name=f"timm/{DEITS[network]}", options={"drop_path_rate": 0.1}),
        data=IMAGENET,
        label_smoothing=0.1,
        optimizer=Optimizer(name="adamw", learning_rate=1e-3, weight_decay=0.05, decayed="weights"),
        schedule=Schedule(warm_up=IMAGENET_STEPS // 60, warm_up_from=1e-6),
        augmentation=_DEIT_AUGMENTATION,
        steps=IMAGENET_STEPS,
        batch_size=IMAGENET_BATCH,
        seed=seed,
        measuring=_measuring(IMAGENET_STEPS),
    )


def small(recipe: Recipe, product: float) -> Recipe:
    """Return a recipe for few cores: batches of 128, a learning rate of 0.1, no augmentation.

    Args:
        recipe: with the number of steps that is wanted.
        product: of weight decay and the sum of learning rates, if they fell as a cosine.
    """
    return recipe.with_changes(
        {
            "batch_size": CPU_BATCH,
            "optimizer.learning_rate": CPU_RATE,
            "optimizer.weight_decay": kept_decay(product, recipe.steps),
            "augmentation": {},
        }
    )


def _measuring(steps: int) -> Measuring:
    every_20_epochs = tuple(steps * place // 15 for place in range(1, 15))
    return Measuring(
        count=6,
        at=every_20_epochs,
        layers="last",
        metrics=MEASURED,
        weak_test_variance=False,
        spectra=False,
    )
