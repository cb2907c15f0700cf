"""Writes that fail at any moment, and folders that go away: one line, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacking import SEED, TIMES, Random, recipe, request
from interrupting import failing, go_on, moments

from cli_runner import largest_file
from collapselab import InputError
from collapselab.experiments.runner import reproduce
from collapselab.storage import WriteError
from collapselab.training import RunFolder, run_recipe

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
