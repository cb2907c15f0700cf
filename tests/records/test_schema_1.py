"""Files of schema 1, as they were written before files had a schema number, are still read."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from collapselab import InputError
from collapselab.records.experiment import read_experiment, write_experiment
from collapselab.records.profile import read_profile
from collapselab.records.recipe import Recipe
from collapselab.records.rows_csv import read_rows_csv
from collapselab.records.run import read_run
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import MonitoredSettings, RunRecord
from collapselab.records.verdicts import read_verdicts

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUN, EXPERIMENT = FIXTURES / "run_schema_1", FIXTURES / "experiment_schema_1"
PLAIN = ("train_variance", "strong_test_variance", "weak_test_variance")


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (RUN / name).read_text().splitlines()]


def test_a_run_is_read() -> None:
    run = read_run(RunFolder(RUN))
    assert run.record.schema_ == 1
    assert (run.record.status, run.record.ended, run.record.steps) == ("finished", "steps", 300)
    assert isinstance(run.record.recipe, Recipe)
    assert run.record.recipe.model.options["width"] == 32
    assert run.record.data is not None
    assert run.record.data.fingerprint == json.loads((RUN / "run.json").read_text())["data"]["fingerprint"]
    assert run.layers == ["layers.2", "layers.3"]
    assert run.last_step == 300
    assert run.statistics == {}
    assert run.class_means("train") is None


def test_final_references_of_a_run_get_their_name() -> None:
    rows = RunFolder(RUN).read_final_reference()
    for row, held in zip(rows, lines("final_reference.jsonl"), strict=True):
        assert row.metrics == {f"{name}_final": value for name, value in held["metrics"].items()}
    variances = read_run(RunFolder(RUN)).variances.set_index("step")
    first, last = variances.iloc[0], variances.iloc[-1]
    for name in PLAIN:
        assert last[name] == pytest.approx(last[f"{name}_final"], rel=1e-12)
        assert first[f"{name}_final"] > 0
    assert first["train_variance"] != first["train_variance_final"]
    assert math.isnan(first["weak_test_variance"]), "schema 1 had no k-means at this step"


def test_verdicts_of_schema_1_keep_their_evidence_as_notes() -> None:
    (verdict,) = read_verdicts(RUN / "verdicts.json")
    assert (verdict.id, verdict.verdict) == ("train-not-test", "holds")
    assert verdict.notes[0].startswith("Judged by an earlier version")
    assert "seed 0, ratio: 344.3529201360838" in verdict.notes
    assert len(read_verdicts(EXPERIMENT / "verdicts.json")) == 2


def test_a_run_is_written_in_the_present_schema(tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(RUN, tmp_path / "run"))
    record = folder.read_run()
    assert record is not None
    folder.drop_rows_after(300)
    folder.write_final_reference(folder.read_final_reference())
    pd.testing.assert_frame_equal(read_run(folder).variances, read_run(RunFolder(RUN)).variances)
    folder.write_run(record)
    for name in ("measurements.jsonl", "final_reference.jsonl"):
        assert all(json.loads(line)["schema"] == 3 for line in (folder.path / name).read_text().splitlines())
    again = folder.read_run()
    assert again is not None
    assert again.schema_ == 3
    assert again.model_copy(update={"schema_": 1}) == record


def test_options_of_a_monitored_run_are_gathered() -> None:
    held = json.loads((RUN / "run.json").read_text())
    place = {name: held[name] for name in ("started", "versions", "commit", "hardware")}
    recipe = {
        "monitored": "Net",
        "every": 5,
        "at": [],
        "epsilon": 0.3,
        "layers": None,
        "settings": {"lr": 0.1},
    }
    record = RunRecord.from_stored({**place, "recipe": recipe, "status": "stopped"})
    assert record.recipe == MonitoredSettings(
        monitored="Net", every=5, options={"epsilon": 0.3, "layers": None}, settings={"lr": 0.1}
    )
    assert record.epsilon == 0.3
    assert RunRecord.from_stored(record.to_json()).recipe == record.recipe


def test_a_profile_is_read() -> None:
    stored = read_profile(FIXTURES / "profile_schema_1.json")
    held = json.loads((FIXTURES / "profile_schema_1.json").read_text())
    assert stored.profile.classes == tuple(range(10))
    assert stored.profile.first_collapsed_layer == "layers.10"
    for layer, values in zip(stored.profile.layers, held["layers"], strict=True):
        assert layer.train == values["train"]
        assert layer.test == values["test"]
        assert layer.splits["train"].counts.tolist() == []
        assert layer.splits["train"].class_means is None
    assert stored.made is not None
    assert stored.made.seconds == held["made"]["seconds"]
    assert ("torch", held["made"]["versions"]["torch"]) in stored.made.how_made()
    assert not any("{" in text for _, text in stored.made.how_made())


def test_an_experiment_is_read(tmp_path: Path) -> None:
    record = read_experiment(EXPERIMENT)
    assert record is not None
    assert (record.experiment, record.scale, record.schema_) == ("hui2022/fig6", "smoke", 1)
    assert (record.status, record.runs, record.ended) == ("finished", 2, {"steps": 2})
    assert record.title == ""
    assert record.differences == record.reduced
    assert ("why runs ended", "last step reached: 2 runs") in record.how_made()
    write_experiment(tmp_path, record)
    again = read_experiment(tmp_path)
    assert again is not None
    assert again.model_copy(update={"schema_": 1}) == record


def test_rows_of_an_experiment_get_their_names() -> None:
    old = pd.read_csv(EXPERIMENT / "rows.csv")
    rows = read_rows_csv(EXPERIMENT / "rows.csv", schema=1)
    names = list(rows)
    at = names.index("train_variance")
    assert names[at : at + 6] == [*PLAIN, *(f"{name}_final" for name in PLAIN)]
    assert names[at + 6] == "train_loss"
    for name in PLAIN:
        pd.testing.assert_series_equal(rows[f"{name}_final"], old[name], check_names=False)
        at_the_end = old[name].where(rows["step"] == 300)
        pd.testing.assert_series_equal(rows[name], at_the_end, check_names=False)


def test_rows_of_transfer_get_their_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "kind,dataset,model,seed,pretrain_step,train_variance,learning_rate,accuracy\n"
        "pretraining,digits,mlp,0,0,2.5,,0.5\n"
        "pretraining,digits,mlp,0,20,0.25,,0.9\n"
        "fine_tuning,digits,mlp,0,20,0.25,0.1,0.8\n"
        "pretraining,digits,mlp,1,20,0.5,,0.9\n"
    )
    rows = read_rows_csv(path, schema=1)
    assert rows["train_variance_final"].tolist() == [2.5, 0.25, 0.25, 0.5]
    assert rows["train_variance"].fillna(-1).tolist() == [-1, 0.25, 0.25, 0.5]


@pytest.mark.parametrize("schema", [1, 2])
def test_rows_that_have_their_names_are_left_alone(tmp_path: Path, schema: int) -> None:
    """Also where a kill came between new rows and their new record."""
    path = tmp_path / "rows.csv"
    path.write_text("job,seed,step,train_variance,train_variance_final\na,0,1,1.0,2.0\na,0,2,,3.0\n")
    rows = read_rows_csv(path, schema)
    assert rows["train_variance"].fillna(-1).tolist() == [1.0, -1.0]


def test_rows_without_steps_have_references_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("construction,seed,train_variance\nnetwork,0,0.5\n")
    assert list(read_rows_csv(path, schema=1)) == ["construction", "seed", "train_variance"]


def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows.csv: not the rows of an experiment \(.+\)"):
        read_rows_csv(tmp_path / "rows.csv", schema=2)
