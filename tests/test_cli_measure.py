"""`collapselab measure`: what it prints, where, and what it says when it is used wrongly."""

from __future__ import annotations

import csv
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
from collapselab import InputError, __version__, measure
from collapselab import cli as cli_module
from collapselab.metrics import METRICS
from collapselab.output import to_table, write_text

COMMAND = [sys.executable, "-m", "collapselab"]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return save(tmp_path / "train.npz")


@pytest.fixture
def test(tmp_path: Path) -> Path:
    return save(tmp_path / "test.npz", {name: example(1)[name] for name in ("features", "labels")})


def process(*arguments: object, **keywords: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **keywords)  # pyright: ignore[reportCallIssue, reportArgumentType]


# -------------------------------------------------------------------- JSON


def test_json_is_exactly_the_documented_object(train: Path, test: Path) -> None:
    outcome = run("measure", train, "--test", test, "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert list(found) == ["num_samples", "num_classes", "dim", "weighting", "warnings", "splits"]
    assert (found["num_samples"], found["num_classes"], found["dim"]) == (24, 3, 5)
    assert found["weighting"] == "balanced"
    assert list(found["splits"]) == ["train", "test"]
    for split, values in found["splits"].items():
        assert list(values) == [metric.name for metric in METRICS if split in metric.splits]
        assert all(value is None or isinstance(value, (int, float)) for value in values.values())
    assert "train_variance" in found["splits"]["train"]
    assert {"strong_test_variance", "weak_test_variance"} <= set(found["splits"]["test"])


def test_json_holds_what_measure_returns(train: Path, test: Path) -> None:
    given, other = example(), example(1)
    wanted = measure(**given, test=(other["features"], other["labels"]), weighting="sample", spectra=True)
    outcome = run(
        "measure", train, "--test", test, "--format", "json", "--weighting", "sample", "--spectra"
    )  # fmt: skip
    found = json.loads(outcome.out)
    assert found == json.loads(json.dumps(wanted.to_dict()))
    assert set(found["spectra"]) == {"train", "test"}
    lengths = {name: len(values) for name, values in found["spectra"]["train"].items()}
    assert lengths == {
        "within_eigenvalues": 5, "between_eigenvalues": 5, "total_eigenvalues": 5, "weight_singular_values": 3
    }  # fmt: skip


def test_metrics_whose_input_is_missing_are_null(tmp_path: Path) -> None:
    outcome = run("measure", save(tmp_path / "a.npz", weight=None, bias=None), "--format", "json")
    values = json.loads(outcome.out)["splits"]["train"]
    missing = {name for name, value in values.items() if value is None}
    assert {"self_duality", "alignment", "weight_stable_rank", "ncc_agreement", "ncc_mismatch"} <= missing
    assert "ncc_accuracy" not in missing


@pytest.mark.parametrize("given", [("vci,cdnv",), ("vci, cdnv,",), ("vci", "cdnv")])
def test_only_the_named_metrics(train: Path, test: Path, given: tuple[str, ...]) -> None:
    options = [part for names in given for part in ("--metrics", names)]
    outcome = run("measure", train, "--test", test, "--format", "json", *options)
    assert {split: set(values) for split, values in json.loads(outcome.out)["splits"].items()} == {
        "train": {"vci", "cdnv"},
        "test": {"vci", "cdnv"},
    }


def test_rcond_reaches_the_pseudo_inverses(train: Path) -> None:
    outcome = run("measure", train, "--format", "json", "--rcond", "0.9", "--metrics", "vci,fuzziness")
    assert any("dropped" in warning for warning in json.loads(outcome.out)["warnings"])


# -------------------------------------------------------------------- unusual, but no error


def strict_json(path: Path, *options: object) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    outcome = run("measure", path, "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out, parse_constant=refuse)


def warnings_of(path: Path, *options: object) -> str:
    return "\n".join(strict_json(path, *options)["warnings"])  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_labels_need_not_be_contiguous(tmp_path: Path, train: Path) -> None:
    names = np.array([7, 10_000_000_000, 12])[example()["labels"]]
    order = np.argsort([7, 10_000_000_000, 12])
    other = save(
        tmp_path / "b.npz", labels=names, weight=example()["weight"][order], predictions=names[::-1].copy()
    )  # fmt: skip
    assert strict_json(other, "--metrics", "vci,cdnv")["num_classes"] == 3
    assert strict_json(other)["splits"]["train"]["ncc_agreement"] < 1  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(("num_classes", "per_class", "dim"), [(2, 5, 3), (9, 4, 3), (6, 1, 4), (5, 2, 1)])
def test_shapes_at_the_edge(tmp_path: Path, num_classes: int, per_class: int, dim: int) -> None:
    path = save(tmp_path / "a.npz", example(0, num_classes, per_class, dim))
    found = strict_json(path, "--test", path, "--spectra")
    assert found["num_classes"] == num_classes


def test_single_sample_classes_are_a_warning(tmp_path: Path) -> None:
    assert "6 classes have one sample" in warnings_of(save(tmp_path / "a.npz", example(0, 6, 1, 4)))


def test_more_features_than_samples_is_a_warning(tmp_path: Path) -> None:
    assert "p >= n - 1" in warnings_of(save(tmp_path / "a.npz", example(0, 3, 4, 12)))


def test_constant_features_are_null_with_warnings(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", features=np.ones((24, 5)))
    found = strict_json(path, "--test", path, "--spectra")
    for name in ("vci", "fuzziness", "cdnv", "etf_distance", "squared_distance", "train_variance"):
        assert found["splits"]["train"][name] is None, name  # pyright: ignore[reportIndexIssue]
        assert name in warnings_of(path) or name == "etf_distance", name


def test_zero_rows_are_a_warning(tmp_path: Path) -> None:
    features = example()["features"]
    features[3] = 0
    assert "norm zero" in warnings_of(save(tmp_path / "a.npz", features=features))


def test_a_class_that_test_lacks_is_a_warning(tmp_path: Path, train: Path) -> None:
    other, keep = example(1), example(1)["labels"] != 1
    path = save(tmp_path / "b.npz", {"features": other["features"][keep], "labels": other["labels"][keep]})
    assert "test: 1 of the training classes have no samples here, the first is 1" in warnings_of(
        train, "--test", path
    )


# -------------------------------------------------------------------- CSV and table


def test_csv_has_a_row_per_metric_and_split(tmp_path: Path, test: Path) -> None:
    path = save(tmp_path / "a.npz", example(0, 3, 2, 9))
    plain = run("measure", path, "--test", test.with_name("a.npz"), "--format", "csv", "--spectra")
    rows = list(csv.DictReader(io.StringIO(plain.out)))
    found = strict_json(path, "--test", path, "--spectra")
    values = {(row["split"], row["name"]): row["value"] for row in rows}
    for split, wanted in found["splits"].items():  # pyright: ignore[reportAttributeAccessIssue]
        for name, value in wanted.items():
            assert values[split, name] == ("" if value is None else repr(value)), name
    assert values["test", "within_eigenvalues[8]"]
    notes = plain.err.splitlines()
    assert notes
    assert all(note.startswith("warning: t") for note in notes)
    assert len(notes) == len(found["warnings"])  # pyright: ignore[reportArgumentType]


def test_table_shows_every_metric_by_family_within_80_columns(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", example(0, 3, 2, 9))
    outcome = run("measure", path, "--test", path, "--spectra")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in outcome.out
    assert "…" not in outcome.out.replace(", … (", "")
    body = "\n".join(lines)
    for metric in METRICS:
        assert f"\n  {metric.name} " in body
        assert f"\n{metric.family}\n" in body
    assert "warning: train: 9 features for 6 samples (p >= n - 1)" in body
    assert "test within_eigenvalues: " in body
    assert "(9 in all)" in body


def test_table_of_many_digits_is_not_cut(train: Path, test: Path) -> None:
    given = example()
    result = measure(
        given["features"] * -1e-30, given["labels"], test=(given["features"] * 1e40, given["labels"])
    )
    for width in (10, 60, 200):
        table = to_table(result, width=width)
        assert "within_off_weight_space" in table
        assert "e-60" in table
        assert "e+80" in table
        assert max(map(len, table.splitlines())) <= max(72, min(width, 100))


def test_table_has_colours_only_where_asked(train: Path) -> None:
    given = example()
    result = measure(given["features"], given["labels"])
    assert "\x1b[" in to_table(result, width=80, colour=True)
    assert "\x1b" not in to_table(result, width=80)


# -------------------------------------------------------------------- --output


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_output_gets_what_stdout_would(train: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    target.chmod(0o640)
    outcome = run("measure", train, "--format", form, "--output", target)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == f"wrote {target}\n"
    assert target.read_text(encoding="utf-8") == run("measure", train, "--format", form).out
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.txt", "train.npz"]


def test_output_that_cannot_be_written_is_refused_before_measuring(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collapselab.sources.open_source", lambda path: pytest.fail("was read"))
    assert_refused(run("measure", train, "--output", tmp_path), "--output", tmp_path, "folder")
    assert_refused(run("measure", train, "--output", tmp_path / "no" / "a"), "no folder", "make it")
    assert_refused(run("measure", train, "--output", train / "a"), "--output")
    assert_refused(run("measure", train, "--output", train), "is measured")
    assert_refused(run("measure", train, "--output", "a\0b"), "--output")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert_refused(run("measure", train, "--output", tmp_path / "a"), "may not be written")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_text(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_output_follows_links_and_leaves_devices(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write_text(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "text"
    write_text(Path(os.devnull), "text")
    assert not Path(os.devnull).is_file()


# -------------------------------------------------------------------- usage

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

    monkeypatch.setattr("collapselab.sources.open_source", fail)
    outcome = run("measure", train)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("error: ")
    assert text in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_bug_is_not_hidden(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("collapselab.sources.open_source", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli_module.main(["measure", str(train)])


# -------------------------------------------------------------------- real processes


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
        [*COMMAND, "measure", str(fifo)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
