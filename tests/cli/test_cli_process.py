"""The command line used wrongly, interrupted, or with nobody to print to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cli_runner import assert_refused, example, run, save
from collapselab import __version__
from collapselab import cli as cli_module

COMMAND = [sys.executable, "-m", "collapselab"]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return save(tmp_path / "train.npz")


USAGE = [
    ([], "missing command", "--help"),
    (["measur"], "measur", "--help"),
    (["--loud"], "--loud", "--help"),
    (["measure"], "TRAIN", "measure --help"),
    (["measure", "a.npz", "--loud"], "--loud", "measure --help"),
    (["measure", "a.npz", "b.npz"], "b.npz", "measure --help"),
    (["measure", "a.npz", "--weighting", "fair"], "--weighting", "balanced"),
    (["measure", "a.npz", "--format", "xml"], "--format", "json"),
    (["measure", "a.npz", "--rcond", "small"], "--rcond", "number"),
    (["measure", "{train}", "--rcond", "-1"], "--rcond is -1.0", "[0, 1)"),
    (["measure", "{train}", "--rcond", "inf"], "--rcond is inf", "[0, 1)"),
    (["measure", "a.npz", "--rcond"], "--rcond", "argument"),
    (["measure", "{train}", "--rcond", "1"], "--rcond is 1.0", "[0, 1)"),
    (["measure", "{train}", "--rcond", "nan"], "--rcond is nan", "[0, 1)"),
    (["measure", "{train}", "--metrics", "vcx"], "'vcx'", "'vci'"),
    (["measure", "{train}", "--metrics", "vci,withn_trace"], "'withn_trace'", "'within_trace'"),
    (["measure", "{train}", "--metrics", "qqqq"], "'qqqq'", "known: alignment"),
    (["measure", "{train}", "--metrics", " , "], "--metrics", "names none"),
    (["measure", "{train}", "--metrics", "weak_test_variance"], "weak_test_variance", "--test"),
]


@pytest.mark.parametrize(("arguments", "what", "remedy"), USAGE)
def test_usage_errors_are_one_line(train: Path, arguments: list[str], what: str, remedy: str) -> None:
    assert_refused(run(*(argument.format(train=train) for argument in arguments)), what, remedy)


@pytest.mark.parametrize("command", [[], ["measure"]])
def test_help_gives_an_example(command: list[str]) -> None:
    outcome = run(*command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "\n    collapselab measure " in outcome.out


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


def test_help_is_quick_because_torch_is_not_imported() -> None:
    code = "import sys, collapselab.cli as c\ntry: c.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_process_prints_json_and_nothing_else(train: Path, tmp_path: Path) -> None:
    done = process("measure", train, "--format", "json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["num_samples"] == 24


def test_process_without_utf_8_prints_a_table(train: Path) -> None:
    done = process("measure", train, env=os.environ | {"PYTHONIOENCODING": "ascii", "FORCE_COLOR": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "within_trace" in done.stdout
    assert "\x1b" not in done.stdout


def test_process_refuses_bad_input_in_one_line(tmp_path: Path) -> None:
    features = example()["features"]
    features[[4, 9], 2] = np.nan
    path = save(tmp_path / "a.npz", features=features)
    done = process("measure", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path}: 2 feature values are NaN")
    assert "row 4" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without room")
def test_full_disk_behind_stdout_is_one_line(train: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "measure", str(train)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes and signals")
def test_a_reader_that_leaves_is_no_error(train: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "measure", str(train)], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes and signals")
def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "a.npz"
    os.mkfifo(fifo)  # opening it waits for a writer that never comes
    process = subprocess.Popen(
        [*COMMAND, "measure", str(fifo)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has the signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while "wait_for_partner" not in _waits_in(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "error: interrupted\n"


def _waits_in(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


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
    assert "nearest class centres" in err.getvalue()
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
