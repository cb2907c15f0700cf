"""Two processes that share every batch train the network of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from collapselab.training import Recipe, RunFolder, run_recipe

pytestmark = pytest.mark.slow


def _torchrun(recipe: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "collapselab", "run", str(recipe), "--out", str(out),
    ]  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_two_processes_train_the_network_of_one(tiny_recipe: Recipe, tmp_path: Path) -> None:
    # Batch norm and dropout work on each process's share; without them the gradient is that of the whole batch. The last
    # batch of an epoch, of 12 samples, is shared too.
    recipe = tiny_recipe.with_changes(
        {
            "model.options": {"width": 8, "depth": 2, "batch_norm": False},
            "batch_size": 16,
            "stop_below_loss": 1e-9,
        }
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    together = _torchrun(path, tmp_path / "two")
    assert together.returncode == 0, together.stderr[-2000:]
    assert together.stdout.count("30 steps: all steps done") == 1
    alone, shared = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    run_recipe(recipe, alone)
    for name, weights in alone.read_weights(30).items():
        # Thirty float32 steps whose gradients are summed in another order.
        assert torch.allclose(weights, shared.read_weights(30)[name], rtol=0, atol=1e-5), name
    for one, two in zip(alone.read_rows(), shared.read_rows(), strict=True):
        assert (one.step, one.split, one.layer) == (two.step, two.split, two.layer)
        assert two.metrics["normalized_within"] == pytest.approx(one.metrics["normalized_within"], rel=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused_in_one_line(tiny_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(tiny_recipe.model_copy(update={"batch_size": 15}).to_yaml())
    done = _torchrun(path, tmp_path / "run")
    assert done.returncode != 0
    assert "batch_size 15 cannot be shared by 2 processes" in done.stderr
