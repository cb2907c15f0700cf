"""Several processes at one experiment: each run is done by one of them, and what is written is what one would write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_experiment
from watching import Log, request

from collapselab.experiments.runner import reproduce
from collapselab.training import RunFolder, RunInterrupted, Stopper, run_recipe


class Other(Log):
    """Another process at work on a run, until this one has nothing else to do."""

    def __init__(self, out: Path, *, finishes: bool) -> None:
        super().__init__()
        self._job = tiny_experiment.jobs(0)[0]
        self._folder = RunFolder(out / "runs" / "first" / "seed-0")
        self._finishes = finishes
        self._folder.create()
        self._held = self._folder.exclusive()
        self._held.__enter__()

    def waiting(self, runs: int) -> None:
        super().waiting(runs)
        self._held.__exit__(None, None, None)
        if self._finishes:
            run_recipe(self._job.recipe, self._folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    reproduce(request(out, seeds=2))
    return out


@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_that_another_process_is_at_is_passed_over(tmp_path: Path, alone: Path, finishes: bool) -> None:
    other = Other(tmp_path / "out", finishes=finishes)
    reproduce(request(tmp_path / "out", seeds=2), other)
    started = [line[:2] for line in other.of("started")]
    of_other = [] if finishes else [("first", 0)]
    assert started == [("first", 1), ("second", 1), *of_other, ("second", 0)]
    assert other.of("waiting") == [(2,)], "the other's, and the one that starts from it; said once"
    assert (tmp_path / "out" / "rows.csv").read_bytes() == (alone / "rows.csv").read_bytes()


def test_waiting_for_another_process_ends_when_asked_to(tmp_path: Path) -> None:
    class Patience(Stopper):
        @property
        def reason(self) -> str | None:
            return "out of time" if log.of("waiting") else None

    class Deaf(Other):
        def waiting(self, runs: int) -> None:
            Log.waiting(self, runs)

    log = Deaf(tmp_path / "out", finishes=False)
    with pytest.raises(RunInterrupted, match="out of time"):
        reproduce(request(tmp_path / "out", seeds=1), log, Patience())
    assert log.of("started") == []


# Two processes that have imported everything before either begins.
SCRIPT = """
import os, sys
from pathlib import Path
import lightning_fabric, matplotlib.figure, sklearn.cluster, torch._dynamo
import tiny_experiment
from collapselab.experiments.runner import Request, reproduce
from collapselab.training import timing
timing._TIMED_STEPS, timing._TIMED_SAMPLES = 3, 64
other = os.fork()
reproduce(Request(tiny_experiment.EXPERIMENT, "smoke", out=Path(sys.argv[1]), seeds=2))
assert not other or os.waitpid(other, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes that have imported everything")
def test_two_processes_share_the_runs_and_write_what_one_writes(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "both"
    path = os.pathsep.join((str(Path(tiny_experiment.__file__).parent), os.environ.get("PYTHONPATH", "")))
    both = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert both.returncode == 0, both.stderr
    for name in ("rows.csv", "verdicts.json", "fig1.png"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
    runs = [json.loads(path.read_text()) for path in out.glob("runs/*/*/run.json")]
    assert len(runs) == 4
    assert all(len(run["slots"]) == 1 for run in runs), "each run was done by one of them"
