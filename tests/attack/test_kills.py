"""Kills and signals at any moment: nothing is lost or changed, and the same command goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attacking import SEED, TIMES, Random, recipe, request
from interrupting import Killed, failing, go_on, moments, results

from collapselab.experiments.runner import reproduce
from collapselab.records.recipe import Checkpoints
from collapselab.records.verdicts import read_verdicts
from collapselab.training import RunFolder, RunInterrupted, run_recipe
from collapselab.training.trainer import Trainer


def test_a_kill_at_any_call_loses_nothing(
    tmp_path: Path, whole: dict[str, Any], counts: dict[str, int]
) -> None:
    path = tmp_path / "run"
    for name, moment, is_late in moments(counts, 20 * TIMES):
        # A second kill, soon after the run went on.
        for again in (moment, 1 + moment % 4):
            with suppress(Killed), failing(name, again, Killed(), is_late=is_late):
                run_recipe(recipe(), RunFolder(path))
        go_on(path, whole, f"{name} {moment} {is_late}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_step_loses_nothing(
    tmp_path: Path, whole: dict[str, Any], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # a shell in the background may ignore it
    real, path = Trainer.train_step, tmp_path / "run"
    try:
        for at in [Random(SEED + time).randint(1, 9) for time in range(3 * TIMES)]:

            def step(self: Trainer, at: int = at) -> None:
                real(self)
                if self.step == at:
                    signal.raise_signal(number)

            with pytest.MonkeyPatch.context() as patched, suppress(RunInterrupted):
                patched.setattr(Trainer, "train_step", step)
                run_recipe(recipe(), RunFolder(path))
            go_on(path, whole, f"step {at}")
    finally:
        signal.signal(number, before)


LONGER = recipe(steps=1500, checkpoints=Checkpoints(save_every=0.1))


# Runs of one command, each in a process of its own that is forked when everything is imported, which takes seconds.
RUNS = """
import os, sys
import lightning_fabric, sklearn.cluster, torch._dynamo
from collapselab.cli import main
for _ in sys.stdin:
    child = os.fork()
    if not child:
        main(sys.argv[1:])
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


def _end(runs: subprocess.Popen[str], number: signal.Signals, state: Path) -> None:
    """Start the command and send the signal once it has gone on: a moment after it has written its state."""
    assert runs.stdin is not None
    assert runs.stdout is not None
    before = state.stat().st_mtime_ns if state.exists() else 0
    runs.stdin.write("again\n")
    runs.stdin.flush()
    child, deadline = int(runs.stdout.readline()), time.monotonic() + 120
    while not (state.exists() and state.stat().st_mtime_ns > before):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(Random(SEED + number).uniform(0, 0.3))
    os.kill(child, number)
    assert runs.stdout.readline() == "ended\n"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes that have imported everything")
def test_a_process_that_is_killed_goes_on(tmp_path: Path) -> None:
    path, whole, killed = tmp_path / "recipe.yaml", RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    path.write_text(LONGER.to_yaml())
    command = [sys.executable, "-c", RUNS, "run", str(path), "--out", str(killed.path)]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen(command, text=True, **pipes) as runs:
        for number in (signal.SIGKILL, signal.SIGTERM):
            _end(runs, number, killed.path / "checkpoints" / "trainer.pt")
            record = killed.read_run()
            assert record is not None
            assert not record.is_finished, "it was faster than the signal"
    record = run_recipe(LONGER, killed)
    starts = [slot.from_step for slot in record.slots]
    assert len(starts) == 3
    assert starts == sorted(starts)
    run_recipe(LONGER, whole)
    assert results(killed.path, LONGER) == results(whole.path, LONGER)


def test_a_kill_at_any_call_of_an_experiment_loses_nothing(tmp_path: Path) -> None:
    asked, out = request(tmp_path / "out", seeds=1), tmp_path / "out"
    with failing("replace", -1, Killed()) as calls:
        reproduce(asked)
    right, verdicts = (out / "rows.csv").read_bytes(), read_verdicts(out / "verdicts.json")
    draw = Random(SEED)
    # Most replacements are those of the run; what comes behind it is drawn as often.
    late = [draw.randint(calls[0] - 8, calls[0]) for _ in range(3 * TIMES)]
    for moment in [*(draw.randint(1, calls[0]) for _ in range(2 * TIMES)), *late]:
        shutil.rmtree(out)
        with pytest.raises(Killed), failing("replace", moment, Killed(), is_late=draw.random() < 0.5):
            reproduce(asked)
        reproduce(asked)
        assert (out / "rows.csv").read_bytes() == right, moment
        assert read_verdicts(out / "verdicts.json") == verdicts, moment
