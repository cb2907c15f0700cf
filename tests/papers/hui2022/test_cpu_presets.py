"""Fig. 2, Fig. 4 and footnote 2 for few cores: what their runs have in common with those of the paper, and what not."""

from __future__ import annotations

import pytest
import torch

from collapselab.experiments.recipes import Job
from collapselab.models import open_model
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import LITERAL, PAPYAN, WEIGHT_DECAY
from collapselab.registry import find_experiment


def jobs(name: str, seed: int = 0) -> list[Job]:
    return list(find_experiment(f"hui2022/{name}").presets["cpu"].jobs(seed))


def summed_decay(job: Job) -> float:
    recipe = job.recipe
    rates = (
        sum(recipe.learning_rate_at(step) for step in range(recipe.steps)) / recipe.optimizer.learning_rate
    )
    return recipe.optimizer.weight_decay * rates


@pytest.mark.parametrize("name", ["fig2", "fig3", "footnote2"])
def test_the_product_of_weight_decay_and_learning_rates_is_that_of_the_paper(name: str) -> None:
    for job in jobs(name):
        expected = WEIGHT_DECAY * common.STEPS / 2 if job.labels["arm"] == PAPYAN else 0.0
        assert summed_decay(job) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ["fig2", "fig4", "footnote2"])
def test_rates_of_convolutional_networks_and_batches_are_those_of_the_paper(name: str) -> None:
    for job in jobs(name):
        recipe, model = job.recipe, str(job.labels["model"])
        rate = 0.1 if model.startswith("resnet") else 0.01
        assert (recipe.optimizer.learning_rate, recipe.batch_size, recipe.schedule.name) == (
            rate,
            128,
            "cosine",
        )
        assert any(recipe.steps / 8 <= step <= recipe.steps / 2 for step in recipe.measured_steps())


def test_figure_2_has_three_small_networks_on_two_data_sets() -> None:
    settings = {(job.labels["dataset"], job.labels["model"]) for job in jobs("fig2")}
    names = ("resnet18-narrow", "densenet-small", "vgg11_bn-narrow")
    assert settings == {(data, model) for data in ("mnist", "cifar10") for model in names}
    for job in jobs("fig2"):
        spec = job.recipe.model
        model = open_model(spec.name, num_classes=10, input_shape=(3, 32, 32), options=spec.options)
        assert sum(weight.numel() for weight in model.parameters()) < 1e6
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert job.recipe.data.image_size == ((32, 32) if job.labels["dataset"] == "mnist" else None)


def test_figure_4_stops_at_a_loss_without_dropout() -> None:
    for arm in (LITERAL, PAPYAN):
        own = [job for job in jobs("fig4") if job.labels["arm"] == arm]
        assert [job.labels["num_train"] for job in own] == [1000, 2000, 4000, 8000, 16_000]
        assert [job.recipe.data.train.count for job in own] == [1000, 2000, 4000, 8000, 16_000]
        assert {job.recipe.stop_loss for job in own} == {"evaluation"}
        # A network at such a loss has few train errors: each adds at least log 2 to the sum.
        assert {job.recipe.stop_below_loss for job in own} <= {2e-3}


def test_footnote_2_has_every_network_with_and_without_dropout() -> None:
    own = [job for job in jobs("footnote2") if job.labels["arm"] == LITERAL]
    found = [(job.labels["model"], job.labels["dropout"], job.recipe.model.options["dropout"]) for job in own]
    models = ("mlp", "vgg11_bn-narrow")
    assert found == [(model, share, share) for model in models for share in (0.0, 0.5)]
    for one, other in zip(own[::2], own[1::2], strict=True):
        assert one.recipe.with_changes({"model.options.dropout": 0.5}) == other.recipe
