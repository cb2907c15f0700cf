"""Several processes at one experiment: each run is done by one of them, and what is written is what one would write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny_experiment
from watching import Log, request

from collapselab.experiments.runner import Request, reproduce
from collapselab.registry import find_experiment
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


@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_that_another_process_is_at_is_passed_over(tmp_path: Path, finishes: bool) -> None:
    other = Other(tmp_path / "out", finishes=finishes)
    outcome = reproduce(request(tmp_path / "out", seeds=2), other)
    started = [line[:2] for line in other.of("started")]
    of_other = [] if finishes else [("first", 0)]
    assert started == [("first", 1), ("second", 1), *of_other, ("second", 0)]
    assert other.of("waiting") == [(2,)], "the other's, and the one that starts from it; said once"
    alone = reproduce(request(tmp_path / "alone", seeds=2))
    pd.testing.assert_frame_equal(outcome.rows, alone.rows)


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


@pytest.mark.slow
def test_two_processes_share_the_runs_and_write_what_one_writes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "collapselab", "reproduce", "hui2022/fig4", "--threads", "1", "--out"]
    both = [
        subprocess.Popen([*command, str(tmp_path / "both")], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    experiment = find_experiment("hui2022/fig4")
    reproduce(Request(experiment, "smoke", out=tmp_path / "one", changes={"num_threads": 1}))
    for name in ("rows.csv", "verdicts.json", "fig4.png"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    runs = [json.loads(path.read_text()) for path in (tmp_path / "both").glob("runs/*/*/run.json")]
    assert len(runs) == 6
    assert all(len(run["slots"]) == 1 for run in runs), "each run was done by one of them"
