"""A small finished run, profiles of a small network, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reading import judgement
from torch.nn import functional

from collapselab.data import load_digits
from collapselab.data.recipe import DataSpec, Sample
from collapselab.models import MLP
from collapselab.probes import Profile, profile
from collapselab.records.recipe import Measuring, ModelSpec, Optimizer, Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.training import run_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    recipe = Recipe(
        model=ModelSpec(name="mlp", options={"width": 24, "depth": 3}),
        data=DataSpec(name="digits", train=Sample(method="first", count=300)),
        optimizer=Optimizer(learning_rate=0.05, weight_decay=5e-3),
        steps=400,
        num_threads=1,
        measuring=Measuring(count=8),
    )
    folder = RunFolder(tmp_path_factory.mktemp("report") / "run")
    run_recipe(recipe, folder)
    folder.write_verdicts(
        [judgement("holds", "Train variance falls."), judgement("fails", "Test variance falls.")]
    )
    return folder


@pytest.fixture(scope="session")
def profiles() -> tuple[Profile, Profile]:
    """A small network after training and at initialisation."""
    data = load_digits(num_train=300)
    train = [(data.train.inputs, data.train.labels)]
    test = [(data.test.inputs[:200], data.test.labels[:200])]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP(64, 10, width=32, depth=3)
    start = profile(model, train, test)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        functional.cross_entropy(model(data.train.inputs), data.train.labels).backward()
        optimizer.step()
    return profile(model, train, test), start


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that need it are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        yield browser
        browser.close()
