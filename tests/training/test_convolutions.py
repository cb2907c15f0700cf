"""A network that convolves is trained in channels-last form: the same steps, and nothing of it is lost on the way."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from collapselab.records.recipe import ModelSpec
from collapselab.training import Recipe, RunFolder, RunInterrupted, Stopper, run_recipe
from collapselab.training.building import build_model, load_data
from collapselab.training.engine import make_fabric
from collapselab.training.trainer import Trainer


@pytest.fixture
def convolving(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.model_copy(
        update={
            "model": ModelSpec(name="convnet", options={"width": 4, "depth": 2}),
            "data": tiny_recipe.data.model_copy(update={"image_size": (8, 8)}),
            "steps": 12,
        }
    )


def test_its_steps_are_those_of_a_contiguous_network_in_float64(
    convolving: Recipe, folder: RunFolder
) -> None:
    data = load_data(convolving)
    model = build_model(convolving, data).double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3)
    folder.create()
    trainer = Trainer(convolving, data, folder, make_fabric(convolving), lambda *_: None)
    trainer.engine.training_mode()
    for step in range(4):
        rows = trainer.batches.rows(step)  # 60 samples, one batch an epoch
        optimizer.param_groups[0]["lr"] = convolving.learning_rate_at(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            model(data.train.inputs[rows].double()), data.train.labels[rows]
        ).backward()
        optimizer.step()
        trainer.train_step()
    kernels = [weight for weight in trainer.model.parameters() if weight.ndim == 4]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        # Four float32 steps; batch norm over 60 samples divides by small deviations and magnifies their rounding.
        assert torch.allclose(ours.double(), theirs, rtol=0, atol=2e-5)


def test_it_goes_on_bit_for_bit(
    convolving: Recipe, tmp_path: Path, stop_at: Callable[[int], Stopper]
) -> None:
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    run_recipe(convolving, whole)
    for _ in range(2):
        with pytest.raises(RunInterrupted):
            run_recipe(convolving, parts, stopper=stop_at(5))
    run_recipe(convolving, parts)
    for name in ("measurements.jsonl", "final_reference.jsonl"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    ours, theirs = parts.read_weights(12), whole.read_weights(12)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
