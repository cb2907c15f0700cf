"""What appendix A says, at the scale of the paper, and what the reduced scales keep of it."""

from __future__ import annotations

import pytest

from collapselab.experiments.recipes import Job
from collapselab.papers.rangamani2023 import fixed_etf, layers, no_collapse
from collapselab.papers.rangamani2023.common import DRAWN, drawn_steps
from collapselab.records.recipe import Recipe

EXPERIMENTS = (layers.EXPERIMENT, fixed_etf.EXPERIMENT, no_collapse.EXPERIMENT)


def jobs(scale: str) -> dict[str, Job]:
    return {job.name: job for job in layers.EXPERIMENT.presets[scale].jobs(0)}  # pyright: ignore[reportArgumentType]


def test_networks_and_data_sets_are_those_of_appendix_a() -> None:
    found = {name: job.recipe.model.name for name, job in jobs("paper").items()}
    resnets = {"mnist": 18, "fashion_mnist": 18, "svhn": 34, "cifar10": 50}
    expected = {f"{data}-resnet{depth}": f"torchvision/resnet{depth}" for data, depth in resnets.items()}
    expected |= {f"{data}-{model}": model for data in resnets for model in ("mlp", "convnet")}
    assert found == expected


@pytest.mark.parametrize(
    ("name", "steps"),
    [("mnist-mlp", 350 * 469), ("cifar10-convnet", 350 * 391), ("svhn-resnet34", 350 * 573)],
)
def test_optimisation_is_that_of_appendix_a(name: str, steps: int) -> None:
    """350 epochs of batches of 128; the rate starts at 0.02 and is multiplied by 0.2 twice."""
    recipe: Recipe = jobs("paper")[name].recipe
    optimizer = recipe.optimizer
    assert (recipe.loss, recipe.steps, recipe.batch_size) == ("mse", steps, 128)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
    rates = [recipe.learning_rate_at(step) for step in range(0, steps, 100)]
    assert sorted({round(rate, 12) for rate in rates}, reverse=True) == [0.02, 0.004, 0.0008]
    assert recipe.data.train.method == recipe.data.test.method == "all"


@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_weights_are_stored_at_the_steps_that_are_drawn(scale: str) -> None:
    for job in jobs(scale).values():
        stored = job.recipe.checkpoints.at
        assert stored == drawn_steps(job.recipe.steps)
        assert len(stored) == len(DRAWN)
        assert (stored[0], stored[-1]) == (0, job.recipe.steps)


def test_reduced_scales_are_mean_squared_error_too_except_where_the_loss_is_searched() -> None:
    for experiment in EXPERIMENTS:
        for preset in experiment.presets.values():
            losses = {job.name: job.recipe.loss for job in preset.jobs(0)}
            assert {name for name, loss in losses.items() if loss != "mse"} == {
                name for name in losses if "entropy" in name
            }


def test_the_search_has_as_many_settings_as_it_says() -> None:
    for preset in no_collapse.EXPERIMENT.presets.values():
        models = {job.labels["model"] for job in preset.jobs(0)}
        assert models == set(no_collapse.SETTINGS)
    assert (
        f"Here {len(no_collapse.SETTINGS)} settings were tried"
        in no_collapse.EXPERIMENT.presets["cpu"].reduced
    )
