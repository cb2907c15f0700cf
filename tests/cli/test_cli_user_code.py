"""Models of users' files on the command line: what they print, where they go, how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from cli_runner import assert_refused, run

COMMAND = [sys.executable, "-m", "collapselab"]
HEAD = "import os, sys, subprocess, ctypes, atexit\nimport torch\nfrom torch import nn\n"
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 10)
    def forward(self, x):
        {forward}
        return self.last(self.first(x).relu())
def net():
    {build}
    return Net()
"""
OPTIONS = ("--dataset", "digits", "--limit", "40", "--format", "json")


def model(folder: Path, *, top: str = "", build: str = "pass", forward: str = "pass") -> str:
    """Write a model file with statements where it is imported, built and run; return the model's name."""
    file = folder / "net.py"
    file.write_text(HEAD + textwrap.dedent(top) + NET.format(build=build, forward=forward))
    return f"{file}:net"


def process(folder: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


# Everything at once, since a process takes seconds to start.
LOUD = """
print("import")
os.write(1, b"descriptor\\n")
atexit.register(print, "exit")
"""
CLOSING = "print('build'); sys.stdout.close(); sys.stdout = open(1, 'w', closefd=False)"
LOUDER = (
    "print('forward'); sys.__stdout__.write('dunder'); sys.stdout.buffer.write(b'buffer'); "
    "subprocess.run([sys.executable, '-c', 'print(1234)']); ctypes.CDLL(None).puts(b'from C')"
)


def test_nothing_that_a_model_prints_is_in_the_output(tmp_path: Path) -> None:
    quiet = run("profile", model(tmp_path), *OPTIONS)
    assert json.loads(quiet.out)["layers"]
    name = model(tmp_path, top=LOUD, build=CLOSING, forward=LOUDER)
    done = process(tmp_path, "profile", name, *OPTIONS, "--output", "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout == quiet.out
    for text in ("import", "descriptor", "build", "forward", "dunder", "buffer", "1234", "from C", "exit"):
        assert text in done.stderr


def test_a_model_that_changes_the_folder_changes_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scale.txt").write_text("2")
    go = f"os.chdir({str(tmp_path / 'data')!r})"
    model(
        tmp_path, top=go, forward="assert os.path.getsize('scale.txt') == 1; os.chdir('..'); os.chdir('data')"
    )
    done = run("profile", "../net.py:net", *OPTIONS, "--output", "out.json", "--out", "profile")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"out.json", "profile"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"scale.txt"}
    (tmp_path / "here" / "r.yaml").write_text(
        "{model: {name: '../net.py:net'}, steps: 2, measuring: {count: 2, spectra: false, weak_test_variance: false}, "
        "data: {train: {method: first, count: 40}, test: {method: first, count: 40}}}"
    )
    done = run("run", "r.yaml")
    assert done.code == 0, done.err
    assert (tmp_path / "here" / "runs" / "r" / "run.json").exists()


FAILURES: dict[str, tuple[dict[str, str], str]] = {
    "raises at import": ({"top": "\n\nraise ValueError('no')\n"}, "net.py, line 6: ValueError: no"),
    "exits at import": ({"top": "sys.exit(0)\n"}, "net.py, line 4: SystemExit: 0"),
    "exits in build": ({"build": "sys.exit()"}, "net.py, line 13: SystemExit"),
    "exits in forward": ({"forward": "sys.exit(0)"}, "net.py, line 10: SystemExit: 0"),
    "raises in forward": ({"forward": "x = x + {}['a']"}, "net.py, line 10: KeyError: 'a'"),
    "recurses": ({"forward": "return self.forward(x)"}, "net.py, line 10: RecursionError"),
    "raises in another function": (
        {"top": "def f(x):\n    raise RuntimeError('deep')\n", "forward": "f(x)"}, "net.py, line 5: RuntimeError: deep"
    ),
    "raises in torch": ({"forward": "x = x[:, :5]"}, "net.py, line 11: RuntimeError: "),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_names_the_line_of_the_file(failure: str, tmp_path: Path) -> None:
    statements, message = FAILURES[failure]
    assert_refused(run("profile", model(tmp_path, **statements), *OPTIONS), message)


def test_a_failure_in_training_names_the_line_of_the_file(tmp_path: Path) -> None:
    name = model(tmp_path, forward="assert not self.training, 'in training'")
    (tmp_path / "recipe.yaml").write_text(
        f"{{model: {{name: '{name}'}}, steps: 2, measuring: {{count: 2, spectra: false, weak_test_variance: false}}, "
        "data: {train: {method: first, count: 40}, test: {method: first, count: 40}}}"
    )
    outcome = run("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert_refused(outcome, "net.py, line 10: AssertionError: in training")


def test_training_that_diverges_at_once_is_said(tmp_path: Path) -> None:
    name = model(tmp_path, forward="x = x * float('nan')")
    (tmp_path / "recipe.yaml").write_text(
        f"{{model: {{name: '{name}'}}, steps: 2, measuring: {{count: 2, spectra: false, weak_test_variance: false}}, "
        "data: {train: {method: first, count: 40}, test: {method: first, count: 40}}}"
    )
    for _ in "ab":  # trained, and read
        outcome = run("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
        assert outcome.code == 0, outcome
        assert "0 steps: training diverged" in outcome.out


def test_a_closed_standard_output_is_one_line(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m collapselab profile {model(tmp_path, forward='print(1)')} {' '.join(OPTIONS)} >&-"
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("error: standard output is closed; redirect it to a file\n")
