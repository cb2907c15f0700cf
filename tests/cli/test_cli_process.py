"""The command line used wrongly, interrupted, or with nobody to print to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from cli_runner import assert_refused, example, run, save
from collapselab import __version__
from collapselab import cli as cli_module
from collapselab.metrics import BY_NAME, METRICS
from collapselab.metrics.catalogue import NOTATION

COMMAND = [sys.executable, "-m", "collapselab"]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return save(tmp_path / "train.npz")


USAGE = [
    (["metrics", "vcx"], "'vcx'", "'vci'"),
    (["metrics", "qqqq"], "'qqqq'", "collapselab metrics lists all"),
    (["measur"], "measur", "--help"),
    (["--loud"], "--loud", "--help"),
    (["measure"], "TRAIN", "measure --help"),
    (["measure", "a.npz", "--loud"], "--loud", "measure --help"),
    (["measure", "a.npz", "b.npz"], "b.npz", "measure --help"),
    (["measure", "a.npz", "--weighting", "fair"], "--weighting", "balanced"),
    (["measure", "a.npz", "--format", "xml"], "--format", "json"),
    (["measure", "a.npz", "--rcond", "small"], "--rcond", "number"),
    (["measure", "{train}", "--rcond", "-1"], "--rcond -1.0", "[0, 1)"),
    (["measure", "{train}", "--rcond", "inf"], "--rcond inf", "[0, 1)"),
    (["measure", "a.npz", "--rcond"], "--rcond", "argument"),
    (["measure", "{train}", "--rcond", "1"], "--rcond 1.0", "[0, 1)"),
    (["measure", "{train}", "--rcond", "nan"], "--rcond nan", "[0, 1)"),
    (["measure", "{train}", "--metrics", "vcx"], "'vcx'", "'vci'"),
    (["measure", "{train}", "--metrics", "vci,withn_trace"], "'withn_trace'", "'within_trace'"),
    (["measure", "{train}", "--metrics", "qqqq"], "'qqqq'", "known: alignment"),
    (["measure", "{train}", "--metrics", " , "], "--metrics", "no names given"),
    (["measure", "{train}", "--metrics", "weak_test_variance"], "weak_test_variance", "--test"),
]


@pytest.mark.parametrize(("arguments", "what", "remedy"), USAGE)
def test_usage_errors_are_one_line(train: Path, arguments: list[str], what: str, remedy: str) -> None:
    assert_refused(run(*(argument.format(train=train) for argument in arguments)), what, remedy)


@pytest.mark.parametrize("command", ["", "measure", "profile", "run", "reproduce", "judge", "metrics"])
def test_help_gives_examples_and_explains_every_option(command: str) -> None:
    outcome = run(*command.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"\n    collapselab {command}" in outcome.out.partition("Example")[2]
    options = outcome.out.partition("Options:")[2]
    assert not re.search(r"\n  --\S+( \S+)?(?=\n  --|\s*$)", options), "an option without help"


def test_version() -> None:
    assert run("--version") == (0, f"collapselab {__version__}\n", "")


# -------------------------------------------------------------------- failures that are nobody's mistake


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("Unable to allocate 9 PiB"), 2, "out of memory (Unable to allocate 9 PiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
        (PermissionError(13, "Permission denied", "a\nb"), 2, "a b: Permission denied"),
    ],
)
def test_failures_are_one_line(
    train: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("collapselab.features.sources.open_source", fail)
    outcome = run("measure", train)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ")
    assert text in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_bug_is_not_hidden(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("collapselab.features.sources.open_source", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli_module.main(["measure", str(train)])


# -------------------------------------------------------------------- real processes


def process(*arguments: object, **keywords: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **keywords)  # pyright: ignore[reportCallIssue, reportArgumentType]


HELP_AND_USAGE = """
import contextlib, io, sys
from collapselab.cli import main
for arguments in [[], ["profile", "mlp"], ["run", "digits", "--seed", "x"], ["reproduce", "a", "--scale", "b"], *(
    [*command.split(), "--help"] for command in ("", "measure", "profile", "run", "reproduce", "judge")
)]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(arguments)
print({"torch", "numpy", "pandas", "sklearn", "scipy", "plotly", "datasets"} & set(sys.modules))
"""


def test_help_and_usage_errors_are_quick_because_nothing_heavy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_AND_USAGE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_process_prints_json_and_nothing_else(train: Path, tmp_path: Path) -> None:
    done = process("measure", train, "--format", "json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["num_samples"] == 24


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    features = example()["features"]
    features[[4, 9], 2] = np.nan
    path = save(tmp_path / "a.npz", features=features)
    assert_refused(run("measure", path), f"error: {path}: 2 feature values are NaN", "row 4")


# -------------------------------------------------------------------- standard output that is no terminal


def printed_to(stdout: TextIO, train: Path) -> tuple[object, str]:
    """Exit code and stderr of `measure` with this standard output."""
    err = io.StringIO()
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli_module.main(["measure", str(train)])
    return ended.value.code, err.getvalue()


def test_a_table_without_utf_8(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.BytesIO()
    with io.TextIOWrapper(out, encoding="ascii") as stdout:
        assert printed_to(stdout, train) == (0, "")
        text = out.getvalue().decode("ascii")
    assert "within_trace" in text
    assert "\x1b" not in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_full_disk_behind_stdout_is_one_line(train: Path) -> None:
    with open("/dev/full", "w") as full:
        code, err = printed_to(full, train)
    assert code == 2
    assert err.startswith("error: standard output cannot be written")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes and signals")
def test_a_reader_that_leaves_is_no_error(train: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        assert printed_to(stdout, train) == (141, "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes and signals")
def test_ctrl_c_is_one_line(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while a file is read; a run that is interrupted is tested as a process of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    monkeypatch.setattr("collapselab.features.sources.open_source", interrupted)
    try:
        assert run("measure", train) == (130, "", "error: interrupted\n")
    finally:
        signal.signal(signal.SIGINT, before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    save(tmp_path / "shard.npz")
    out, err = io.StringIO(), Terminal()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit):
        cli_module.main(["measure", str(tmp_path), "--format", "json"])
    assert json.loads(out.getvalue())["num_samples"] == 24
    assert "class statistics" in err.getvalue()
    assert "nearest class means" in err.getvalue()
    assert run("measure", tmp_path, "--format", "json").err == ""


def test_an_error_under_the_progress_bar_is_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    save(tmp_path / "0.npz")
    features = example()["features"]
    features[2] = np.nan
    save(tmp_path / "1.npz", features=features)
    err = Terminal()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli_module.main(["measure", str(tmp_path)])
    assert ended.value.code == 2
    assert err.getvalue().splitlines()[-1].rpartition("\x1b[2K")[2].startswith("error: ")


def test_bare_command_prints_help() -> None:
    assert run() == run("--help")
    assert run().code == 0


def test_metrics_lists_every_metric_and_explains_named_ones() -> None:
    listed, explained = run("metrics").out, run("metrics", "vci", "strong_test_variance").out
    assert all(f"  {metric.name} " in listed for metric in METRICS)
    for name in ("vci", "strong_test_variance"):
        for text in (BY_NAME[name].formula, BY_NAME[name].source, BY_NAME[name].note):
            assert " ".join(text.split()) in " ".join(explained.split())
    assert "fuzziness (" not in explained
    assert NOTATION in listed
    assert NOTATION in explained
