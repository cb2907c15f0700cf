"""Doing an experiment: what is run, what is not run again, what is written, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_experiment
import torch
from watching import Log, request

from collapselab import InputError
from collapselab.experiments.engines import local
from collapselab.experiments.grid import Grid
from collapselab.experiments.runner import reproduce
from collapselab.records import experiment
from collapselab.records.run_record import RunRecord
from collapselab.training import RunInterrupted, Stopper
from collapselab.training.samples import Samples


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log, Any]:
    out, log = tmp_path_factory.mktemp("experiment") / "out", Log()
    return out, log, reproduce(request(out, command="collapselab reproduce tiny/fig1"), log)


def test_every_run_of_every_seed_is_done_in_order(done: tuple[Path, Log, Any]) -> None:
    _, log, outcome = done
    assert log.of("started") == [
        ("first", 0, 1, 4, 0, 48, 12),
        ("second", 0, 2, 4, 12, 48, 12),
        ("first", 1, 3, 4, 24, 48, 12),
        ("second", 1, 4, 4, 36, 48, 12),
    ]
    assert log.of("extra") == [("norm", 0), ("norm", 1)]
    assert not outcome.was_finished
    assert set(outcome.rows["seed"]) == {0, 1}


def test_an_estimate_comes_before_the_first_run(done: tuple[Path, Log, Any]) -> None:
    kinds = [line[0] for line in done[1].lines]
    assert kinds.index("estimated") < kinds.index("started")
    ((left, runs, seconds),) = done[1].of("estimated")
    assert (left, runs) == (4, 4)
    assert 0 < seconds < 600
    assert len(done[1].of("timing")) == 1  # both jobs are of one kind


def test_what_is_written_is_complete_and_agrees(done: tuple[Path, Log, Any]) -> None:
    out, _, outcome = done
    assert {
        "rows.csv",
        "verdicts.json",
        "verdicts.txt",
        "report.html",
        "fig1.pdf",
        "fig1.png",
        "experiment.json",
    } <= {path.name for path in out.iterdir()}
    stored = pd.read_csv(out / "rows.csv")
    pd.testing.assert_frame_equal(stored, outcome.rows, check_dtype=False)
    (verdict,) = json.loads((out / "verdicts.json").read_text())
    assert verdict["id"] == "falls"
    assert list(verdict["settings"][0]["effect"]["by_seed"]) == ["0", "1"]
    record = json.loads((out / "experiment.json").read_text())
    assert record["status"] == "finished"
    assert record["runs"] == 4
    assert record["ended"] == {"steps": 4}
    assert record["command"] == "collapselab reproduce tiny/fig1"
    assert record["reduced"] == "Everything."
    assert set(record["recipes"]) == {"first", "second"}
    assert not any(
        "seed 1" in recipe for recipe in record["recipes"].values()
    )  # the first of two seeds is shown


def test_the_page_leads_to_the_files_beside_it(done: tuple[Path, Log, Any]) -> None:
    page = (done[0] / "report.html").read_text()
    names = re.findall(r'<a href="([^"#]+\.(?:pdf|png|csv|json))">', page)
    assert {Path(name).suffix for name in names} == {".pdf", ".png", ".csv", ".json"}
    assert all((done[0] / name).exists() for name in names)
    assert "by the command" not in page
    assert "recipe of first, for one of the seeds" in page


def test_rows_are_what_the_runs_measured(done: tuple[Path, Log, Any]) -> None:
    out, _, outcome = done
    folder = Grid(out, tiny_experiment.EXPERIMENT.presets["smoke"], [0]).of(0)["second"].folder
    rows = outcome.rows[(outcome.rows["job"] == "second") & (outcome.rows["seed"] == 0)]
    final = {
        (row.step, row.layer, name): value
        for row in folder.read_final_reference()
        for name, value in row.metrics.items()
    }
    assert len(final) == len(rows) * 2 + rows["is_last"].sum()
    measured = {
        (row.step, row.layer, name): value
        for row in folder.read_rows()
        for name, value in row.metrics.items()
        if name.endswith("variance")
    }
    assert len(measured) == len(final)
    assert set(rows["ended"]) == {"steps"}
    for row in rows.to_dict("records"):
        step, layer = row["step"], row["layer"]
        for name in ("train_variance", "strong_test_variance", "weak_test_variance"):
            if name != "weak_test_variance" or row["is_last"]:
                assert row[name] == measured[step, layer, name]
                assert row[f"{name}_final"] == final[step, layer, f"{name}_final"]
            else:
                assert pd.isna(row[name])
        assert row["is_last"] == (row["layer"] == "layers.1")
        assert pd.isna(row["train_accuracy"]) != row["is_last"]


def test_a_second_call_runs_nothing_again(done: tuple[Path, Log, Any]) -> None:
    out, _, outcome = done
    log = Log()
    again = reproduce(request(out), log)
    assert again.was_finished
    assert log.lines == []
    pd.testing.assert_frame_equal(again.rows, outcome.rows)


def test_seeds_are_added_to_those_that_are_there(done: tuple[Path, Log, Any]) -> None:
    log = Log()
    outcome = reproduce(request(done[0], seeds=3), log)
    assert [line[:2] for line in log.of("started")] == [("first", 2), ("second", 2)]
    assert set(outcome.rows["seed"]) == {0, 1, 2}


def test_a_grid_in_short_slots_is_the_grid_in_one(done: tuple[Path, Log, Any], tmp_path: Path) -> None:
    class StopAt(Stopper):
        left = 9

        @property
        def reason(self) -> str | None:
            self.left -= 1
            return "out of time" if self.left < 0 else None

    out = tmp_path / "slots"
    stops = 0
    while True:
        try:
            outcome = reproduce(request(out, seeds=2), stopper=StopAt())
        except RunInterrupted:
            stops += 1
            continue
        break
    assert stops >= 4
    both = done[2].rows
    pd.testing.assert_frame_equal(outcome.rows, both)


def test_only_some_runs_and_other_values(tmp_path: Path) -> None:
    changes = {"steps": 6, "first:optimizer.learning_rate": 0.01, "checkpoints.at": "last"}
    outcome = reproduce(request(tmp_path / "out", seeds=1, only=["fir*"], changes=changes))
    assert set(outcome.rows["job"]) == {"first"}
    assert outcome.rows["step"].max() == 6
    record = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert record["changes"] == changes
    assert record["only"] == ["fir*"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "steps = 6" in page
    assert "Left out by the command, of each seed: second." in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"only": ["thrid"]}, "only='thrid': 'thrid' matches no run; the runs are first, second"),
        ({"changes": {"stepz": 3}}, "stepz: unknown recipe field"),
        ({"changes": {"thrid:steps": 3}}, "'thrid' matches no run"),
        ({"changes": {"steps": -3}}, "steps"),
        (
            {"changes": {"optimizer.lr": 1}},
            "optimizer.lr: unknown recipe field; known: decayed, learning_rate, ",
        ),
        ({"changes": {"first:start.checkpoint": "a"}}, "start is not set; set the whole part"),
        ({"changes": {"seed": 3}}, "choose how many with seeds="),
        ({"changes": {"data.name": "mnist"}}, "first stands for dataset digits in rows and figures"),
        ({"changes": {"data": {"name": "mnist"}}}, "first stands for dataset digits in rows and figures"),
    ],
)
def test_what_matches_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reproduce(request(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and not an experiment"):
        reproduce(request(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_another_scale_is_refused(done: tuple[Path, Log, Any]) -> None:
    with pytest.raises(InputError, match="holds tiny/fig1 at scale smoke; choose another out="):
        reproduce(request(done[0], scale="cpu"))


def test_samples_that_are_not_there_are_said_before_anything_is_run(tmp_path: Path) -> None:
    changes = {"second:data.train.count": 5000}
    with pytest.raises(InputError, match=r"5000 samples requested, but there are 1000.*only=first"):
        reproduce(request(tmp_path / "out", changes=changes))
    assert not (tmp_path / "out" / "runs").exists()


def test_what_was_timed_a_short_while_ago_is_not_timed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopFirst(Stopper):
        @property
        def reason(self) -> str | None:
            return "out of time" if log.of("estimated") else None

    for timings in (1, 0):
        log = Log()
        with pytest.raises(RunInterrupted):
            reproduce(request(tmp_path / "out"), log, StopFirst())
        assert len(log.of("timing")) == timings
    monkeypatch.setattr(experiment, "hardware", lambda: {"processor": "another"})
    log = Log()
    with pytest.raises(RunInterrupted):
        reproduce(request(tmp_path / "out"), log, StopFirst())
    assert len(log.of("timing")) == 1


def test_nothing_is_timed_once_it_is_to_stop(tmp_path: Path) -> None:
    log = Log()
    with pytest.raises(RunInterrupted, match="out of time"):
        reproduce(request(tmp_path / "out"), log, Stopper(deadline=0.0))
    assert log.lines == []


def test_a_network_is_read_back_without_its_samples(
    done: tuple[Path, Log, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(done[0], tiny_experiment.EXPERIMENT.presets["smoke"], [0])
    monkeypatch.setattr(Samples, "of", None)
    model = grid.of(0)["second"].model()
    weights = grid.of(0)["second"].folder.read_weights(tiny_experiment.STEPS)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in weights.items())


@pytest.fixture
def copy(done: tuple[Path, Log, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(done[0], tmp_path / "copy"))


def test_values_of_another_recipe_are_not_taken_for_those_that_were_run(copy: Path) -> None:
    before = (copy / "experiment.json").read_bytes()
    with pytest.raises(
        InputError, match=r"first/seed-0: holds a run with optimizer.learning_rate 0.05, not 0.5"
    ):
        reproduce(request(copy, changes={"optimizer.learning_rate": 0.5}))
    assert (copy / "experiment.json").read_bytes() == before
    reproduce(request(copy, changes={"num_threads": 2}))  # of finished runs: nothing is run


def test_what_is_computed_from_runs_is_computed_again_from_others(copy: Path) -> None:
    shutil.rmtree(copy / "runs" / "first" / "seed-0")
    shutil.rmtree(copy / "runs" / "second" / "seed-0")
    (copy / "extras" / "norm-seed-1.json").write_text("{")
    log = Log()
    reproduce(request(copy), log)
    assert log.of("extra") == [("norm", 0), ("norm", 1)], "of other runs; a damaged file"


def test_fewer_runs_than_before_are_said(copy: Path) -> None:
    assert reproduce(request(copy, seeds=1)).left_out == len(list(copy.glob("runs/*/*"))) - 2
    assert reproduce(request(copy, seeds=1)).left_out == 0


def test_a_run_whose_start_never_came_about_is_said_to_be_one(tmp_path: Path) -> None:
    changes = {"first:optimizer.learning_rate": 1e30}
    with pytest.raises(
        InputError, match=r"second, seed 0: starts from step-000012.* of first, which ended .*diverged"
    ):
        reproduce(request(tmp_path / "out", seeds=1, changes=changes))


def test_what_a_lost_run_does_not_concern_is_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = local.run_recipe

    def first_diverges_once(recipe: Any, folder: Any, *args: Any, **kwargs: Any) -> RunRecord:
        if folder.path.parts[-2:] == ("first", "seed-0"):
            recipe = recipe.with_changes({"optimizer.learning_rate": 1e30})
        return actual(recipe, folder, *args, **kwargs)

    monkeypatch.setattr(local, "run_recipe", first_diverges_once)
    log = Log()
    with pytest.raises(InputError, match="second, seed 0: starts from"):
        reproduce(request(tmp_path / "out"), log)
    assert [line[:2] for line in log.of("ended")] == [("first", 0), ("first", 1), ("second", 1)]


@pytest.mark.parametrize(
    ("text", "message"), [("{torn\n", "measurements.jsonl, line 1: damaged"), ("", "rows of step 0 are gone")]
)
def test_damaged_rows_are_one_line(copy: Path, text: str, message: str) -> None:
    (copy / "runs" / "first" / "seed-0" / "measurements.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        reproduce(request(copy))


@pytest.mark.parametrize("lines", [None, 0, -1])
@pytest.mark.parametrize("name", ["measurements.jsonl", "final_reference.jsonl"])
def test_a_run_that_was_copied_in_part_does_not_replace_verdicts(
    copy: Path, name: str, lines: int | None
) -> None:
    path = copy / "runs" / "second" / "seed-1" / name
    before = {file: (copy / file).read_bytes() for file in ("verdicts.json", "rows.csv", "experiment.json")}
    kept = path.read_text().splitlines(keepends=True)[: lines or 0]
    path.unlink()
    if lines is not None:
        path.write_text("".join(kept))
    with pytest.raises(
        InputError, match=rf"{name}: rows of step \d+ are gone.*; restore the file, or remove"
    ):
        reproduce(request(copy))
    assert {file: (copy / file).read_bytes() for file in before} == before


def test_rows_of_another_seed_are_not_judged(copy: Path) -> None:
    for name in ("measurements.jsonl", "final_reference.jsonl"):
        shutil.copy(*(copy / "runs" / "first" / f"seed-{seed}" / name for seed in (1, 0)))
    with pytest.raises(InputError, match=r"measurements.jsonl, line 1: damaged \(a row of another run\)"):
        reproduce(request(copy))


def test_weights_of_another_seed_are_not_started_from(copy: Path) -> None:
    name = f"checkpoints/step-{tiny_experiment.STEPS:06d}.safetensors"
    shutil.copy(*(copy / "runs" / "first" / f"seed-{seed}" / name for seed in (1, 0)))
    shutil.rmtree(copy / "runs" / "second" / "seed-0")
    with pytest.raises(InputError, match=r"step-000012.safetensors: damaged \(it belongs elsewhere: run is"):
        reproduce(request(copy))


def test_every_fingerprint_and_every_ending_is_on_record(tmp_path: Path) -> None:
    out = tmp_path / "out"
    reproduce(request(out, seeds=1, changes={"second:data.train.count": 50}))
    record = json.loads((out / "experiment.json").read_text())
    runs = [json.loads(path.read_text()) for path in out.glob("runs/*/*/run.json")]
    assert set(record["data"]["digits"]) == {run["data"]["fingerprint"] for run in runs}
    assert len(record["data"]["digits"]) == 2
    assert record["ended"] == {"steps": 2}
    assert "why runs ended" in (out / "report.html").read_text()


def test_a_run_that_fails_leaves_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = local.run_recipe

    def fail(recipe: Any, folder: Any, *rest: Any, **options: Any) -> Any:
        if "second" in str(folder.path):
            raise InputError("the disk is full")
        return real(recipe, folder, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(local, "run_recipe", fail)
        with pytest.raises(InputError, match="the disk is full"):
            reproduce(request(tmp_path / "out", seeds=1))
    log = Log()
    reproduce(request(tmp_path / "out", seeds=1), log)
    assert [line[0] for line in log.of("started")] == ["second"]
