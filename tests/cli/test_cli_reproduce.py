"""`collapselab reproduce` and `judge`: what they accept, and what they print."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cli_runner import assert_refused, run


def test_the_list_names_every_experiment_with_its_data() -> None:
    listed = run("reproduce", "list")
    assert listed.code == 0
    assert "hui2022/fig6: " in listed.out
    assert "data: mnist\n" in listed.out
    assert "1 job x 1 seed" in listed.out or "jobs x 1 seed" in listed.out


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("hui2022/fig7",), ("hui2022/fig7", "hui2022/fig")),
        (("hui2022/fig6", "--data", "sets/mnist"), ("--data sets/mnist: give NAME=PATH", "mnist=data/mnist")),
        (("hui2022/fig6", "--data", "mnist=."), ("fig6 at scale smoke uses only digits", "--scale")),
        (("hui2022/fig6", "--data", "mnits=."), ("--data: unknown data set 'mnits'", "did you mean 'mnist'")),
        (("hui2022/fig6", "--scale", "cpu", "--data", "mnist=nowhere"), ("mnist=nowhere: no such file",)),
        (("hui2022/fig6", "--seeds", "0"), ("--seeds", "--help")),
        (("hui2022/fig6", "--scale", "huge"), ("--scale", "'smoke', 'cpu', 'paper'")),
        (("hui2022/fig6", "--stop-after", "soon"), ("soon", "9m")),
        (("hui2022/fig6", "--set", "steps"), ("--set steps: give NAME=VALUE",)),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run("reproduce", *arguments), *fragments)
    assert not list(tmp_path.iterdir())


def test_judge_prints_what_reproduce_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def judge_again(folder: Path, find: object) -> SimpleNamespace:
        given.append(folder)
        return SimpleNamespace(
            folder=folder, record=SimpleNamespace(scale="smoke"), rows=pd.DataFrame(), judgements=(),
            figures=[folder / "fig6.pdf"], page=folder / "report.html", was_finished=True, is_verified=False,
            left_out=0,
        )  # fmt: skip

    monkeypatch.setattr("collapselab.experiments.runner.judge_again", judge_again, raising=False)
    outcome = run("judge", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert given == [tmp_path]
    assert f"Figures: {tmp_path / 'fig6.pdf'}\n" in outcome.out
    assert f"Page: {tmp_path / 'report.html'}\n" in outcome.out
    assert "nothing was run" not in outcome.out
    assert "An earlier version wrote the rows without a digest" in outcome.out


def test_judge_refuses_what_is_no_experiment(tmp_path: Path) -> None:
    assert_refused(run("judge", tmp_path / "none"), f"{tmp_path / 'none'}: no such folder")
    (tmp_path / "thesis.tex").write_text("precious")
    assert_refused(
        run("judge", tmp_path), f"{tmp_path}: not a finished experiment; give a folder that reproduce wrote"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "experiment.json").write_text("{")
    assert_refused(run("judge", tmp_path), "not an experiment's record", "choose another FOLDER")
