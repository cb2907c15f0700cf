"""Damages to stored files: what is read is right, or is refused in one line; nothing wrong is ever judged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from attacking import DAMAGES, EXPERIMENT, SEED, TIMES, Random, files_of, recipe, request
from torch import nn

from collapselab import InputError, profile
from collapselab.experiments.runner import judge_again, reproduce
from collapselab.records.profile import StoredProfile, read_profile, write_profile
from collapselab.records.run import read_run
from collapselab.records.verdicts import read_verdicts
from collapselab.storage import load_tensors
from collapselab.training import RunFolder, RunInterrupted, run_recipe
from tiny_runs import StopAt

LONGEST = 300


@dataclass(frozen=True)
class Attacked:
    """Folders of two seeds, and how one is used; `use` returns what must not depend on the damage."""

    folder: Path
    other: Path
    use: Callable[[Path], Any]
    right: Any


def attack(attacked: Attacked, times: int, skip: tuple[str, ...] = ()) -> None:
    """Damage one file at a time, each in a new copy of the folder."""
    draw, wrong, refused = Random(SEED), [], 0
    files = [file for file in files_of(attacked.folder) if file.name not in skip]
    short = Path(tempfile.mkdtemp())  # messages cut long paths
    for number in range(times):
        # Every kind of damage and every file has its turn.
        file = files[number % len(files)]
        name = list(DAMAGES)[(number // len(files) + number) % len(DAMAGES)]
        copy = Path(shutil.copytree(attacked.folder, short / "copy"))
        DAMAGES[name](copy / file, attacked.other / file, draw)
        try:
            found = attacked.use(copy)
        except InputError as error:
            refused += 1
            text = str(error).replace(str(copy), "FOLDER")
            # Records of another run or experiment are refused by their folder's name.
            named = file.name.split("-")[0] in text or file.suffix == ".json"
            if "\n" in text or len(text) > LONGEST or "FOLDER" not in text or not named:
                wrong.append(f"{number}: {name} of {file}: says {text}")
        except Exception as error:
            wrong.append(f"{number}: {name} of {file}: {type(error).__name__}: {error}"[:300])
        else:
            if found != attacked.right:
                wrong.append(f"{number}: {name} of {file}: another result")
        shutil.rmtree(copy)
    short.rmdir()
    assert not wrong, f"{len(wrong)} of {times}:\n" + "\n".join(wrong)
    assert refused > times / 4, "hardly a damage was noticed"


# ---------------------------------------------------------------- runs


def _results(folder: Path) -> dict[str, Any]:
    run = RunFolder(folder)
    return {
        "rows": [row.to_json() for row in run.read_rows()],
        "final": [row.to_json() for row in run.read_final_reference()],
        "weights": {name: weight.tolist() for name, weight in run.read_weights(9).items()},
        "means": {name: tensor.tolist() for name, tensor in run.read_statistics(9).items()},
    }


def _resumed(folder: Path) -> dict[str, Any]:
    run_recipe(recipe(), RunFolder(folder))
    return _results(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, each finished and stopped behind its third measurement."""
    out = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        run_recipe(recipe(seed), RunFolder(out / f"finished-{seed}"))
        with pytest.raises(RunInterrupted):
            run_recipe(recipe(seed), RunFolder(out / f"stopped-{seed}"), stopper=StopAt(5))
    return out


def test_a_stopped_run_is_resumed_to_the_right_result_or_refused(runs: Path) -> None:
    right = _results(runs / "finished-0")
    attack(Attacked(runs / "stopped-0", runs / "stopped-1", _resumed, right), 110 * TIMES)


def test_a_finished_run_is_read_right_or_refused(runs: Path) -> None:
    def read(folder: Path) -> list[Any]:
        record = run_recipe(recipe(), RunFolder(folder))
        run = read_run(RunFolder(folder))
        return [record, run.rows.to_csv(), run.variances.to_csv(), run.spectra.to_csv()]

    finished = runs / "finished-0"
    attack(Attacked(finished, runs / "finished-1", read, read(finished)), 60 * TIMES)


# ---------------------------------------------------------------- experiments


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of three seeds; another whose runs of seed 0 and 1 are exchanged, which is wrong everywhere."""
    out = tmp_path_factory.mktemp("experiments")
    reproduce(request(out / "one"))
    other = Path(shutil.copytree(out / "one", out / "other"))
    jobs = other / "runs" / "only"
    for names in (("seed-0", "seed-x"), ("seed-1", "seed-0"), ("seed-x", "seed-1")):
        (jobs / names[0]).rename(jobs / names[1])
    rows = (other / "rows.csv").read_text()
    (other / "rows.csv").write_text(rows.replace("digits,mlp,0,", "digits,mlp,1,"))
    return out


def _judged(folder: Path, work: Callable[[], Any], damaged: bytes | None) -> Any:
    """Do the work; where it is refused, verdicts must be as they were."""
    verdicts = folder / "verdicts.json"
    try:
        work()
    except InputError:
        if damaged is not None:
            assert verdicts.read_bytes() == damaged, "a refusal has changed the verdicts"
        raise
    return [judgement.model_dump() for judgement in read_verdicts(verdicts)], (
        folder / "rows.csv"
    ).read_bytes()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def test_a_finished_experiment_is_judged_right_or_refused(experiments: Path) -> None:
    def again(folder: Path) -> Any:
        return _judged(folder, lambda: reproduce(request(folder)), _content(folder / "verdicts.json"))

    right = _judged(experiments / "one", lambda: None, None)
    attacked = Attacked(experiments / "one", experiments / "other", again, right)
    attack(attacked, 60 * TIMES)


def test_stored_rows_are_judged_right_or_refused(experiments: Path, tmp_path: Path) -> None:
    def again(folder: Path) -> Any:
        return _judged(
            folder, lambda: judge_again(folder, lambda _: EXPERIMENT), _content(folder / "verdicts.json")
        )

    light = tmp_path / "light"
    light.mkdir()
    for name in ("rows.csv", "experiment.json", "verdicts.json"):
        shutil.copy(experiments / "one" / name, light / name)
    right = _judged(experiments / "one", lambda: None, None)
    attack(Attacked(light, experiments / "other", again, right), 40 * TIMES)


# ---------------------------------------------------------------- profiles


def test_a_profile_is_read_right_or_refused(tmp_path: Path) -> None:
    first = tmp_path / "profile"
    first.mkdir()
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    data = [(torch.randn(12, 5, generator=torch.Generator().manual_seed(SEED)), torch.arange(12) % 3)]
    write_profile(first, StoredProfile(profile(model, data, spectra=True)))

    def read(folder: Path) -> Any:
        try:
            tensors = load_tensors(folder / "statistics.safetensors")
        except (ValueError, OSError) as error:
            raise InputError(f"{folder / 'statistics.safetensors'}: {error}") from error
        return read_profile(folder).profile.to_dict(), {name: one.tolist() for name, one in tensors.items()}

    attack(Attacked(first, first, read, read(first)), 30 * TIMES)
