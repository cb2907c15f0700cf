"""Training: what measuring changes (nothing), what a step is, when a run ends."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

import collapselab
from collapselab import InputError
from collapselab.data.recipe import DataSpec, Sample
from collapselab.numerics import cpu_threads
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, StartFrom
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, measuring, run_recipe
from collapselab.training.building import build_model, load_data
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer


def test_measuring_does_not_change_the_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    often = tiny_recipe.model_copy(update={"measuring": Measuring(count=12)})
    rarely = tiny_recipe.model_copy(update={"measuring": Measuring(count=2)})
    weights = []
    for name, recipe in (("often", often), ("rarely", rarely)):
        folder = RunFolder(tmp_path / name)
        run_recipe(recipe, folder)
        weights.append(folder.read_weights(recipe.steps))
    assert len(often.measured_steps()) > len(rarely.measured_steps())
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:  # batch norm's running statistics among them
        assert torch.equal(weights[0][name], weights[1][name]), name


def test_a_run_leaves_the_callers_random_state_alone(tiny_recipe: Recipe, folder: RunFolder) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    run_recipe(tiny_recipe, folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def _trainer(recipe: Recipe, folder: RunFolder) -> Trainer:
    folder.create()
    return Trainer(recipe, load_data(recipe), folder, make_fabric(recipe), lambda *_: None)


def test_every_epoch_visits_every_sample_once(tiny_recipe: Recipe, folder: RunFolder) -> None:
    trainer = _trainer(tiny_recipe.model_copy(update={"batch_size": 16}), folder)
    for epoch in range(2):
        seen = [
            trainer.batches.rows(4 * epoch + position) for position in range(4)
        ]  # 60 samples in batches of 16
        assert [len(rows) for rows in seen] == [16, 16, 16, 12]
        assert torch.cat(seen).sort().values.tolist() == list(range(60))


def test_a_last_batch_of_one_sample_is_left_out(tiny_recipe: Recipe, folder: RunFolder) -> None:
    data = DataSpec(train=Sample(method="first", count=65), test=Sample(method="first", count=80))
    trainer = _trainer(tiny_recipe.model_copy(update={"batch_size": 32, "data": data}), folder)
    for _ in range(4):  # batch norm would refuse it
        trainer.train_step()
    assert trainer.epoch == 2


def test_a_step_is_that_of_a_loop_written_by_hand(tiny_recipe: Recipe, folder: RunFolder) -> None:
    """Gradients, momentum, weight decay, learning rate and temperature, against plain float64 arithmetic."""
    recipe = tiny_recipe.model_copy(
        update={"temperature": 2.0, "model": ModelSpec(options={"width": 8, "depth": 1, "batch_norm": False})}
    )
    data = load_data(recipe)
    model = build_model(recipe, data).double()
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    trainer = _trainer(recipe, folder)
    for step in range(5):
        rows = trainer.batches.rows(step)  # 60 samples, one batch an epoch
        outputs = model(data.train.inputs[rows].double()) / 2.0
        loss = -outputs.log_softmax(1)[torch.arange(len(rows)), data.train.labels[rows]].mean()
        gradients = torch.autograd.grad(loss, parameters)
        rate = 0.05 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 30, dtype=torch.float64)))
        with torch.no_grad():
            for parameter, old, gradient in zip(parameters, velocity, gradients, strict=True):
                change = gradient + 5e-3 * parameter
                old.copy_(change if step == 0 else 0.9 * old + change)
                parameter -= rate * old
        trainer.train_step()
    for ours, theirs in zip(trainer.model.parameters(), parameters, strict=True):
        # Five float32 steps: a few eps32 of the weights' size.
        assert torch.allclose(ours.double(), theirs, rtol=0, atol=2e-6)


def test_mean_square_loss_is_over_classes_and_samples() -> None:
    from collapselab.training.building import loss_function

    outputs, labels = torch.tensor([[0.5, 2.0], [1.0, 0.0]]), torch.tensor([1, 1])
    loss = loss_function(Recipe(loss="mse"))(outputs, labels)
    assert float(loss) == pytest.approx((0.5**2 + 1.0**2 + 1.0**2 + 1.0**2) / 4)


def test_a_run_ends_when_the_loss_of_an_epoch_is_low_enough(tiny_recipe: Recipe, folder: RunFolder) -> None:
    recipe = tiny_recipe.with_changes(
        {
            "steps": 500,
            "stop_below_loss": 0.1,
            "batch_size": 16,
            "model.options.dropout": 0.0,
            "schedule.name": "constant",
            "checkpoints.save_every": 60,
        }
    )
    run = run_recipe(recipe, folder)
    assert run.ended == "loss"
    assert 0 < run.steps < 500
    assert run.steps % 4 == 0  # at the end of an epoch
    assert max(row.step for row in folder.read_rows()) == run.steps
    assert {row.step for row in folder.read_final_reference()} == {row.step for row in folder.read_rows()}
    assert folder.weights_path(run.steps).exists()
    last = [row for row in folder.read_rows() if row.step == run.steps and "loss" in row.metrics]
    assert (last[0].metrics["loss"] or 0.0) < 0.2


def test_a_run_ends_when_the_evaluated_loss_is_low_enough(tiny_recipe: Recipe, folder: RunFolder) -> None:
    """The loss of batches with dropout is far above it; epochs of 4 steps are evaluated every 12 steps."""
    recipe = tiny_recipe.with_changes(
        {
            "steps": 300,
            "stop_below_loss": 0.7,
            "stop_loss": "evaluation",
            "batch_size": 16,
            "model.options.dropout": 0.3,
            "schedule.name": "constant",
            "measuring.at": list(range(0, 300, 12)),
        }
    )
    run = run_recipe(recipe, folder)
    losses = {
        row.step: row.metrics["loss"] or 0.0
        for row in folder.read_rows()
        if row.split == "train" and "loss" in row.metrics
    }
    first = next(step for step, loss in losses.items() if step % 12 == 0 and loss < 0.7)
    assert (run.ended, run.steps) == ("loss", first)
    assert 12 < first < 300
    by_batches = recipe.with_changes({"stop_loss": "batches", "steps": first, "measuring.at": []})
    assert run_recipe(by_batches, RunFolder(folder.path.with_name("batches"))).ended == "steps"


def test_evaluating_the_loss_does_not_change_the_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    weights = []
    for changes in ({}, {"stop_below_loss": 1e-9, "stop_loss": "evaluation"}):
        recipe = tiny_recipe.with_changes(
            {"steps": 60, "batch_size": 16, "model.options.dropout": 0.5, **changes}
        )
        folder = RunFolder(tmp_path / str(len(weights)))
        run_recipe(recipe, folder)
        weights.append(folder.read_weights(60))
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name


@pytest.mark.parametrize("loss", ["batches", "evaluation"])
def test_a_run_that_ends_early_goes_on_from_a_kill_to_the_same_end(
    tiny_recipe: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper], loss: str
) -> None:
    recipe = tiny_recipe.with_changes(
        {
            "steps": 500,
            "stop_below_loss": 1.2,
            "batch_size": 16,
            "checkpoints.save_every": 60,
            "stop_loss": loss,
        }
    )
    whole, slots = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "slots")
    run = run_recipe(recipe, whole)
    assert run.ended == "loss"
    with pytest.raises(RunInterrupted):
        run_recipe(recipe, slots, stopper=stop_at(run.steps - 2))  # in the middle of the last epoch
    again = run_recipe(recipe, slots)
    assert (again.ended, again.steps) == (run.ended, run.steps)
    assert slots.read_rows() == whole.read_rows()


def test_a_run_that_diverges_says_so_and_keeps_its_rows(tiny_recipe: Recipe, folder: RunFolder) -> None:
    recipe = tiny_recipe.with_changes(
        {"steps": 300, "optimizer.learning_rate": 1e18, "model.options.batch_norm": False, "loss": "mse"}
    )
    run = run_recipe(recipe, folder)
    assert run.ended == "diverged"
    assert run.status == "finished"
    assert {row.step for row in folder.read_rows()} >= {0}
    assert max(row.step for row in folder.read_rows()) < run.steps <= 300


def test_loss_and_accuracy_are_those_of_the_network(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run_recipe(tiny_recipe, folder)
    data = load_data(tiny_recipe)
    model = build_model(tiny_recipe, data)
    model.load_state_dict(folder.read_weights(30))
    model.eval()
    for name, split in (("train", data.train), ("test", data.test)):
        with torch.no_grad():
            outputs = model(split.inputs)
        rows = [row for row in folder.read_rows() if row.step == 30 and row.split == name]
        metrics = max(rows, key=lambda row: row.depth).metrics
        assert metrics["accuracy"] == float((outputs.argmax(1) == split.labels).double().mean())
        assert metrics["loss"] == pytest.approx(
            float(nn.functional.cross_entropy(outputs, split.labels)), rel=1e-6
        )
        assert [row.layer for row in rows if "accuracy" in row.metrics] == ["layers.2"]


def test_fine_tuning_starts_from_all_weights_but_the_classifier(tiny_recipe: Recipe, tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "first")
    run_recipe(tiny_recipe, first)
    start = StartFrom(checkpoint="../first/checkpoints/step-000030.safetensors")
    tuned = RunFolder(tmp_path / "second")
    recipe = tiny_recipe.model_copy(update={"start": start, "seed": 3})
    run_recipe(recipe, tuned)
    begun, held = tuned.read_weights(0), first.read_weights(30)
    fresh = build_model(recipe.model_copy(update={"start": None}), load_data(recipe)).state_dict()
    for name, weights in begun.items():
        expected = fresh if name.startswith("layers.2.") else held
        assert torch.equal(weights, expected[name]), name


def test_fine_tuning_takes_a_task_of_other_classes(tiny_recipe: Recipe, tmp_path: Path) -> None:
    groups = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
    first = RunFolder(tmp_path / "first")
    pretrained = tiny_recipe.model_copy(
        update={"data": tiny_recipe.data.model_copy(update={"groups": groups})}
    )
    run_recipe(pretrained, first)
    assert first.read_weights(30)["layers.2.weight"].shape == (2, 8)
    start = StartFrom(checkpoint="../first/checkpoints/step-000030.safetensors")
    tuned = RunFolder(tmp_path / "second")
    run_recipe(tiny_recipe.model_copy(update={"start": start}), tuned)
    assert tuned.read_weights(30)["layers.2.weight"].shape == (10, 8)


def test_a_checkpoint_that_is_not_there_is_refused(tiny_recipe: Recipe, folder: RunFolder) -> None:
    recipe = tiny_recipe.model_copy(update={"start": StartFrom(checkpoint="../none.safetensors")})
    with pytest.raises(InputError, match=r"none\.safetensors"):
        run_recipe(recipe, folder)


def test_what_a_finished_run_needs_no_more_is_gone(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run_recipe(tiny_recipe.model_copy(update={"checkpoints": Checkpoints(at="last")}), folder)
    assert not (folder.path / "features").exists()
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["step-000030.safetensors"]


def test_only_the_last_layer_is_measured_where_the_recipe_says_so(
    tiny_recipe: Recipe, folder: RunFolder
) -> None:
    run_recipe(tiny_recipe.model_copy(update={"measuring": Measuring(count=2, layers="last")}), folder)
    assert {row.layer for row in folder.read_rows()} == {"layers.2"}


def test_statistics_are_on_the_device_that_the_recipe_names(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list[Any]()

    def noted(*args: Any, **options: Any) -> Any:
        places.append(options["stats_device"])
        return collapselab.profile(*args, **options)

    monkeypatch.setattr(measuring, "profile", noted)
    for number, place in enumerate((None, "cpu")):
        recipe = tiny_recipe.with_changes({"measuring.stats_device": place})
        run_recipe(recipe, RunFolder(tmp_path / str(number)))
        assert set(places) == {place}
        places.clear()


def test_bf16_trains_and_measures_in_float32(tiny_recipe: Recipe, folder: RunFolder) -> None:
    recipe = tiny_recipe.model_copy(update={"precision": "bf16-mixed"})
    run_recipe(recipe, folder)
    assert {tensor.dtype for tensor in folder.read_weights(30).values()} == {torch.float32, torch.int64}
    exact = RunFolder(folder.path.parent / "exact")
    run_recipe(tiny_recipe, exact)
    assert not torch.equal(
        exact.read_weights(30)["layers.0.weight"], folder.read_weights(30)["layers.0.weight"]
    )


def test_adamw_and_other_schedules_train(tiny_recipe: Recipe, folder: RunFolder) -> None:
    recipe = tiny_recipe.model_copy(
        update={
            "optimizer": Optimizer(name="adamw", learning_rate=0.01),
            "model": ModelSpec(options={"width": 16, "depth": 1}),
        }
    )
    run_recipe(recipe, folder)
    losses = [
        row.metrics["loss"] or 0.0
        for row in folder.read_rows()
        if row.split == "train" and "loss" in row.metrics
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_run_json_says_where_the_result_comes_from(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run = run_recipe(tiny_recipe, folder)
    assert run.recipe == tiny_recipe
    assert run.versions["torch"] == torch.__version__
    assert run.hardware.get("cpu_count") == os.cpu_count()
    assert run.hardware.get("processor") != "x86_64", "the architecture is not the processor"
    assert run.status == "finished"
    assert run.ended == "steps"
    assert run.data is not None
    assert run.data.num_train == 60
    assert run.data.num_test == 80


def test_the_gpu_of_a_mac_is_left_alone(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no float64."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_fabric(tiny_recipe).device.type == "cpu"


def test_threads_are_those_of_every_library_and_then_as_before() -> None:
    def numbers() -> list[int]:
        return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]

    torch.mm(torch.ones(8, 8), torch.ones(8, 8))
    before = numbers()
    with cpu_threads(2):
        assert set(numbers()) == {2}
    assert numbers() == before
