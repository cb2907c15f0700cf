"""Several experiments by one command: one that fails, an interruption, the page over all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_experiment

from cli_runner import Outcome, assert_refused, run
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.recipes import At, Changes, Job

RUNS = ("papers/fig1", "papers/fig2", "papers/fig3")


def _needs_more(seed: int, _: Changes) -> list[Job]:
    return [Job("first", tiny_experiment.recipe(seed).with_changes({"data.train.count": 5000}), {})]


def _rows(_: object) -> None:
    raise RuntimeError("a bug in this figure")


class Ids(Mapping[str, tuple[str, ...]]):
    """The ids of experiments, none of which has another, as tests add and remove some."""

    def __init__(self, known: Mapping[str, Experiment]) -> None:
        self._known = known

    def __getitem__(self, id: str) -> tuple[str, ...]:
        _ = self._known[id]
        return ()

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, Experiment]:
    """Three small experiments of a paper, one of which lacks samples, and one of our own."""
    monkeypatch.chdir(tmp_path)
    known = {
        id: replace(tiny_experiment.EXPERIMENT, id=id, title=f"Title of {id}", extras={})
        for id in (*RUNS, "findings/own")
    }
    known["papers/fig2"] = replace(
        known["papers/fig2"], presets={"smoke": At("Nothing.", seeds=1, make=_needs_more)}
    )
    monkeypatch.setattr("collapselab.registry.IDS", Ids(known))
    monkeypatch.setattr("collapselab.registry._load", known.__getitem__)
    return known


def reproduce(*arguments: object) -> Outcome:
    return run("reproduce", *arguments)


def slots(folder: Path) -> dict[str, int]:
    """Starts of every run."""
    return {
        path.parent.relative_to(folder).as_posix(): len(json.loads(path.read_text())["slots"])
        for path in sorted(folder.rglob("run.json"))
    }


def test_one_that_fails_does_not_stop_the_others(registry: Mapping[str, Experiment], tmp_path: Path) -> None:
    outcome = reproduce("all", "--seeds", "1", "--out", "out")
    assert outcome.code == 2
    failed = "papers/fig2: digits, train: 5000 samples requested, but there are 1000"
    lines = outcome.err.splitlines()
    assert any(line.startswith(f"error: {failed}") for line in lines)
    assert lines[-1].startswith("error: 1 of 4 experiments failed")
    estimates = [line for line in lines if "left, about" in line and "so far" in line]
    assert [line.partition(":")[0] for line in estimates] == ["papers/fig1", "papers/fig3", "findings/own"]
    assert lines.index(estimates[-1]) < next(
        at for at, line in enumerate(lines) if "experiment 1 of 4" in line
    )
    done = {
        path.parent.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("rows.csv")
    }
    assert done == {"papers/fig1", "papers/fig3", "findings/own"}
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert failed in page
    assert 'src="papers/fig1/fig1.png"' in page
    assert outcome.out.endswith("Page: out/index.html\n")
    before = slots(tmp_path / "out")
    again = reproduce("all", "--seeds", "1", "--out", "out")
    assert again.code == 2
    assert "papers/fig1: 0 runs left, nothing to run" in again.err
    assert slots(tmp_path / "out") == before
    assert (tmp_path / "out" / "index.html").read_text(encoding="utf-8") == page


def test_all_of_a_paper_go_where_a_single_one_goes(registry: dict[str, Experiment], tmp_path: Path) -> None:
    del registry["papers/fig2"]
    assert reproduce("papers/fig1", "--seeds", "1").code == 0
    outcome = reproduce("papers", "--seeds", "1")
    assert outcome.code == 0, outcome.err
    assert slots(tmp_path / "runs") == {
        f"papers-{fig}-smoke/runs/{job}/seed-0": 1 for fig in ("fig1", "fig3") for job in ("first", "second")
    }
    page = (tmp_path / "runs" / "papers-smoke.html").read_text(encoding="utf-8")
    assert 'src="papers-fig3-smoke/fig1.png"' in page
    assert "findings/own" not in page


def test_a_bug_in_one_is_shown_with_its_traceback_and_does_not_stop_the_others(
    registry: dict[str, Experiment],
) -> None:
    registry["papers/fig2"] = replace(registry["papers/fig1"], id="papers/fig2", charts=[_rows])
    outcome = reproduce("papers", "--seeds", "1")
    assert outcome.code == 2
    assert 'raise RuntimeError("a bug in this figure")' in outcome.err
    assert "error: papers/fig2: RuntimeError: a bug in this figure" in outcome.err
    assert Path("runs/papers-fig3-smoke/rows.csv").exists()


def test_what_is_stopped_goes_on_where_it_was(registry: dict[str, Experiment], tmp_path: Path) -> None:
    del registry["papers/fig2"]
    stopped = reproduce("all", "--seeds", "1", "--stop-after", "0.01s")
    assert stopped.code == 0
    assert "runs/all-smoke.html: out of time; run the same command again to resume" in stopped.err
    assert (tmp_path / "runs" / "all-smoke.html").exists()
    finished = reproduce("all", "--seeds", "1", "--stop-after", "1h")
    assert finished.code == 0
    assert set(slots(tmp_path / "runs").values()) == {1}


def test_shares_of_all(registry: dict[str, Experiment], tmp_path: Path) -> None:
    del registry["papers/fig2"]
    first = reproduce("papers", "--seeds", "2", "--jobs", "1/2")
    assert first.code == 0
    assert "papers/fig1: this share is done; 2 runs of other shares left." in first.err
    assert not list(tmp_path.rglob("rows.csv"))
    assert "not finished" in (tmp_path / "runs" / "papers-smoke.html").read_text(encoding="utf-8")
    assert reproduce("papers", "--seeds", "2", "--jobs", "2/2").code == 0
    assert len(list(tmp_path.rglob("rows.csv"))) == 2


def test_a_share_of_one_experiment_says_what_is_left(registry: dict[str, Experiment]) -> None:
    outcome = reproduce("papers/fig1", "--seeds", "2", "--jobs", "2/2")
    assert (outcome.code, outcome.out) == (0, "")
    assert "runs/papers-fig1-smoke: this share is done; 2 runs of other shares left" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("all", "--only", "first"), ("--only first", "give a single experiment")),
        (("all", "--data", "mnist=."), ("--data mnist=.: all at scale smoke uses only digits", "--scale")),
        (("paper",), ("unknown experiment 'paper'",)),
        (("papers/fig1", "--jobs", "0/3"), ("--jobs 0/3: give I/N with I from 1 to N",)),
        (("papers/fig1", "--jobs", "4/3"), ("--jobs 4/3: give I/N",)),
        (("papers/fig1", "--jobs", "half"), ("--jobs half: give I/N",)),
        (("papers/fig1", "--gpus", "1"), ("--gpus 1.0: only a cluster has it; give --engine ray too",)),
        (("papers/fig1", "--address", "a:1"), ("--address a:1: only a cluster has it",)),
        (("papers/fig1", "--engine", "slurm"), ("--engine", "'local', 'ray'")),
    ],
)
def test_mistakes_are_one_line(
    registry: Mapping[str, Experiment], tmp_path: Path, arguments: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    assert_refused(reproduce(*arguments), *fragments)
    assert not list(tmp_path.iterdir())


def test_another_file_in_the_place_of_the_page_is_refused_before_anything_is_run(
    registry: Mapping[str, Experiment], tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("mine")
    assert_refused(reproduce("all", "--out", "."), "index.html: exists and is not a page of results")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
