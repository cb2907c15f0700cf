"""Snippets of README.md and docs/, in the situation that their page assumes: a network, loaders, files, a run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
import typer
from not_run import BLOCKS, COMMANDS, why_not_block, why_not_command
from snippets import PAGES, ROOT, TUTORIALS, Snippet, arguments, run_command, run_python, snippets
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import collapselab
from collapselab.cli.app import app
from collapselab.data import load_digits
from collapselab.metrics import METRICS
from collapselab.transfer.scores import SCORES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]  # warnings are printed, as for a reader
OTHERS = [page for page in PAGES if page not in TUTORIALS]
ALL_COMMANDS = [command for page in PAGES for snippet in snippets(page) for command in snippet.commands]


class Network(nn.Module):
    """One hidden layer; the classifier, `fc`, reads 512 features, which collapse."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.fc = nn.Linear(512, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.hidden(images))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with the files that pages name, and what their Python blocks assume, made of digits."""
    matplotlib.use("agg")
    digits = load_digits(400)
    train, test = digits.train, digits.test
    train_loader = DataLoader(TensorDataset(train.inputs, train.labels), batch_size=100)
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    for _ in range(100):
        for images, labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    network.eval()
    features, test_features = (network.hidden(split.inputs).detach() for split in (train, test))
    weight, bias = network.fc.weight.detach(), network.fc.bias.detach()
    pair, test_pair = (
        (features[:, :64].numpy(), train.labels.numpy()),
        (test_features[:, :64].numpy(), test.labels.numpy()),
    )
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLLAPSELAB_CACHE", str(folder / "cache"))
        for name in ("shards", "features", "runs/hui2022-fig3-cpu"):
            (folder / name).mkdir(parents=True)
        for name, (rows, marks) in {
            "train": pair, "test": test_pair, "shards/0": pair, "shards/1": test_pair, "features/a": pair, "features/b": pair,
        }.items():  # fmt: skip
            np.savez(folder / f"{name}.npz", features=rows, labels=marks)
        shutil.copy(ROOT / "results/hui2022/fig3/rows.csv", "runs/hui2022-fig3-cpu")
        run_command("collapselab run digits --show-recipe > digits.yaml")
        small = "--set steps=20 --set measuring.count=2 --set measuring.layers=last"
        for out, decay in {"digits": 0, "decay-0": 0, "decay-1": 0.01}.items():
            run_command(
                f"collapselab run digits.yaml {small} --set optimizer.weight_decay={decay} --out runs/{out}"
            )
        yield folder, {
            "collapselab": collapselab, "nn": nn, "model": network, "network": network, "model_a": network, "model_b": Network(),
            "train_loader": train_loader, "plain_train_loader": train_loader, "loader": train_loader,
            "test_loader": DataLoader(TensorDataset(test.inputs, test.labels), batch_size=500),
            "features": features, "labels": train.labels, "W": weight, "b": bias,
            "test_features": test_features, "test_labels": test.labels,
            "features_of": lambda images: network.hidden(images).detach(),
            "train": pair, "test": test_pair, "by_model": {"a": pair[0], "b": pair[0][:, :32]},
            "accuracies": {"pets": 0.9, "flowers": 0.95}, "writer": lambda values, step: None,
        }  # fmt: skip


@pytest.mark.parametrize("page", OTHERS)
def test_the_snippets_of_a_page_run(
    page: str, world: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, assumed = world
    monkeypatch.chdir(folder)
    names = dict(assumed)
    if page == "docs/experiments.md":
        names["train"] = lambda model: model
    if page == "docs/profiles.md":
        from transformers import TrainingArguments

        names["arguments"] = TrainingArguments("trainer", report_to=[], use_cpu=True)
    for snippet in snippets(page):
        if snippet.language == "python" and why_not_block(page, snippet.source) is None:
            run_python(snippet, names)
        for command in snippet.commands:
            if why_not_command(command) is None:
                run_command(command)


@pytest.mark.parametrize("command", sorted(set(ALL_COMMANDS)))
def test_every_command_parses(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    group = typer.main.get_command(app)
    words, _ = arguments(command)
    with group.make_context("collapselab", list(words)) as context:
        _, subcommand, rest = group.resolve_command(context, words)  # pyright: ignore[reportAttributeAccessIssue] a group
        subcommand.make_context(subcommand.name, rest, parent=context)


def test_every_exception_is_needed() -> None:
    unused = [pattern for pattern in COMMANDS if not any(re.search(pattern, one) for one in ALL_COMMANDS)]
    assert unused == []
    pages = {page: [snippet.source for snippet in snippets(page)] for page, _ in BLOCKS}
    assert [key for key in BLOCKS if not any(re.search(key[1], source) for source in pages[key[0]])] == []


def test_a_broken_snippet_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError, match="mesure"):
        run_python(Snippet("page.md", 7, "python", "collapselab.mesure"), {"collapselab": collapselab})
    with pytest.raises(AssertionError, match="about 3"):
        run_python(Snippet("page.md", 7, "python", "x = 2\nx  # about 3"), {})
    with pytest.raises(AssertionError, match=r"nowhere\.npz"):
        run_command("collapselab measure nowhere.npz")


def test_the_page_on_metrics_names_metrics() -> None:
    text = (ROOT / "docs/which-metric.md").read_text(encoding="utf-8")
    column = [row.split("|")[2] for row in text.splitlines() if row.startswith("|") and "---" not in row][1:]
    named = {name for cell in column for name in re.findall(r"`(\w+)`", cell)}
    assert named - {metric.name for metric in METRICS} - {score.name for score in SCORES} == {"class_details"}
