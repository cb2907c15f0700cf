"""Judging stored rows again: nothing is trained, and what is written is what the runs would give."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_experiment
from watching import request

from collapselab import InputError
from collapselab.experiments.engines import local
from collapselab.experiments.experiment import Experiment
from collapselab.experiments.runner import judge_again, reproduce
from collapselab.records.experiment import read_experiment, write_experiment
from collapselab.registry import find_experiment

FIXTURE = Path(__file__).parents[1] / "fixtures" / "experiment_schema_1"
PLAIN = ["train_variance", "strong_test_variance", "weak_test_variance"]


def find(name: str) -> Experiment:
    assert name == "tiny/fig1"
    return tiny_experiment.EXPERIMENT


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experiment") / "out"
    reproduce(request(out, command="collapselab reproduce tiny/fig1"))
    return out


@pytest.fixture
def copy(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows and record alone, where training anything fails."""
    out = tmp_path / "copy"
    out.mkdir()
    for name in ("rows.csv", "experiment.json"):
        shutil.copy(done / name, out / name)
    monkeypatch.setattr(local, "run_recipe", None)
    return out


def test_stored_rows_give_the_same_results_without_runs(done: Path, copy: Path) -> None:
    outcome = judge_again(copy, find)
    assert outcome.was_finished
    for name in ("rows.csv", "verdicts.json", "verdicts.txt", "fig1.png"):
        assert (copy / name).read_bytes() == (done / name).read_bytes(), name
    assert (copy / "report.html").exists()
    before, after = read_experiment(done), read_experiment(copy)
    assert before is not None
    assert after is not None
    assert before.judged is None
    assert after.judged is not None
    assert after.model_copy(update={"judged": None}) == before


def test_claims_and_texts_are_those_of_now(copy: Path) -> None:
    experiment = tiny_experiment.EXPERIMENT
    claim = replace(experiment.claims[0], statement="It rises.")
    outcome = judge_again(copy, lambda _: replace(experiment, title="Other", claims=(claim,)))
    assert [judgement.statement for judgement in outcome.judgements] == ["It rises."]
    assert json.loads((copy / "verdicts.json").read_text())[0]["statement"] == "It rises."
    assert outcome.record.title == "Other"
    assert "Other" in (copy / "report.html").read_text()


def test_rows_from_before_there_was_a_choice_get_the_value_that_they_had(copy: Path) -> None:
    known = pd.read_csv(copy / "rows.csv")["step"]
    experiment = replace(tiny_experiment.EXPERIMENT, before={"arm": "literal", "step": -1})
    rows = judge_again(copy, lambda _: experiment).rows
    assert set(rows["arm"]) == {"literal"}
    assert rows["step"].tolist() == known.tolist()  # what rows have is kept
    assert set(pd.read_csv(copy / "rows.csv")["arm"]) == {"literal"}


def test_rows_of_schema_1_are_written_in_the_present_one(done: Path, copy: Path) -> None:
    rows = pd.read_csv(copy / "rows.csv")
    old = rows.drop(columns=[*PLAIN, "ended", "normalized_within"])
    old = old.rename(columns={f"{name}_final": name for name in PLAIN})
    old.to_csv(copy / "rows.csv", index=False)
    record: dict[str, Any] = json.loads((copy / "experiment.json").read_text())
    for name in (
        "schema",
        "title",
        "paper",
        "where",
        "question",
        "left_out",
        "judged",
        "digest",
        "rows_digest",
    ):
        del record[name]
    (copy / "experiment.json").write_text(json.dumps(record))
    for _ in range(2):  # the second time they have the present schema
        outcome = judge_again(copy, find)
        stored = pd.read_csv(copy / "rows.csv")
        assert set(stored["ended"]) == {"steps"}
        for name in PLAIN:
            pd.testing.assert_series_equal(stored[f"{name}_final"], rows[f"{name}_final"])
            at_the_end = rows[name].where(rows["step"] == tiny_experiment.STEPS)
            pd.testing.assert_series_equal(stored[name], at_the_end)
        assert outcome.record.title == "Tiny"
        assert json.loads((copy / "experiment.json").read_text())["schema"] == 3


def test_results_of_a_paper_that_were_stored_before_are_judged(tmp_path: Path) -> None:
    out = Path(shutil.copytree(FIXTURE, tmp_path / "out"))
    outcome = judge_again(out, find_experiment)
    assert [judgement.id for judgement in outcome.judgements] == [
        claim.id for claim in find_experiment("hui2022/fig6").claims
    ]
    assert {path.name for path in outcome.figures} == {"fig6.pdf", "fig6.png"}
    assert outcome.record.question == find_experiment("hui2022/fig6").question


def test_what_is_no_finished_experiment_is_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(InputError, match="no such folder; give the folder of a finished experiment"):
        judge_again(tmp_path / "nowhere", find)
    assert not (tmp_path / "nowhere").exists()
    (copy / "rows.csv").unlink()
    with pytest.raises(InputError, match=r"rows.csv: not the rows of an experiment \(.*No such file"):
        judge_again(copy, find)
    path = copy / "experiment.json"
    held = read_experiment(copy)
    assert held is not None
    write_experiment(copy, held.model_copy(update={"status": "running"}))
    with pytest.raises(InputError, match="not a finished experiment"):
        judge_again(copy, find)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"experiment.json: not an experiment's record \(experiment: Field"):
        judge_again(copy, find)


def test_rows_that_were_changed_are_not_judged(copy: Path) -> None:
    path = copy / "rows.csv"
    rows = pd.read_csv(path)
    rows[rows["seed"] == 0].to_csv(path, index=False, lineterminator="\n")
    with pytest.raises(
        InputError, match=r"rows.csv: changed since it was written.*; restore it, or reproduce"
    ):
        judge_again(copy, find)
    assert not (copy / "verdicts.json").exists()


def test_rows_of_an_earlier_version_are_judged_and_said_to_be_without_a_digest(tmp_path: Path) -> None:
    out = Path(shutil.copytree(FIXTURE, tmp_path / "out"))
    assert not judge_again(out, find_experiment).is_verified
    assert judge_again(out, find_experiment).is_verified
    path = out / "rows.csv"
    path.write_text(path.read_text().replace("train_variance", "train_varianze"))
    record = json.loads((FIXTURE / "experiment.json").read_text())
    (out / "experiment.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"rows.csv: not the rows of hui2022/fig6 \(.+\); restore it"):
        judge_again(out, find_experiment)
