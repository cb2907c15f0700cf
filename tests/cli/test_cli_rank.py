"""`collapselab rank`: what it prints and writes, and that its options do what they say."""

from __future__ import annotations

import csv
import inspect
import io
import json
from pathlib import Path

import numpy as np
import pytest

import collapselab
from cli_runner import assert_refused, run
from collapselab.cli.rank import rank as command


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for spread in (0.0, 0.5, 2.0):
        rng = np.random.default_rng(0)
        labels = np.arange(90) % 3
        means = rng.normal(size=(3, 5))
        paths.append(tmp_path / f"spread-{spread:g}.npz")
        np.savez(paths[-1], features=rng.normal(size=(90, 5)) + spread * means[labels], labels=labels)
    return paths


def test_the_table_has_models_scores_and_advice(files: list[Path]) -> None:
    found = run("rank", *files, "--probe")
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0] == "feature files: 90 samples, 3 classes"
    order = [line.split()[1] for line in lines if line.strip()[:1] in ("1", "2", "3") and ".npz" in line]
    assert [name[-7:] for name in order] == ["d-2.npz", "0.5.npz", "d-0.npz"]
    assert any(line.startswith("logme ") for line in lines)
    assert "At n = 90, trust" in found.out
    assert f"Best by logme: {files[2]}" in found.out
    assert "no test features: the probe is tested on a fifth" in " ".join(found.out.split())
    assert max(map(len, lines)) <= max(100, len(f"Best by measured accuracy: {files[2]}"))


def test_json_and_csv_hold_every_number(files: list[Path], tmp_path: Path) -> None:
    found = run("rank", *files, "--format", "json", "--output", tmp_path / "r.json", "--scores", "logme,vci")
    assert found.code == 0
    values = json.loads((tmp_path / "r.json").read_text())
    expected = collapselab.rank(files, scores=["logme", "vci"])
    assert values["order"] == list(expected.order)
    assert values["rows"][0]["scores"] == dict(expected.rows[0].scores)
    table = list(csv.DictReader(io.StringIO(run("rank", *files, "--format", "csv", "--scores", "logme").out)))
    assert list(table[0]) == ["dataset", "model", "name", "value"]
    logmes = {row["model"]: float(row["value"]) for row in table if row["name"] == "logme"}
    assert logmes == {row.model: row.scores["logme"] for row in expected.rows}


def test_a_folder_gets_page_and_numbers(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "ranking"
    for _ in range(2):  # the second time over the first
        found = run("rank", *files, "--out", out, "--scores", "logme", "--no-stability")
        assert found.code == 0
        assert found.err.splitlines() == [f"Page: {out / 'report.html'}", f"Numbers: {out / 'ranking.json'}"]
    assert json.loads((out / "ranking.json").read_text())["best"] == str(files[2])
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    assert_refused(run("rank", *files, "--out", other), "contains something other than a ranking")


def test_results_are_written_before_they_are_printed(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("collapselab.cli.output.show", stop)
    run("rank", *files, "--out", tmp_path / "ranking", "--scores", "logme", "--no-stability")
    assert (tmp_path / "ranking" / "ranking.json").exists()


def test_networks_on_several_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path))
    np.savez(
        tmp_path / "own.npz",
        inputs=np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32),
        labels=np.arange(60) % 3,
        test_inputs=np.random.default_rng(1).normal(size=(30, 64)).astype(np.float32),
        test_labels=np.arange(30) % 3,
    )
    monkeypatch.chdir(tmp_path)  # a long path would be wrapped
    options = ("--limit", 100, "--scores", "logme", "--no-stability", "--seed", 1)
    found = run("rank", "mlp", "--on", "digits", "--on", "./own.npz", *options)
    assert found.code == 0, found.err
    assert "digits: 100 samples, 10 classes" in found.out
    assert "own.npz: 60 samples, 3 classes" in found.out
    assert "Over all data sets" in found.out
    assert list((tmp_path / "features").iterdir())
    monkeypatch.setenv("COLLAPSELAB_CACHE", str(tmp_path / "unused"))
    assert run("rank", "mlp", "--on", "digits", "--no-cache", *options).code == 0
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "missing argument"),
        (("nothing-here",), "nothing-here: no such file, folder or network"),
        (("mlp",), "give the data to rank it on with --on"),
        (("mlp", "--on", "digit"), "unknown data set 'digit'"),
        (("mlp", "--on", "digits", "--by", "cdn"), "unknown score 'cdn'; did you mean 'cdnv'"),
        (("mlp", "--on", "digits", "--scores", ","), "--scores: no names given"),
        (("mlp", "--on", "digits", "--layer", "x"), "unknown layer of mlp 'x'"),
        (("mlp", "--on", "digits", "--limit", "0"), "--limit 0"),
        (("mlp", "--on", "digits", "--device", "cuba"), "--device cuba: cannot be used"),
        (("mlp", "--on", "digits", "--data", "x"), "--data x: give NAME=PATH"),
        (("torchvision/vit_b_16", "--on", "digits", "--image-size", "32"), "leave out --image-size"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    assert_refused(run("rank", *arguments), words)


def test_options_have_the_defaults_of_the_library() -> None:
    given, own = (inspect.signature(function).parameters for function in (command, collapselab.rank))
    shared = given.keys() & own.keys() - {"sources", "on"}
    assert len(shared) >= 12
    assert {name: given[name].default for name in shared} == {name: own[name].default for name in shared}


def test_the_help_lists_the_default_scores() -> None:
    from collapselab.ranking import DEFAULT_SCORES

    assert ", ".join(DEFAULT_SCORES) in " ".join(run("rank", "--help").out.split())
