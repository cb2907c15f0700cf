"""A run small enough to be repeated many times."""

from pathlib import Path

import pytest

from collapselab.training import Recipe, RunFolder


@pytest.fixture
def tiny_recipe() -> Recipe:
    return Recipe(width=8, depth=2, steps=30, num_measurements=5, save_every=7, num_train=60)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")
