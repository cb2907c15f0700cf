"""Kills, signals and writes that fail, at any moment: nothing is lost or changed, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from attacking import SEED, TIMES, Random, recipe, request

from cli_runner import largest_file
from collapselab import InputError
from collapselab.experiments.runner import reproduce
from collapselab.records.recipe import Checkpoints
from collapselab.records.verdicts import read_verdicts
from collapselab.storage import WriteError
from collapselab.training import RunFolder, RunInterrupted, run_recipe
from collapselab.training.trainer import Trainer


class Killed(BaseException):
    """Stands for the end of the process: no handler of the code under test may catch it."""


# What a process does to a file, in the order in which it does it.
CALLS = ("open", "write", "fsync", "ftruncate", "replace")


@contextmanager
def failing(name: str, moment: int, error: BaseException, *, is_late: bool = False) -> Iterator[list[int]]:
    """Raise at the `moment`-th call of a function of `os`; yields a list that holds the number of calls.

    Args:
        name: of the function; only calls of `open` that create a file count.
        moment: from 1.
        error: what is raised; after it everything works again.
        is_late: whether the call is done before. A `write` then writes half.
    """
    real, calls = getattr(os, name), [0]

    def call(*args: Any, **options: Any) -> Any:
        if name == "open" and not args[1] & os.O_CREAT:
            return real(*args, **options)
        calls[0] += 1
        if calls[0] != moment:
            return real(*args, **options)
        if is_late:
            real(*((args[0], bytes(args[1])[: len(args[1]) // 2]) if name == "write" else args), **options)
        raise error

    setattr(os, name, call)
    try:
        yield calls
    finally:
        setattr(os, name, real)


def results(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    return {
        "rows": (path / "measurements.jsonl").read_bytes(),
        "final": (path / "final_reference.jsonl").read_bytes(),
        "weights": {name: weight.tolist() for name, weight in folder.read_weights(9).items()},
        "left": sorted(str(inside.relative_to(path)) for inside in path.rglob("*")),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("whole") / "run"
    run_recipe(recipe(), RunFolder(path))
    return results(path)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often each function is called in a run."""
    with ExitStack() as stack:
        calls = {name: stack.enter_context(failing(name, -1, Killed())) for name in CALLS}
        run_recipe(recipe(), RunFolder(tmp_path_factory.mktemp("counts") / "run"))
    assert all(number for (number,) in calls.values()), calls
    return {name: number for name, (number,) in calls.items()}


def moments(counts: dict[str, int], times: int) -> Iterator[tuple[str, int, bool]]:
    """Yield a function, the number of its call, and whether the call is done before; they repeat with the seed."""
    draw = Random(SEED + times)
    for number in range(times):
        name = CALLS[number % len(CALLS)]
        yield name, draw.randint(1, counts[name]), draw.random() < 0.5


def go_on(path: Path, whole: dict[str, Any], where: str) -> None:
    run_recipe(recipe(), RunFolder(path))
    assert results(path) == whole, where
    shutil.rmtree(path)


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


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("longer") / "run"
    run_recipe(LONGER, RunFolder(path))
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_goes_on(tmp_path: Path, longer: Path, number: signal.Signals) -> None:
    path, script = tmp_path / "recipe.yaml", [sys.executable, "-m", "collapselab", "run"]
    path.write_text(LONGER.to_yaml())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    out, rows = tmp_path / "run", tmp_path / "run" / "measurements.jsonl"
    with subprocess.Popen(
        [*script, path, "--out", out], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not (rows.exists() and rows.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(Random(SEED + number).uniform(0, 0.3))
        process.send_signal(number)
    record = RunFolder(out).read_run()
    assert record is not None
    assert not record.is_finished, "it was faster than the signal"
    run_recipe(LONGER, RunFolder(out))
    for name in ("measurements.jsonl", "final_reference.jsonl"):
        assert (out / name).read_bytes() == (longer / name).read_bytes()


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


# ---------------------------------------------------------------- writes that fail

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES, errno.ESTALE)


def test_a_write_that_fails_is_one_line_and_the_run_goes_on(
    tmp_path: Path, whole: dict[str, Any], counts: dict[str, int]
) -> None:
    path, draw = tmp_path / "run", Random(SEED)
    for name, moment, is_late in moments(counts, 10 * TIMES):
        error = OSError(number := draw.choice(ERRORS), os.strerror(number))
        with failing(name, moment, error, is_late=is_late), pytest.raises(InputError) as caught:
            run_recipe(recipe(), RunFolder(path))
        text = str(caught.value).replace(str(path), "FOLDER")
        assert "\n" not in text
        assert len(text) <= 300
        assert text.startswith("FOLDER"), text
        assert os.strerror(number) in text
        go_on(path, whole, f"{name} {moment} {is_late} {number}")


@pytest.mark.parametrize("size", [0, 100, 1000, 3000, 10_000])
def test_no_room_is_one_line_and_the_run_goes_on(tmp_path: Path, whole: dict[str, Any], size: int) -> None:
    path = tmp_path / "run"
    with (
        largest_file(size),
        pytest.raises(WriteError, match=r"File too large.*; make room, then run it again"),
    ):
        run_recipe(recipe(), RunFolder(path))
    go_on(path, whole, f"{size}")


def test_no_room_for_an_experiment_is_one_line_and_it_goes_on(tmp_path: Path) -> None:
    asked = request(tmp_path / "out", seeds=1)
    for size in (300, 5000):
        with largest_file(size), pytest.raises(InputError, match="make room, then run it again"):
            reproduce(asked)
    assert reproduce(asked).judgements


def test_a_folder_that_goes_away_is_one_line_and_the_run_begins_again(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    path = tmp_path / "run"

    def remove(at: int) -> Callable[[int, int, str], None]:
        return lambda step, _steps, _doing: shutil.rmtree(path) if step >= at and path.exists() else None

    for at in (0, 4, 9):
        with pytest.raises(InputError, match="its folder is gone: bring it back, then run it again"):
            run_recipe(recipe(), RunFolder(path), remove(at))
        go_on(path, whole, f"{at}")
