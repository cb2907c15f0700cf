"""A run on disk survives torn lines and foreign folders."""

import json
from pathlib import Path

import pytest

from collapselab import InputError
from collapselab.training import RunFolder


@pytest.fixture
def made(folder: RunFolder) -> RunFolder:
    folder.create()
    folder.append_rows({"step": step, "value": 0.1 * step} for step in range(3))
    return folder


def test_rows_come_back_as_written(made: RunFolder) -> None:
    assert made.read_rows() == [{"step": step, "value": 0.1 * step} for step in range(3)]


def test_a_torn_last_line_is_left_out(made: RunFolder) -> None:
    with (made.path / "measurements.jsonl").open("a") as file:
        file.write('{"step": 3, "val')
    assert [row["step"] for row in made.read_rows()] == [0, 1, 2]


def test_dropping_rows_mends_the_file(made: RunFolder) -> None:
    path = made.path / "measurements.jsonl"
    with path.open("a") as file:
        file.write('{"step": 3, "val')
    made.drop_rows_after(1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and not a run"):
        RunFolder(tmp_path).read_run()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {}}', "{"])
def test_a_damaged_run_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="not a run's"):
        RunFolder(tmp_path).read_run()


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run").create()
