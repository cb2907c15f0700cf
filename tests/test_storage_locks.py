"""A folder belongs to one process at a time, and to none once that process is gone."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from collapselab.records.run_record import RunRecord
from collapselab.storage import exclusive
from collapselab.training import FolderInUse, Recipe, RunFolder, run_recipe

_HOLD = """
import sys
from pathlib import Path
from collapselab.storage import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with held_by_another(lock) as other:
        with pytest.raises(FolderInUse, match="another process is working there"), exclusive(lock):
            pass
        other.kill()
        other.wait()
        with exclusive(lock):
            pass


def test_a_lock_is_dropped_when_its_holder_fails(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    with pytest.raises(ZeroDivisionError), exclusive(lock):
        raise ZeroDivisionError
    with exclusive(lock):
        pass


# The first is what `filelock` makes of ENOSYS.
@pytest.mark.parametrize(
    "error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")]
)
def test_a_file_system_without_locks_is_worked_on_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with exclusive(tmp_path / "run.lock"):
        pass


def test_a_folder_is_in_use_while_it_is_held_and_not_after(folder: RunFolder) -> None:
    assert not folder.in_use()
    assert not folder.path.exists(), "asking leaves nothing behind"
    folder.create()
    with folder.exclusive():
        assert folder.in_use()
    assert not folder.in_use()


def test_a_run_that_another_process_trains_is_not_touched(tiny_recipe: Recipe, folder: RunFolder) -> None:
    folder.create()
    with held_by_another(folder.path / "run.lock"):
        with pytest.raises(FolderInUse, match=str(folder.path)):
            run_recipe(tiny_recipe, folder)
        assert folder.read_run() is None
        assert folder.read_rows() == []
    assert run_recipe(tiny_recipe, folder).status == "finished"


def test_a_run_that_another_process_finished_meanwhile_is_not_run_again(
    tiny_recipe: Recipe, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = run_recipe(tiny_recipe, folder)
    asked: list[RunFolder] = []
    real = RunFolder.read_run

    def read_run(self: RunFolder) -> RunRecord | None:
        asked.append(self)
        return None if len(asked) == 1 else real(self)  # at first the other process had not begun

    monkeypatch.setattr(RunFolder, "read_run", read_run)
    monkeypatch.setattr("collapselab.training.run.Trainer", None)
    assert run_recipe(tiny_recipe, folder) == finished
