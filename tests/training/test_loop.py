"""Training: what a kill loses (nothing), what measuring changes (nothing), when a run ends."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from collapselab import InputError
from collapselab.data.recipe import DataSpec, Sample
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.building import build_model, load_data
from collapselab.training.engine import make_fabric
from collapselab.training.loop import Trainer, cpu_threads
from collapselab.training.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, StartFrom


class Killed(BaseException):
    """Stands for the process's end: no handler of the code under test may catch it."""


def _results(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Everything a run leaves that must not depend on how it came about."""
    return {
        "rows": (folder.path / "measurements.jsonl").read_bytes(),
        "final": (folder.path / "final_reference.jsonl").read_bytes(),
        "weights": {name: tensor.tolist() for name, tensor in folder.read_weights(recipe.steps).items()},
        "left": sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*")),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_of_module: Recipe) -> dict[str, Any]:
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    run_recipe(tiny_recipe_of_module, folder)
    return _results(folder, tiny_recipe_of_module)


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5, 8, 13, 18, 21, 40, 47])
def test_a_kill_at_any_write_loses_nothing(
    moment: int,
    tiny_recipe: Recipe,
    folder: RunFolder,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = 0
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == moment:
            raise Killed
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            run_recipe(tiny_recipe, folder)
    run_recipe(tiny_recipe, folder)
    results = _results(folder, tiny_recipe)
    results["left"] = [name for name in results["left"] if not name.endswith(".tmp")]
    assert results == uninterrupted


def test_a_kill_in_the_middle_of_a_row_loses_nothing(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = 0
    real = RunFolder.append_rows

    def append(self: RunFolder, rows: Any) -> None:
        nonlocal appended
        appended += 1
        if appended < 3:
            return real(self, rows)
        with (self.path / "measurements.jsonl").open("a") as file:
            file.write('{"step": 6, "epoch": 1.5, "spl')
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append_rows", append)
        with pytest.raises(Killed):
            run_recipe(tiny_recipe, folder)
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


@pytest.mark.slow
def test_killing_the_process_at_random_moments_loses_nothing(tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.model_copy(update={"steps": 1200, "checkpoints": Checkpoints(save_every=0.05)})
    script = (
        "import sys\n"
        "from collapselab.training import Recipe, RunFolder, run_recipe\n"
        "run_recipe(Recipe.model_validate_json(sys.argv[1]), RunFolder(sys.argv[2]))\n"
    )
    killed, whole = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "whole")
    command = [sys.executable, "-c", script, recipe.model_dump_json(), str(killed.path)]
    # One thread, as in this process: results are the same bit for bit only for the same number.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    generator = random.Random(20220216)
    kills = 0
    trainer = killed.path / "checkpoints" / "trainer.pt"
    while kills < 3:
        before = trainer.stat().st_mtime_ns if trainer.exists() else 0
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 120
        # It has gone on from the last kill once it has written its state again.
        while process.poll() is None and not (trainer.exists() and trainer.stat().st_mtime_ns > before):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.4))
        if process.poll() is not None:  # it was faster than the kill
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        run = killed.read_run()
        if run is not None and run["status"] == "finished":  # only the interpreter was left to kill
            break
        kills += 1
    assert kills, "it was never killed"
    subprocess.run(command, check=True, env=environment)
    run_recipe(recipe, whole)
    results = _results(killed, recipe)
    results["left"] = [name for name in results["left"] if not name.endswith(".tmp")]
    assert results == _results(whole, recipe)
    run = killed.read_run()
    assert run is not None
    assert [slot["from_step"] for slot in run["slots"]] == sorted(slot["from_step"] for slot in run["slots"])
    assert len(run["slots"]) == kills + 1


def test_a_run_in_short_slots_is_the_run_in_one(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], stop_at: Callable[[int], Stopper]
) -> None:
    for step in (7, 14, 21, 28):
        with pytest.raises(RunInterrupted, match=f"out of time at step {step};"):
            run_recipe(tiny_recipe, folder, stopper=stop_at(7))
        run = folder.read_run()
        assert run is not None
        assert run["status"] == "stopped"
    run_recipe(tiny_recipe, folder, stopper=stop_at(7))
    assert _results(folder, tiny_recipe) == uninterrupted


def test_a_deadline_ends_a_run_between_two_steps(tiny_recipe: Recipe, folder: RunFolder) -> None:
    with pytest.raises(RunInterrupted, match="out of time at step 0; the same command goes on"):
        run_recipe(tiny_recipe, folder, stopper=Stopper(time.monotonic() - 1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_between_two_steps(
    number: signal.Signals, tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any]
) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a shell in the background may ignore it
    try:

        def interrupt(done: int, _total: int, doing: str) -> None:
            if doing == "measuring" and done > 3:
                signal.raise_signal(number)

        with pytest.raises(RunInterrupted) as caught:
            run_recipe(tiny_recipe, folder, interrupt)
        assert caught.value.reason == "interrupted"
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


def test_an_interrupt_inside_a_step_goes_on_from_the_last_state(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.train_step

    def step(self: Trainer) -> None:
        real(self)
        if self.step == 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", step)
        with pytest.raises(RunInterrupted) as caught:
            run_recipe(tiny_recipe, folder)
    assert caught.value.step == 16
    run_recipe(tiny_recipe, folder)
    assert _results(folder, tiny_recipe) == uninterrupted


def test_a_finished_run_is_not_run_again(tiny_recipe: Recipe, folder: RunFolder) -> None:
    first = run_recipe(tiny_recipe, folder)

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    assert run_recipe(tiny_recipe, folder, never) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "holds a run with seed 0, not 5"),
        ({"optimizer.learning_rate": 0.5}, "holds a run with optimizer.learning_rate 0.05, not 0.5"),
        ({"model.options.width": 9}, "holds a run with model.options.width 8, not 9"),
    ],
)
def test_another_recipe_in_the_folder_is_refused(
    tiny_recipe: Recipe, folder: RunFolder, changes: dict[str, Any], message: str
) -> None:
    run_recipe(tiny_recipe, folder)
    with pytest.raises(InputError, match=message):
        run_recipe(tiny_recipe.with_changes(changes), folder)


def test_other_samples_under_the_same_name_are_refused(
    tiny_recipe: Recipe, folder: RunFolder, stop_at: Callable[[int], Stopper]
) -> None:
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, folder, stopper=stop_at(3))
    data = load_data(tiny_recipe)
    data.train.inputs[0, 0] += 1e-3
    with pytest.raises(InputError, match="was begun on other samples"):
        run_recipe(tiny_recipe, folder, data=data)


def test_threads_that_are_not_said_are_those_of_the_first_start(
    tiny_recipe: Recipe, folder: RunFolder
) -> None:
    recipe = tiny_recipe.model_copy(update={"num_threads": None})
    run = run_recipe(recipe, folder)
    assert run["recipe"]["num_threads"] == torch.get_num_threads()
    assert run_recipe(recipe, folder) == run


def test_measuring_does_not_change_the_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    often = tiny_recipe.model_copy(update={"measuring": Measuring(count=30)})
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


def test_the_seed_decides_the_result(
    tiny_recipe: Recipe, folder: RunFolder, uninterrupted: dict[str, Any]
) -> None:
    other = tiny_recipe.model_copy(update={"seed": 1})
    run_recipe(other, folder)
    assert _results(folder, other)["rows"] != uninterrupted["rows"]


def _trainer(recipe: Recipe, folder: RunFolder) -> Trainer:
    folder.create()
    return Trainer(recipe, load_data(recipe), folder, make_fabric(recipe), lambda *_: None)


def test_every_epoch_visits_every_sample_once(tiny_recipe: Recipe, folder: RunFolder) -> None:
    trainer = _trainer(tiny_recipe.model_copy(update={"batch_size": 16}), folder)
    for epoch in range(2):
        seen = [trainer.batch_rows(epoch, position) for position in range(4)]  # 60 samples in batches of 16
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
        rows = trainer.batch_rows(step, 0)  # 60 samples, one batch an epoch
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
    assert run["ended"] == "loss"
    assert 0 < run["steps"] < 500
    assert run["steps"] % 4 == 0  # at the end of an epoch
    assert max(row["step"] for row in folder.read_rows()) == run["steps"]
    assert {row["step"] for row in folder.read_final_reference()} == {
        row["step"] for row in folder.read_rows()
    }
    assert folder.weights_path(run["steps"]).exists()
    last = [row for row in folder.read_rows() if row["step"] == run["steps"] and "loss" in row["metrics"]]
    assert last[0]["metrics"]["loss"] < 0.2


def test_a_run_that_ends_early_goes_on_from_a_kill_to_the_same_end(
    tiny_recipe: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    recipe = tiny_recipe.with_changes(
        {"steps": 500, "stop_below_loss": 1.2, "batch_size": 16, "checkpoints.save_every": 60}
    )
    whole, slots = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "slots")
    run = run_recipe(recipe, whole)
    assert run["ended"] == "loss"
    with pytest.raises(RunInterrupted):
        run_recipe(recipe, slots, stopper=stop_at(run["steps"] - 2))  # in the middle of the last epoch
    again = run_recipe(recipe, slots)
    assert (again["ended"], again["steps"]) == (run["ended"], run["steps"])
    assert slots.read_rows() == whole.read_rows()


def test_a_run_that_diverges_says_so_and_keeps_its_rows(tiny_recipe: Recipe, folder: RunFolder) -> None:
    recipe = tiny_recipe.with_changes(
        {"steps": 300, "optimizer.learning_rate": 1e18, "model.options.batch_norm": False, "loss": "mse"}
    )
    run = run_recipe(recipe, folder)
    assert run["ended"] == "diverged"
    assert run["status"] == "finished"
    assert {row["step"] for row in folder.read_rows()} >= {0}
    assert max(row["step"] for row in folder.read_rows()) < run["steps"] <= 300


def test_loss_and_accuracy_are_those_of_the_network(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run_recipe(tiny_recipe, folder)
    data = load_data(tiny_recipe)
    model = build_model(tiny_recipe, data)
    model.load_state_dict(folder.read_weights(30))
    model.eval()
    for name, split in (("train", data.train), ("test", data.test)):
        with torch.no_grad():
            outputs = model(split.inputs)
        rows = [row for row in folder.read_rows() if row["step"] == 30 and row["split"] == name]
        metrics = max(rows, key=lambda row: row["depth"])["metrics"]
        assert metrics["accuracy"] == float((outputs.argmax(1) == split.labels).double().mean())
        assert metrics["loss"] == pytest.approx(
            float(nn.functional.cross_entropy(outputs, split.labels)), rel=1e-6
        )
        assert [row["layer"] for row in rows if "accuracy" in row["metrics"]] == ["layers.2"]


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
    assert {row["layer"] for row in folder.read_rows()} == {"layers.2"}


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
        row["metrics"]["loss"]
        for row in folder.read_rows()
        if row["split"] == "train" and "loss" in row["metrics"]
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_run_json_says_where_the_result_comes_from(tiny_recipe: Recipe, folder: RunFolder) -> None:
    run = run_recipe(tiny_recipe, folder)
    assert run["recipe"] == tiny_recipe.model_dump(mode="json")
    assert run["versions"]["torch"] == torch.__version__
    assert run["hardware"]["cpu_count"] == os.cpu_count()
    assert run["hardware"]["processor"] != "x86_64", "the architecture is not the processor"
    assert run["status"] == "finished"
    assert run["ended"] == "steps"
    assert run["data"]["num_train"] == 60
    assert run["data"]["num_test"] == 80


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


def test_a_run_that_has_nothing_to_lose_begins_anew_with_another_recipe(
    tiny_recipe: Recipe, folder: RunFolder
) -> None:
    wrong = tiny_recipe.with_changes({"measuring.layers": ["layers.9"]})
    with pytest.raises(InputError, match=r"layers\.9"):
        run_recipe(wrong, folder)
    assert run_recipe(tiny_recipe, folder)["status"] == "finished"


def test_a_state_that_is_damaged_or_without_its_rows_is_one_line(
    tiny_recipe: Recipe, folder: RunFolder, stop_at: Callable[[int], Stopper]
) -> None:
    with pytest.raises(RunInterrupted):
        run_recipe(tiny_recipe, folder, stopper=stop_at(7))
    rows = folder.path / "measurements.jsonl"
    kept = rows.read_bytes()
    rows.write_bytes(b"")
    with pytest.raises(InputError, match=r"rows of step \d+ are gone"):
        run_recipe(tiny_recipe, folder)
    rows.write_bytes(kept)
    (folder.path / "checkpoints" / "trainer.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"trainer.pt: damaged"):
        run_recipe(tiny_recipe, folder)
