"""Fixtures every test may use."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits

import typed_calls  # noqa: F401  before collapselab, whose functions it has checked
from collapselab.cli import progress
from collapselab.passes import estimate
from collapselab.probes import kept
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.statistics import gathering
from collapselab.training import Stopper, timing
from tiny_runs import StopAt, tiny

# Examples are drawn the same way on every machine, and a slow machine is no failure.
settings.register_profile("collapselab", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("collapselab")

# Tensors here are small, and two tests run at a time: where threads of products wait for each other, a fit takes minutes
# instead of a second. Processes that tests start read the environment.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
threadpool_limits(1)
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--checks",
        choices=("eager", "deferred"),
        default="eager",
        help="when statistics on the CPU check their batches, unless a test says so itself",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end, no worker is left with one while the other has nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def checks_on_the_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--checks deferred`, the CPU is treated as an accelerator: `auto` defers checks there too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--checks") == "deferred":
            patch.setattr(gathering, "EAGER_DEVICES", frozenset())
        yield


@pytest.fixture(scope="session", autouse=True)
def no_lines_of_a_slow_machine() -> Iterator[None]:
    """What takes long on a loaded machine adds nothing to the output that tests compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_LINE_SECONDS", math.inf)
        patch.setattr(estimate, "_LONG_SECONDS", math.inf)
        yield


@pytest.fixture
def reads_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """No features of a first pass are kept: the network runs in the second pass too, as for features that do not fit."""
    monkeypatch.setattr(kept, "SHARE", 0.0)


@pytest.fixture
def seed() -> int:
    """The one number that every draw of a test starts from."""
    return 20220216


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """Estimates are made as ever, from fewer steps and samples: those of tests are not to be relied on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_TIMED_STEPS", 3)
        patch.setattr(timing, "_TIMED_SAMPLES", 64)
        yield


@pytest.fixture
def fast_collection() -> Iterator[None]:
    """Leave objects that are there already, millions in a long session, out of garbage collection."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def tiny_recipe() -> Recipe:
    return tiny()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def tiny_recipe_of_module() -> Recipe:
    return tiny()


@pytest.fixture
def stop_at() -> Callable[[int], Stopper]:
    return StopAt
