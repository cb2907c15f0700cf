"""The runs of fig. 1, 3 to 6 and 8 of Xu and Liu (2023): {cross-entropy, squared loss} x {cosine, step decay}."""

from __future__ import annotations

from collapselab.experiments.recipes import Changes, Job, job
from collapselab.papers.xu2023 import recipes
from collapselab.papers.xu2023.recipes import Decay, Loss
from collapselab.records.recipe import ModelSpec, Recipe

CIFAR_PRODUCT, IMAGENET_PRODUCT = (
    recipes.decay_product(recipes.CIFAR_STEPS, recipes.CIFAR_BATCH),
    recipes.decay_product(recipes.IMAGENET_STEPS, recipes.IMAGENET_BATCH),
)
# Of networks that stand for those on ImageNet.
FEW_PRODUCT = 2.0
# Whether the classifier reads more features than there are classes: only then can there be variance that it does not read.
MORE, FEWER = "more than classes", "fewer than classes"
CIFAR_CPU_STEPS, FEW_CPU_STEPS = 4500, 3600
_WIDE, _NARROW = 20, 4
_RESNET18, _RESNET50 = (ModelSpec(name=f"torchvision/resnet{depth}") for depth in (18, 50))


def cifar_jobs(
    seed: int,
    changes: Changes,
    model: ModelSpec = _RESNET18,
    steps: int = recipes.CIFAR_STEPS,
    product: float | None = None,
) -> list[Job]:
    """Return the runs on CIFAR-10: each loss with each schedule.

    Args:
        seed: of all runs.
        changes: to all recipes.
        model: the network.
        steps: of every run.
        product: for few cores, as of `recipes.small`; None for the recipe of the paper.
    """
    jobs = []
    for setting in recipes.settings():
        one = _cifar(model, seed, steps, *setting)
        one = one if product is None else recipes.small(one, product)
        jobs.append(_job(one.with_changes(changes), "ResNet-18", MORE, *setting))
    return jobs


def imagenet_jobs(seed: int, changes: Changes) -> list[Job]:
    """Return the runs on ImageNet: ResNet-50 with each loss and schedule, DeiT-T and DeiT-S."""
    jobs = []
    for loss, decay in recipes.settings():
        one = recipes.resnet(
            _RESNET50,
            recipes.IMAGENET,
            seed,
            recipes.IMAGENET_AUGMENTATION,
            steps=recipes.IMAGENET_STEPS,
            batch_size=recipes.IMAGENET_BATCH,
            loss=loss,
            decay=decay,
        )
        jobs.append(_job(one.with_changes(changes), "ResNet-50", MORE, loss, decay))
    for network in recipes.DEITS:
        one = recipes.deit(network, seed).with_changes(changes)
        jobs.append(_job(one, network, FEWER, "cross_entropy", "cosine"))
    return jobs


def few_features_jobs(seed: int, changes: Changes, steps: int = FEW_CPU_STEPS) -> list[Job]:
    """Return runs on CIFAR-10 whose networks have about as many features for each class as those on ImageNet."""
    networks: tuple[tuple[int, Decay], ...] = ((_WIDE, "cosine"), (_WIDE, "steps"), (_NARROW, "cosine"))
    jobs = []
    for width, decay in networks:
        one = _cifar(recipes.narrow_resnet(width), seed, steps, "cross_entropy", decay)
        one = recipes.small(one, FEW_PRODUCT).with_changes(changes)
        features = MORE if width == _WIDE else FEWER
        jobs.append(_job(one, f"ResNet-18, {width} features", features, "cross_entropy", decay))
    return jobs


def _cifar(model: ModelSpec, seed: int, steps: int, loss: Loss, decay: Decay) -> Recipe:
    return recipes.resnet(
        model,
        recipes.CIFAR10,
        seed,
        recipes.CIFAR_AUGMENTATION,
        steps=steps,
        batch_size=recipes.CIFAR_BATCH,
        loss=loss,
        decay=decay,
    )


def _job(recipe: Recipe, network: str, features: str, loss: Loss, decay: Decay) -> Job:
    labels = {"network": network, "features": features, **recipes.setting_labels(loss, decay)}
    name = (
        f"{{dataset}}-{network}-{loss}-{decay}".lower().replace("_", "-").replace(", ", "-").replace(" ", "-")
    )
    return job(recipe, name, **labels)
