"""The quick start and the tutorials, from the first block to the last, in an empty folder and without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from not_run import why_not_command
from snippets import TUTORIALS, run_command, run_python, snippets

# Warnings are printed, as for a reader: a few are what a page is about.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def empty_folder_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("the page says that it needs no network")

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_runs_as_written(page: str) -> None:
    names: dict[str, Any] = {}
    for snippet in snippets(page):
        if snippet.language == "python":
            run_python(snippet, names)
        for command in snippet.commands:
            if why_not_command(command) is None:
                run_command(command)
