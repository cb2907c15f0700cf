"""Metrics along training (fig. 1, 3 to 6, 8 of Xu and Liu): recipes, rows against independent sums, claims true and false."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from collapselab.data.recipe import DataSpec, Sample
from collapselab.experiments.claims import Claim, judge_claims
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import At, Job, job
from collapselab.experiments.runner import Request, reproduce
from collapselab.papers.xu2023 import fig1, fig3, recipes
from collapselab.papers.xu2023.curves import (
    COLUMNS,
    column_name,
    higher_on_test,
    metric_rows,
    no_common_sign,
    rises,
    squared_loss_lower,
    trend,
)
from collapselab.probes import weight_layers
from collapselab.records.judgement import Judgement
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Recipe
from collapselab.training import run_recipe
from collapselab.training.building import classifier_name, load_data
from collapselab.training.evaluation import layer_features

SETTINGS = [(loss, decay) for loss in recipes.LOSSES.values() for decay in recipes.DECAYS.values()]


# ---------------------------------------------------------------- recipes


def jobs(experiment: Any, scale: str) -> list[Job]:
    return list(experiment.EXPERIMENT.presets[scale].jobs(0))


def test_the_papers_numbers_of_resnet_18() -> None:
    own = jobs(fig3, "paper")
    assert [(one.labels["loss"], one.labels["decay"]) for one in own] == SETTINGS
    assert [(one.recipe.loss, one.recipe.schedule.name) for one in own] == [
        (loss, decay) for loss in ("cross_entropy", "mse") for decay in ("cosine", "steps")
    ]
    epoch = math.ceil(50_000 / 256)
    for one in own:
        recipe = one.recipe
        assert (recipe.steps, recipe.batch_size) == (300 * epoch, 256)
        assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (pytest.approx(0.1), 8e-5)
        assert (recipe.optimizer.momentum, recipe.optimizer.nesterov) == (0.9, True)
        assert (recipe.augmentation.crop, recipe.augmentation.flip) == (4, 0.5)
        assert {20 * epoch * times for times in range(16)} <= set(recipe.measured_steps())
        assert recipe.learning_rate_at(0) == 1e-5
        assert recipe.learning_rate_at(10 * epoch) == pytest.approx(0.1)
    steps = own[1].recipe
    assert steps.learning_rate_at(110 * epoch) == pytest.approx(0.1 * 0.975**100)
    assert steps.learning_rate_at(111 * epoch - 1) == steps.learning_rate_at(110 * epoch)


def test_the_papers_numbers_on_imagenet() -> None:
    own = {one.name: one for one in jobs(fig1, "paper")}
    assert len(own) == 6
    epoch = math.ceil(1_281_167 / 1024)
    for one in own.values():
        assert (one.recipe.steps, one.recipe.batch_size) == (300 * epoch, 1024)
        assert (one.recipe.data.name, one.recipe.augmentation.auto_augment) == ("imagenet", "imagenet")
    resnet = own["imagenet-resnet-50-cross-entropy-cosine"].recipe
    assert resnet.learning_rate_at(10 * epoch) == pytest.approx(0.4)
    deit = own["imagenet-deit-t-cross-entropy-cosine"].recipe
    assert (deit.optimizer.name, deit.optimizer.decayed) == ("adamw", "weights")
    assert (deit.learning_rate_at(0), deit.learning_rate_at(5 * epoch)) == (1e-6, pytest.approx(1e-3))
    assert (deit.augmentation.mixup, deit.augmentation.cutmix, deit.augmentation.erasing) == (0.8, 1.0, 0.25)


@pytest.mark.parametrize(("experiment", "product"), [(fig3, 8e-5 * 0.1 * 58_800 / 2), (fig1, 2.0)])
def test_small_runs_keep_the_product_of_weight_decay_and_learning_rates(
    experiment: Any, product: float
) -> None:
    for one in jobs(experiment, "cpu"):
        recipe = one.recipe
        assert recipe.optimizer.weight_decay == jobs(experiment, "cpu")[0].recipe.optimizer.weight_decay
        if recipe.schedule.name == "cosine":
            rates = sum(recipe.learning_rate_at(step) for step in range(recipe.steps))
            # The weight decay has two digits; a warm-up takes a sixtieth of the steps, half of it.
            assert rates * recipe.optimizer.weight_decay == pytest.approx(product, rel=0.05)


# ---------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    recipe = Recipe(
        model=ModelSpec(options={"width": 16, "depth": 1}),
        data=DataSpec(train=Sample(method="balanced", count=100), test=Sample(method="balanced", count=90)),
        optimizer=Optimizer(learning_rate=0.05),
        steps=20,
        num_threads=1,
        measuring=Measuring(
            count=2, layers="last", metrics=recipes.MEASURED, weak_test_variance=False, spectra=False
        ),
        checkpoints=Checkpoints(),
    )
    one = job(recipe, network="MLP", **recipes.setting_labels("cross_entropy", "cosine"))
    grid = Grid(tmp_path_factory.mktemp("out"), At("A test.", make=lambda seed, changes: [one]), [0])
    for run in grid.all():
        run_recipe(run.job.recipe, run.folder)
    return grid


def parts_of(features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> dict[str, float]:
    """Variances in and off the row space, each as a sum over samples in float64, with an orthonormal basis of the rows."""
    x, basis = features.double().numpy(), np.linalg.qr(weight.double().numpy().T)[0]
    means = np.stack([x[labels.numpy() == label].mean(axis=0) for label in range(10)])
    within, between = x - means[labels.numpy()], means - means.mean(axis=0)
    counts = np.bincount(labels.numpy())
    weights = (1 / (10 * counts[labels.numpy()]), np.full(10, 0.1))
    found = {}
    for name, rows, share in zip(("within", "between"), (within, between), weights, strict=True):
        whole = float(share @ (rows**2).sum(axis=1))
        inside = float(share @ ((rows @ basis) ** 2).sum(axis=1))
        found |= {f"{name}_in_weight_space": inside, f"{name}_off_weight_space": whole - inside}
    return found


def test_rows_are_those_of_the_trained_network(finished: Grid) -> None:
    rows = metric_rows(finished)
    assert list(rows["step"]) == [0, 1, 20]
    assert set(COLUMNS) <= set(rows.columns)
    assert set(rows["setting"]) == {"cross-entropy, cosine"}
    (run,), last = finished.all(), rows.iloc[-1]
    model, data = run.model().eval(), load_data(run.job.recipe)
    name = classifier_name(model)
    weight = weight_layers(model)[name].weight
    assert isinstance(weight, torch.Tensor)
    for split, samples in (("train", data.train), ("test", data.test)):
        features = layer_features(model, samples, name, 64)
        parts = parts_of(features, samples.labels, weight.detach())
        # Products of covariances are summed in float32.
        for part, value in parts.items():
            assert last[f"{split}_{part}"] == pytest.approx(value, rel=1e-5)
        spread = parts["between_in_weight_space"] + parts["between_off_weight_space"]
        relative = last[f"{split}_within_off_weight_space_over_between"]
        assert relative == pytest.approx(parts["within_off_weight_space"] / spread, rel=1e-5)
        accuracy = float((model(samples.inputs).argmax(dim=1) == samples.labels).double().mean())
        assert last[f"{split}_accuracy"] == pytest.approx(accuracy)


def test_names_of_columns_say_the_split() -> None:
    assert column_name("test_vci_adjusted") == "adjusted VCI on test data"
    relative = "train_within_off_weight_space_over_between"
    assert column_name(relative) == "within-class variance off the row space over Tr Σ_B on train data"


# ---------------------------------------------------------------- claims

STEPS = (0, 1, 20, 100, 300)


def made_up(values: dict[str, Sequence[float]], setting: tuple[str, str] = SETTINGS[0]) -> pd.DataFrame:
    """Rows of five seeds, whose values differ by a few percent."""
    labels = {"loss": setting[0], "decay": setting[1], "setting": ", ".join(setting), "network": "ResNet-18"}
    tables = [
        pd.DataFrame(
            {"step": STEPS, "seed": seed, "job": labels["setting"], "ended": "steps", **labels}
            | {name: np.array(column) * (1 + 0.01 * seed * np.arange(5)) for name, column in values.items()}
        )
        for seed in range(5)
    ]
    return pd.concat(tables, ignore_index=True)


def judged(claim: Claim, *rows: pd.DataFrame) -> Judgement:
    (one,) = judge_claims([claim], pd.concat(rows, ignore_index=True), "paper", "where")
    return one


FALLING, RISING = (1.0, 9.0, 0.8, 0.5, 0.1), (9.0, 0.1, 0.2, 0.5, 0.8)


@pytest.mark.parametrize(("values", "verdict"), [(FALLING, "holds"), (RISING, "fails")])
def test_a_trend_starts_at_a_fifteenth_of_the_steps(values: Sequence[float], verdict: str) -> None:
    """Random weights and the first steps do not count: `RISING` starts with its largest value."""
    claim = trend("one", "train_vci", "It falls.")
    found = judged(claim, made_up({"train_vci": values}))
    assert found.verdict == verdict
    assert found.readings[0].what == "VCI on train data at step 20"
    from_the_start = found.sensitivity[0]
    assert (from_the_start.threshold, from_the_start.verdict) == (0.0, "holds")
    assert judged(rises("one", "train_vci", "It rises."), made_up({"train_vci": values})).verdict != verdict


def test_a_trend_must_be_there_in_every_setting() -> None:
    claim = trend("one", "train_vci", "It falls.")
    falls, rising = (
        made_up({"train_vci": values}, one) for values, one in zip((FALLING, RISING), SETTINGS, strict=False)
    )
    assert judged(claim, falls, rising).verdict == "fails"
    assert judged(claim, falls, made_up({"train_vci": FALLING}, SETTINGS[1])).verdict == "holds"
    assert judged(claim, falls, made_up({"train_vci": [math.nan] * 5}, SETTINGS[1])).verdict == "inconclusive"


def test_no_common_sign_needs_both_signs_in_a_seed() -> None:
    claim = no_common_sign("one", "train_squared_distance", "No common sign.")

    def rows(*curves: Sequence[float]) -> list[pd.DataFrame]:
        pairs = zip(curves, SETTINGS, strict=False)
        return [made_up({"train_squared_distance": values}, setting) for values, setting in pairs]

    assert judged(claim, *rows(FALLING, RISING, FALLING)).verdict == "holds"
    assert judged(claim, *rows(FALLING, FALLING)).verdict == "fails"
    assert judged(claim, *rows(RISING, RISING)).verdict == "fails"
    assert set(judged(claim, *rows(FALLING)).void) == set(range(5))


@pytest.mark.parametrize(
    ("squared", "other", "verdict"), [(0.1, 0.3, "holds"), (0.3, 0.1, "fails"), (0.2, 0.2, "inconclusive")]
)
def test_losses_are_compared_at_the_end(squared: float, other: float, verdict: str) -> None:
    claim = squared_loss_lower("one", "train_vci_adjusted", "Squared loss is lower.")
    rows = [
        made_up(
            {"train_vci_adjusted": [1, 1, 1, 1, end], "train_accuracy": [0, 0, 0, 0, 0.86]}, (loss, "cosine")
        )
        for loss, end in (("squared loss", squared), ("cross-entropy", other))
    ]
    assert judged(claim, *rows).verdict == verdict
    rows[0]["train_accuracy"] -= 0.02
    unequal = judged(claim, *rows)
    assert set(unequal.void) == set(range(5))
    assert "train accuracies are not equal" in unequal.void[0]


def test_splits_are_compared_at_the_end() -> None:
    claim = higher_on_test("one", "vci_adjusted", "Higher.")
    high, low = (
        made_up({"train_vci_adjusted": FALLING, "test_vci_adjusted": RISING}),
        made_up({"train_vci_adjusted": RISING, "test_vci_adjusted": FALLING}),
    )
    assert (judged(claim, high).verdict, judged(claim, low).verdict) == ("holds", "fails")


# ---------------------------------------------------------------- the scale of the paper


@pytest.mark.slow
def test_imagenet_presets_run_on_a_folder_of_images(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every network, loss and schedule at the scale of the paper, but for fewer steps and pixels."""
    for split, count in (("train", 2), ("val", 2)):
        for name in "abcd":
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    cheap = ["squared_distance", "within_in_weight_space", "within_off_weight_space", "between_trace"]
    fewer: dict[str, Any] = {
        "num_threads": 1, "steps": 2, "batch_size": 4, "schedule.warm_up": 1, "*steps:schedule.every": 1,
        "measuring.at": [], "measuring.count": 2, "measuring.metrics": cheap,  # VCI of 2048 features takes seconds
        "data.image_size": [32, 32], "*deit*:model.options": {"img_size": 32},
        "*resnet*:optimizer.learning_rate": 1e-3,  # not to diverge at once
    }  # fmt: skip
    some = ("*entropy-cosine", "*mse-steps")
    request = Request(fig1.EXPERIMENT, "paper", seeds=1, out=tmp_path / "out", changes=fewer, only=some)
    rows = reproduce(request).rows
    assert set(rows["network"]) == {"ResNet-50", "DeiT-T", "DeiT-S"}
    assert rows["job"].nunique() == 4
    assert set(rows["ended"]) == {"steps"}
    last = rows[rows["step"] == 2]
    assert np.isfinite(last[["train_squared_distance", "test_squared_distance", "train_loss"]]).all(axis=None)
    # Four classes, fewer than features: there is variance that the classifier does not read.
    assert (last["train_within_off_weight_space"] > 0).all()
