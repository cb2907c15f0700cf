"""Two short runs and two small profiles of one network, in folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from collapselab import profile
from collapselab.records.profile import ProfileMade, StoredProfile, write_profile
from collapselab.records.recipe import Measuring, Optimizer
from collapselab.records.run_folder import RunFolder
from collapselab.storage import provenance
from collapselab.training import run_recipe
from tiny_runs import tiny


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs that differ in weight decay."""
    folders = []
    for decay in (0.0, 0.02):
        recipe = tiny(
            optimizer=Optimizer(learning_rate=0.05, weight_decay=decay),
            measuring=Measuring(count=4, metrics=("normalized_within", "cdnv"), spectra=False),
        )
        folder = tmp_path_factory.mktemp("runs") / f"decay-{decay:g}"
        run_recipe(recipe, RunFolder(folder))
        folders.append(folder)
    return folders[0], folders[1]


@pytest.fixture(scope="session")
def profile_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Profiles of a network before and after some steps of training."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 4
    inputs = torch.eye(4, 6)[labels] + 0.2 * torch.randn(60, 6, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    folders = []
    for name, steps in (("before", 0), ("after", 60)):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        folder = tmp_path_factory.mktemp("profiles") / name
        folder.mkdir()
        measured = profile(model, [(inputs, labels)], [(inputs[:40], labels[:40])], name="net")
        made = ProfileMade.model_validate({**provenance(), "options": {"checkpoint": name}})
        write_profile(folder, StoredProfile(measured, made))
        folders.append(folder)
    return folders[0], folders[1]
