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
import torch.distributed as dist
from collapselab.cli import main

def end():
    sys.stdout.flush()
    os._exit(5 if not groups or groups[0]() is not None else 0)

codes, groups = [], []
atexit.register(end)
for recipe, folder in (sys.argv[1:3], sys.argv[3:5]):
    try:
        main(["run", recipe, "--out", folder])
    except SystemExit as ended:
        codes.append(ended.code)
assert codes == [2, 0], codes
groups.append(weakref.ref(dist.group.WORLD))
"""


def test_two_processes_train_the_network_of_one(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A batch that they cannot share is refused in one line; no group is alive at their end.

    Its threads abort a process now and then.
    """
    # Batch norm and dropout work on each process's share; without them the gradient is that of the whole batch. The last
    # batch of an epoch, of 12 samples, is shared too.
    recipe = tiny_recipe.with_changes(
        {
            "model.options": {"width": 8, "depth": 2, "batch_norm": False},
            "data.image_size": [8, 8],
            "augmentation": {"crop": 1, "flip": 0.5},
            "batch_size": 16,
            "stop_below_loss": 1e-9,
        }
    )
    script, odd, even = (tmp_path / name for name in ("train.py", "odd.yaml", "even.yaml"))
    script.write_text(TRAINING_SCRIPT)
    odd.write_text(recipe.model_copy(update={"batch_size": 15}).to_yaml())
    even.write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.run(
        [*command, script, odd, tmp_path / "odd", even, tmp_path / "two"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert together.returncode == 0, together.stderr[-2000:]
    assert together.stdout.count("30 steps: all steps done") == 1
    refusals = [line for line in together.stderr.splitlines() if "error:" in line]
    assert refusals
    assert all("batch_size 15 cannot be shared by 2 processes" in line for line in refusals), refusals
    alone, shared = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    run_recipe(recipe, alone)
    for name, weights in alone.read_weights(30).items():
        # Thirty float32 steps whose gradients are summed in another order.
        assert torch.allclose(weights, shared.read_weights(30)[name], rtol=0, atol=1e-5), name
    for one, two in zip(alone.read_rows(), shared.read_rows(), strict=True):
        assert (one.step, one.split, one.layer) == (two.step, two.split, two.layer)
        assert two.metrics["normalized_within"] == pytest.approx(one.metrics["normalized_within"], rel=1e-4)
