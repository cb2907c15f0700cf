"""Folders of runs and profiles, read back and shown: `read_run`, `read_profile`, `collapselab report`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reading import check_page, read

from cli_runner import assert_refused, run
from collapselab import InputError, read_profile, read_run
from collapselab.records.profile import StoredProfile, write_profile
from collapselab.records.recipe import Recipe
from collapselab.records.run import Run
from collapselab.records.run_record import Seconds
from collapselab.views.comparison import comparison_page
from collapselab.views.folders import open_folder, open_profile, short_names


def opened(folders: tuple[Path, Path]) -> dict[str, Run | StoredProfile]:
    return {folder.name: open_folder(folder) for folder in folders}


def test_a_profile_comes_back_with_its_class_means(profile_folders: tuple[Path, Path]) -> None:
    profile = read_profile(profile_folders[1])
    means = profile.layers[-1].splits["train"].class_means
    assert means is not None
    assert means.shape == (4, 8)
    table = profile.class_details(split="test")
    assert table["label"].tolist() == [0, 1, 2, 3]
    assert profile.class_details(profile.layers[0].name)["num_samples"].tolist() == [15] * 4
    without = read_profile(profile_folders[1] / "profile.json")
    assert without == profile
    with pytest.raises(ValueError, match="read_profile"):
        without.class_details()


def test_a_damaged_file_of_class_means_is_refused(profile_folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("profile.json", "statistics.safetensors"):
        (tmp_path / name).write_bytes((profile_folders[0] / name).read_bytes())
    file = tmp_path / "statistics.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"statistics\.safetensors: damaged"):
        read_profile(tmp_path)


def test_a_run_is_read_by_its_path(run_folders: tuple[Path, Path]) -> None:
    found = read_run(str(run_folders[0]))
    assert {"step", "split", "layer", "normalized_within", "loss", "accuracy"} <= set(found.rows)
    assert found.last_step == 30


def test_runs_are_compared_by_values_and_by_settings(run_folders: tuple[Path, Path]) -> None:
    page = comparison_page(opened(run_folders))
    check_page(page)
    tables = dict(page.numbers)
    differing, *sections = page.sections
    assert differing.title == "What differs in how they were made"
    assert differing.table is not None
    assert differing.table["setting"].tolist() == ["optimizer weight decay"]
    last = tables["Last layer on train data"].set_index("metric")
    for folder in run_folders:
        found = read_run(folder)
        row = found.at(found.last_step, "train").iloc[-1]
        for name in ("normalized_within", "cdnv", "loss", "accuracy"):
            assert last.loc[name, folder.name] == row[name]
    names = [one.name for chart in sections[0].charts for one in chart.panels[0].series]
    assert names == [f"{folder.name}, {split}" for folder in run_folders for split in ("train", "test")]


def test_every_setting_is_compared_but_not_dates_and_seconds(run_folders: tuple[Path, Path]) -> None:
    run = opened(run_folders)[run_folders[0].name]
    assert isinstance(run, Run)
    record = run.record
    recipe = Recipe.model_validate(record.recipe.model_dump(mode="json"))
    measuring = recipe.measuring.model_copy(update={"epsilon": 0.5, "layers": "last", "metrics": ("cdnv",)})
    changed = {
        "recipe": recipe.model_copy(update={"measuring": measuring}),
        "seconds": Seconds(training=1e6, measuring=1e6),
        "started": "2000-01-01T00:00:00+00:00",
        "commit": "f" * 40,
    }
    other = replace(run, record=record.model_copy(update=changed))
    table = comparison_page({"one": run, "other": other}).sections[0].table
    assert table is not None
    assert set(table["setting"]) == {"measuring epsilon", "measuring layers", "measuring metrics"}


def test_profiles_are_compared_by_layer(profile_folders: tuple[Path, Path]) -> None:
    page = comparison_page(opened(profile_folders))
    check_page(page)
    tables = dict(page.numbers)
    assert page.sections[0].table is not None
    assert page.sections[0].table["setting"].tolist() == ["checkpoint"]
    last = tables["Last layer on test data"].set_index("metric")
    for folder in profile_folders:
        assert last.loc["vci", folder.name] == read_profile(folder).layers[-1].test["vci"]


def test_runs_and_profiles_are_not_mixed(
    run_folders: tuple[Path, Path], profile_folders: tuple[Path, Path]
) -> None:
    with pytest.raises(InputError, match="decay-0 is a run and before a profile"):
        comparison_page(opened((run_folders[0], profile_folders[0])))


def test_names_are_as_short_as_tells_them_apart() -> None:
    assert short_names([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert short_names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]


def test_report_writes_the_page_of_one_folder_and_compares_several(
    run_folders: tuple[Path, Path],
    profile_folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (run_folders[0], profile_folders[0]):
        ended = run("report", folder)
        assert ended.code == 0, ended.err
        assert ended.err == f"wrote {folder / 'report.html'}\n"
        assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    assert run("report", *run_folders).err == "wrote comparison.html\n"
    assert "decay-0.02" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    run("report", *profile_folders, "--out", "pages/steps.html")
    assert (tmp_path / "pages/steps.html").exists()


def test_report_replaces_pages_only(
    run_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {"mine.npz": b"features", "comparison.html": b"<!doctype html>", "empty.html": b""}
    for name, content in mine.items():
        Path(name).write_bytes(content)
    for arguments in (
        [run_folders[0], "--out", "mine.npz"],
        [run_folders[0], "--out", "empty.html"],
        run_folders,
    ):
        assert_refused(run("report", *arguments), "exists and is not a page", "move it away")
    assert {name: Path(name).read_bytes() for name in mine} == mine
    for arguments in ([run_folders[0]], run_folders, [run_folders[1]]):
        assert run("report", *arguments, "--out", "page.html").err == "wrote page.html\n"


def test_report_draws_the_earlier_profile_again(profile_folders: tuple[Path, Path], tmp_path: Path) -> None:
    earlier, folder = tmp_path / "earlier", tmp_path / "later"
    shutil.copytree(profile_folders[0], earlier)
    later = open_profile(profile_folders[1])
    assert later.made is not None
    made = later.made.model_copy(update={"options": {"against": str(earlier)}})
    folder.mkdir()
    write_profile(folder, replace(later, made=made))

    def words() -> str:
        return read((folder / "report.html").read_text(encoding="utf-8")).words

    assert run("report", folder).err == f"wrote {folder / 'report.html'}\n"
    assert "Every metric on train data at initialisation" in words()
    shutil.copy(folder / "profile.json", earlier)
    assert f"no longer shows: {earlier}: holds a later profile" in run("report", folder).err
    assert "initialisation" not in words()
    shutil.rmtree(earlier)
    ended = run("report", folder)
    assert ended.err.startswith(f"warning: made with --against {earlier}, which the page no longer shows: ")
    assert ended.code == 0


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("nothing", "no such folder"),
        ("empty", "holds neither run.json nor profile.json"),
        ("experiment", "collapselab judge"),
    ],
)
def test_other_folders_are_refused(made: str, told: str, tmp_path: Path) -> None:
    folder = tmp_path / made
    if made != "nothing":
        folder.mkdir()
    if made == "experiment":
        (folder / "experiment.json").write_text("{}")
    assert_refused(run("report", folder), str(folder), told)


def test_class_means_of_other_files_are_not_taken(profile_folders: tuple[Path, Path]) -> None:
    """Every layer has its own: the widths tell."""
    profile = read_profile(profile_folders[0])
    widths = [layer.splits["train"].class_means.shape[1] for layer in profile.layers]  # type: ignore[union-attr]
    assert widths == [layer.dim for layer in profile.layers] == [6, 8, 8]
    assert all(torch.isfinite(layer.splits["train"].class_variances).all() for layer in profile.layers)  # type: ignore[arg-type]
