"""Shares of a grid: disjoint, complete, the same everywhere; what is written when the last of them is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_experiment
from watching import Log, request

from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import At, Changes, Job
from collapselab.experiments.runner import SharesLeft, reproduce


def _jobs(seed: int, _: Changes) -> list[Job]:
    """Three chains: a, its fine-tuned b and c, and two runs of their own."""
    recipe = tiny_experiment.recipe(seed)
    after = {"a": None, "b": "a", "d": None, "c": "b", "e": None}
    return [Job(name, recipe, {"dataset": "digits"}, after=before) for name, before in after.items()]


@pytest.mark.parametrize("shares", [1, 2, 3, 4, 9, 20])
def test_every_run_is_in_one_share_with_the_run_it_starts_from(tmp_path: Path, shares: int) -> None:
    grid = Grid(tmp_path, At("", make=_jobs), range(3))
    parts = [[(run.job.name, run.seed) for run in grid.left(share, shares)] for share in range(1, shares + 1)]
    everything = [(run.job.name, run.seed) for run in grid.all()]
    assert sorted(run for part in parts for run in part) == sorted(everything)
    for part in parts:
        assert part == [run for run in everything if run in part], "in the order of the grid"
        seeds = {name: {seed for job, seed in part if job == name} for name in "abc"}
        assert seeds["a"] == seeds["b"] == seeds["c"]
    again = Grid(tmp_path / "elsewhere", At("", make=_jobs), range(3))
    assert [
        [(run.job.name, run.seed) for run in again.left(share, shares)] for share in range(1, shares + 1)
    ] == parts


def test_the_seeds_of_a_job_are_spread_over_the_shares(tmp_path: Path) -> None:
    grid = Grid(tmp_path, At("", make=_jobs), range(4))
    for share in (1, 2):
        names = [run.job.name for run in grid.left(share, 2)]
        assert {name: names.count(name) for name in "abcde"} == dict.fromkeys("abcde", 2)


def test_the_last_share_makes_figures_and_verdicts(tmp_path: Path) -> None:
    alone, out = tmp_path / "alone", tmp_path / "out"
    reproduce(request(alone, seeds=2))
    log = Log()
    with pytest.raises(SharesLeft) as left:
        reproduce(request(out, seeds=2, share=(2, 2)), log)
    assert left.value.runs == 2
    assert [line[:2] for line in log.of("started")] == [("first", 1), ("second", 1)]
    assert log.of("estimated")[0][:2] == (2, 4)
    assert not (out / "rows.csv").exists()
    with pytest.raises(SharesLeft):
        reproduce(request(out, seeds=2, share=(2, 2)), log := Log())
    assert log.lines == [], "it was done"
    outcome = reproduce(request(out, seeds=2, share=(1, 2)), log := Log())
    assert [line[:2] for line in log.of("started")] == [("first", 0), ("second", 0)]
    assert not outcome.was_finished
    for name in ("rows.csv", "verdicts.json", "fig1.png"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()


def test_a_call_without_shares_finishes_what_all_shares_left(tmp_path: Path) -> None:
    with pytest.raises(SharesLeft):
        reproduce(request(tmp_path, seeds=1, share=(2, 2)))
    reproduce(request(tmp_path, seeds=1, share=(1, 2)))
    (tmp_path / "rows.csv").unlink()
    log = Log()
    outcome = reproduce(request(tmp_path, seeds=1), log)
    assert log.of("started") == []
    assert outcome.was_finished
    assert (tmp_path / "rows.csv").exists()


def test_an_empty_share_does_nothing(tmp_path: Path) -> None:
    experiment = replace(tiny_experiment.EXPERIMENT, extras={})
    log = Log()
    with pytest.raises(SharesLeft) as left:
        reproduce(request(tmp_path, experiment=experiment, seeds=1, share=(7, 9)), log)
    assert (left.value.runs, log.lines) == (2, [])
