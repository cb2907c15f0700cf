"""A run folder: rows there and back, what a kill leaves, what is refused."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from collapselab import InputError, profile
from collapselab.records.recipe import Recipe
from collapselab.records.rows import MeasuredRow
from collapselab.records.run_record import RunRecord
from collapselab.storage import WriteError, provenance
from collapselab.training import RunFolder


def row(step: int) -> MeasuredRow:
    return MeasuredRow(
        step=step,
        epoch=step / 4,
        split="test",
        layer="layers.0",
        depth=0,
        metrics={"nc1": 0.1 * step, "vci": None},
    )


@pytest.fixture
def made(folder: RunFolder) -> RunFolder:
    folder.create()
    folder.append_rows(row(step) for step in range(3))
    return folder


def test_rows_come_back_as_written(made: RunFolder) -> None:
    assert made.read_rows() == [row(step) for step in range(3)]


def test_what_is_empty_is_not_written(made: RunFolder) -> None:
    lines = (made.path / "measurements.jsonl").read_text().splitlines()
    values = json.loads(lines[1])
    assert len(values.pop("digest")) == 16
    assert values == {
        "schema": 3,
        "step": 1,
        "split": "test",
        "layer": "layers.0",
        "depth": 0,
        "metrics": {"nc1": 0.1, "vci": None},
        "epoch": 0.25,
    }


def test_a_row_without_metrics_comes_back(made: RunFolder) -> None:
    """As on test data, where only metrics of train data are asked for."""
    made.append_rows([row(3).model_copy(update={"metrics": {}})])
    assert made.read_rows()[-1].metrics == {}


def test_nan_is_never_written(made: RunFolder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.append_rows([row(3).model_copy(update={"epoch": float("nan")})])
    assert len(made.read_rows()) == 3


def test_an_incomplete_last_line_is_left_out(made: RunFolder) -> None:
    with (made.path / "measurements.jsonl").open("a") as file:
        file.write('{"step": 3, "val')
    assert [one.step for one in made.read_rows()] == [0, 1, 2]


def test_dropping_rows_removes_an_incomplete_line(made: RunFolder) -> None:
    path = made.path / "measurements.jsonl"
    with path.open("a") as file:
        file.write('{"step": 3, "val')
    made.drop_rows_after(1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{torn", "Expecting property name"),
        ("[1]", "not a JSON object"),
        ('{"step": 1}', "split: Field required"),
        ('{"schema": 9}', "schema 9 was written by a newer version; upgrade collapselab"),
    ],
)
def test_a_damaged_line_is_reported_in_one_line(made: RunFolder, line: str, reason: str) -> None:
    path = made.path / "measurements.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(InputError) as caught:
        made.read_rows()
    assert "measurements.jsonl, line 4: damaged" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_that_cannot_be_written_leaves_the_steps_before(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = torch.eye(6), torch.arange(6) % 2
    measured = profile(nn.Linear(6, 2), [(inputs, labels)])
    folder.create()
    folder.append_profile(0, 0.0, measured)
    before = folder.read_rows()
    real = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[: len(content) // 2])

    with monkeypatch.context() as patched:
        patched.setattr("os.write", half)
        with pytest.raises(WriteError, match="make room, then run it again"):
            folder.append_profile(5, 1.0, measured)
    assert folder.read_rows() == before
    assert folder.stored_steps("statistics") == [0], "statistics without rows"
    folder.append_profile(5, 1.0, measured)
    assert {one.step for one in folder.read_rows()} == {0, 5}


def test_a_record_comes_back_as_written(folder: RunFolder) -> None:
    folder.create()
    record = RunRecord(**provenance(), recipe=Recipe(seed=3), status="running")
    folder.write_run(record)
    assert folder.read_run() == record
    assert json.loads((folder.path / "run.json").read_text())["schema"] == 3


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and not a run; choose another out="):
        RunFolder(tmp_path).read_run()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {}}', "{", '{"recipe": {"stepz": 1}}'])
def test_a_damaged_run_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run.json: not a run record \(.+\); choose another out=") as caught:
        RunFolder(tmp_path).read_run()
    assert "\n" not in str(caught.value)


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        RunFolder(tmp_path / "file" / "run").create()


def test_a_state_that_cannot_be_read_is_not_called_damaged(folder: RunFolder) -> None:
    folder.create()
    (folder.path / "checkpoints" / "trainer.pt").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); check the file"):
        folder.read_trainer()


def test_want_of_memory_is_not_called_damage(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.create()
    folder.write_trainer({"step": 1})

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(MemoryError):
        folder.read_trainer()
