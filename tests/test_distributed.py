"""Two real processes on gloo give the numbers of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distributed_worker
from cli_runner import run
from collapselab.distributed import rank_and_world

pytestmark = pytest.mark.slow
WORKER = Path(distributed_worker.__file__)


def torchrun(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        *map(str, arguments),
    ]  # fmt: skip
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def results_by_rank(worker: Path, folder: Path, processes: int = 2) -> list[dict[str, Any]]:
    """What each process of a worker wrote; started as by torchrun, which takes seconds to be imported itself."""
    started = [
        subprocess.Popen(
            [sys.executable, worker, folder],
            cwd=worker.parent,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(processes)},
        )
        for rank in range(processes)
    ]
    try:
        for process in started:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said[-2000:]
    finally:
        for process in started:
            process.kill()  # one that waits for another that failed
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_by_rank(WORKER, tmp_path_factory.mktemp("ranks"))


def assert_same_numbers(found: Any, expected: Any, place: str = "") -> None:
    """Equal structure and text; numbers to 1e-9, since parts are summed in another order in float64."""
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name in expected:
            assert_same_numbers(found[name], expected[name], f"{place}/{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for index, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same_numbers(a, b, f"{place}/{index}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), place
    else:
        assert found == expected, place


@pytest.mark.parametrize("how", ["dealt", "sampler", "sketch"])
def test_every_process_ends_with_the_numbers_of_one(how: str, by_rank: list[dict[str, Any]]) -> None:
    first, second = (found[how] for found in by_rank)
    assert first == second
    single = distributed_worker.result("sketch" if how == "sketch" else "dealt")
    assert first["num_samples"] == {"train": distributed_worker.NUM_SAMPLES, "test": 10}
    assert_same_numbers(first, single)


def test_what_is_wrong_in_one_process_ends_all_of_them(by_rank: list[dict[str, Any]]) -> None:
    first, second = (found["poisoned"] for found in by_rank)
    assert "batch 1, layer 0: features contain NaN" in second
    assert first == f"process 1: {second}"


def test_the_command_prints_once_under_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, num_classes))\n"
    )
    # One batch of test data: the first process has none.
    options = ("profile", "model.py:build", "--dataset", "digits", "--batch-size", "900", "--format", "json")
    together = torchrun("-m", "collapselab", *options, cwd=tmp_path)
    assert together.returncode == 0, together.stderr[-2000:]
    monkeypatch.chdir(tmp_path)
    alone = run(*options)
    assert_same_numbers(json.loads(together.stdout), json.loads(alone.out))


def test_nothing_is_shared_without_a_process_group() -> None:
    assert rank_and_world() == (0, 1)


def test_a_destroyed_process_group_is_gone(tmp_path: Path) -> None:
    """Threads that outlive it abort the process at its end, now and then.

    Nor does a profile import the compiler, which takes seconds, unless the model does: here in its forward pass.
    """
    script = """
import sys, weakref, torch, torch.distributed as dist, collapselab
dist.init_process_group("gloo", init_method="file://{store}", rank=0, world_size=1)
group = weakref.ref(dist.group.WORLD)
rows, labels = torch.rand(40, 5), torch.arange(40) % 2
model = torch.nn.Linear(5, 2)
plain = collapselab.profile(model, [(rows, labels)])
assert "torch._dynamo" not in sys.modules
class Compiled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = model
    def forward(self, x):
        return self.inner(torch.compile(torch.relu, backend="eager")(x))
compiled = collapselab.profile(Compiled(), [(rows, labels)])
assert compiled["inner"].train == plain[""].train
dist.destroy_process_group()
assert group() is None
"""
    command = [sys.executable, "-c", script.format(store=tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
