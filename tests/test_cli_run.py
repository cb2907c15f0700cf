"""`collapselab run`: what a user can get wrong about it."""

from pathlib import Path

import pytest

from cli_runner import assert_refused, run


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert_refused(run("run", "digit"), "digit", "digits")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert_refused(run("run", "digits", "--out", tmp_path), tmp_path, "not empty and not a run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("seed", ["-1", "x", "1.5"])
def test_a_seed_that_is_none_is_refused(seed: str) -> None:
    assert_refused(run("run", "digits", "--seed", seed), "--seed")


def test_a_missing_engine_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert_refused(run("run", "digits", "--out", tmp_path / "run"), "collapselab[train]")


def test_help_shows_an_example() -> None:
    shown = run("run", "--help")
    assert shown.code == 0
    assert "collapselab run digits" in shown.out
