"""End a run at any call that writes, and what a run leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attacking import SEED, Random, recipe

from collapselab.training import Recipe, RunFolder, run_recipe


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


def results(path: Path, asked: Recipe | None = None) -> dict[str, Any]:
    """Return everything a run leaves that must not depend on how it came about."""
    folder = RunFolder(path)
    return {
        "rows": (path / "measurements.jsonl").read_bytes(),
        "final": (path / "final_reference.jsonl").read_bytes(),
        "weights": {
            name: weight.tolist() for name, weight in folder.read_weights((asked or recipe()).steps).items()
        },
        "left": sorted(str(inside.relative_to(path)) for inside in path.rglob("*")),
    }


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
