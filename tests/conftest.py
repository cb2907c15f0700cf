"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from collapselab.data.recipe import DataSpec, Sample
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.training import Stopper, timing

# Examples are drawn the same way on every machine, and a slow machine is no failure.
settings.register_profile("collapselab", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("collapselab")

# Tensors here are small: waiting for a second thread costs more than it saves.
torch.set_num_threads(1)


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


# ---------------------------------------------------------------- a run small enough to be repeated many times

FEW = ("normalized_within", "train_variance", "strong_test_variance")


def tiny(**changes: object) -> Recipe:
    """Dropout, so that random numbers of the network matter; a state on disk after every step."""
    values = {
        "model": ModelSpec(name="mlp", options={"width": 8, "depth": 2, "dropout": 0.2}),
        "data": DataSpec(train=Sample(method="first", count=60), test=Sample(method="first", count=80)),
        "optimizer": Optimizer(learning_rate=0.05, weight_decay=5e-3),
        "steps": 30,
        "num_threads": 1,
        "measuring": Measuring(count=5, metrics=FEW, spectra=False),
        "checkpoints": Checkpoints(at="measured", save_every=0),
    }
    return Recipe.model_validate(values | changes)


@pytest.fixture
def tiny_recipe() -> Recipe:
    return tiny()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def tiny_recipe_of_module() -> Recipe:
    return tiny()


class StopAt(Stopper):
    """Says stop when asked for the n-th time."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    @property
    def reason(self) -> str | None:
        self._left -= 1
        return "out of time" if self._left < 0 else None


@pytest.fixture
def stop_at() -> Callable[[int], Stopper]:
    return StopAt
