"""The runs of fig. 7 of Xu and Liu (2023): networks trained with several temperatures, or several weights of a regulariser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collapselab.data.recipe import DataSpec
from collapselab.experiments.recipes import Changes, Job, job
from collapselab.papers.xu2023 import recipes
from collapselab.papers.xu2023.transfer import BOTH, REGULARISER, TEMPERATURE
from collapselab.records.experiment import Label
from collapselab.records.recipe import ModelSpec, Recipe

# The paper's values are missing in the text that this project has. The regulariser is divided by the samples of each class in
# the batch, which are 21 of six classes, and one or two of ImageNet.
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
WEIGHTS, CPU_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0), (0.0, 3.0, 6.0, 12.0, 25.0, 50.0)
CPU_STEPS, CPU_PRODUCT = 2400, 0.5


def imagenet_jobs(seed: int, changes: Changes) -> list[Job]:
    """Return the runs of ResNet-50 on ImageNet."""
    one = recipes.resnet(
        ModelSpec(name="torchvision/resnet50"),
        recipes.IMAGENET,
        seed,
        recipes.IMAGENET_AUGMENTATION,
        steps=recipes.IMAGENET_STEPS,
        batch_size=recipes.IMAGENET_BATCH,
    )
    return _varied(one.with_changes(changes), WEIGHTS)


def small_jobs(seed: int, changes: Changes, data: DataSpec, num_features: int, steps: int) -> list[Job]:
    """Return the runs of a narrow ResNet-18, on crops of training images as the paper has them."""
    model, crops = recipes.narrow_resnet(num_features), recipes.CIFAR_AUGMENTATION
    one = recipes.resnet(model, data, seed, crops, steps=steps, batch_size=recipes.CPU_BATCH)
    one = recipes.small(one, CPU_PRODUCT)
    return _varied(one.with_changes({"augmentation": crops.model_dump(mode="json"), **changes}), CPU_WEIGHTS)


def _varied(one: Recipe, weights: Sequence[float]) -> list[Job]:
    """Return the runs of both groups; the one with the temperature 1 and the weight 0 belongs to both."""
    one = one.with_changes({"measuring.at": [], "measuring.count": 4})  # the end decides
    pairs = [(value, 0.0, TEMPERATURE if value != 1 else BOTH) for value in TEMPERATURES]
    pairs += [(1.0, value, REGULARISER) for value in weights if value]
    jobs = []
    for temperature, weight, group in pairs:
        changed = one.with_changes({"temperature": temperature, "within_class_cosine": weight})
        labels: Mapping[str, Label] = {"group": group, TEMPERATURE: temperature, REGULARISER: weight}
        named = job(
            changed, f"{{dataset}}-temperature-{temperature:g}-weight-{weight:g}", after=None, **labels
        )
        jobs.append(named)
    return jobs
