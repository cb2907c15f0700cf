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


# What is registered first is called last: after the group is left.
TRAINING_SCRIPT = """
import atexit, os, sys, weakref
from pathlib import Path
import torch.distributed as dist
from collapselab.training import Recipe, RunFolder, run_recipe

groups = []
atexit.register(lambda: os._exit(5 if not groups or groups[0]() is not None else 0))
run_recipe(Recipe.read(Path(sys.argv[1])), RunFolder(Path(sys.argv[2])))
groups.append(weakref.ref(dist.group.WORLD))
"""


def _torchrun(*program: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *program,
    ]
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
    together = _torchrun("-m", "collapselab", "run", str(path), "--out", str(tmp_path / "two"))
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
    done = _torchrun("-m", "collapselab", "run", str(path), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "batch_size 15 cannot be shared by 2 processes" in done.stderr


def test_no_process_group_is_alive_at_the_end_of_a_process(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Its threads abort the process now and then."""
    path, script = tmp_path / "recipe.yaml", tmp_path / "train.py"
    path.write_text(tiny_recipe.model_copy(update={"steps": 2}).to_yaml())
    script.write_text(TRAINING_SCRIPT)
    done = _torchrun(str(script), str(path), str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-2000:]
