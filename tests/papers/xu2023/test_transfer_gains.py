"""Figure 7 of Xu and Liu: runs and tasks, gains of probed networks, published numbers, claims true and false."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from collapselab.data import NAMED
from collapselab.data.recipe import DataSpec
from collapselab.data.sampling import group_labels, sample_rows
from collapselab.errors import InputError
from collapselab.experiments.claims import judge_claims
from collapselab.experiments.grid import Grid
from collapselab.experiments.recipes import At, Changes, Job
from collapselab.experiments.running import check_data
from collapselab.frames import groups, numbers, rows_that
from collapselab.inference import rank_correlation
from collapselab.papers.xu2023 import recipes, transfer
from collapselab.papers.xu2023.fig7 import EXPERIMENT
from collapselab.papers.xu2023.published import published_rows
from collapselab.papers.xu2023.transfer import BOTH, REGULARISER, TEMPERATURE
from collapselab.papers.xu2023.transfer_charts import METRICS
from collapselab.papers.xu2023.transfer_jobs import CPU_WEIGHTS, TEMPERATURES, WEIGHTS, small_jobs
from collapselab.training import run_recipe
from collapselab.training.building import load_data

COLUMNS = list(METRICS)


# ---------------------------------------------------------------- runs and tasks


@pytest.mark.parametrize("scale", ["paper", "cpu", "smoke"])
def test_runs_differ_in_temperature_or_in_weight_only(scale: str) -> None:
    presets = {str(name): preset for name, preset in EXPERIMENT.presets.items()}
    jobs = presets[scale].jobs(0)
    same = {one.recipe.with_changes({"temperature": 1, "within_class_cosine": 0}).to_yaml() for one in jobs}
    assert len(same) == 1
    by_group = {
        group: [one for one in jobs if one.labels["group"] in (group, BOTH)]
        for group in (TEMPERATURE, REGULARISER)
    }
    assert [one.recipe.temperature for one in by_group[TEMPERATURE]] == list(TEMPERATURES)
    assert [one.recipe.within_class_cosine for one in by_group[REGULARISER]] == list(
        WEIGHTS if scale == "paper" else CPU_WEIGHTS
    )
    assert {one.recipe.within_class_cosine for one in by_group[TEMPERATURE]} == {0}
    assert {one.recipe.temperature for one in by_group[REGULARISER]} == {1}
    assert sum(one.labels["group"] == BOTH for one in jobs) == 1


def test_the_ten_downstream_data_sets() -> None:
    tasks = transfer.TASKS["imagenet"]
    assert len(tasks) == 10
    assert all(task.name == task.data.name and task.name in NAMED for task in tasks)
    by_class = {task.name for task in tasks if task.score == "mean_per_class"}
    assert by_class == {"oxford_pets", "oxford_flowers", "fgvc_aircraft", "caltech101"}
    assert {task.num_penalties for task in tasks} == {97}
    assert EXPERIMENT.presets["paper"].data_names() == sorted({"imagenet", *(task.name for task in tasks)})
    assert EXPERIMENT.presets["cpu"].data_names() == ["cifar10", "mnist"]


def test_no_image_of_pre_training_is_used_for_a_probe(rng: np.random.Generator) -> None:
    labels, names = rng.permutation(np.repeat(np.arange(10), 1500)), NAMED["cifar10"].class_names

    def rows(spec: DataSpec, seed: int) -> set[int]:
        own = labels if spec.groups is None else group_labels(labels, spec.groups, 10, names, "test")
        return set(sample_rows(own, spec.train, seed, "test").tolist())

    trained = rows(transfer.SIX_CLASSES, 3)
    for task in transfer.TASKS["cifar10"][:2]:
        assert not trained & rows(task.data, 3)


def test_missing_data_of_a_task_are_reported_before_anything_runs(tmp_path: object) -> None:
    preset = replace(EXPERIMENT.presets["smoke"], extra_data=[DataSpec(name="nowhere/at_all.npz")])
    grid = Grid(tmp_path, preset, [0])  # pyright: ignore[reportArgumentType] a path
    with pytest.raises(InputError, match="at_all"):
        check_data(grid, is_whole=False)


# ---------------------------------------------------------------- rows


def _tiny(seed: int, _: Changes) -> list[Job]:
    changes = {
        "model.name": "mlp", "model.options": {"width": 16, "depth": 1}, "augmentation": {}, "measuring.at": [],
        "measuring.count": 2, "num_threads": 1,
    }  # fmt: skip
    jobs = small_jobs(seed, recipes.SMOKE_CHANGES | changes, transfer.SIX_DIGITS, 20, 30)
    return [one for one in jobs if one.labels["group"] == BOTH or 2 in one.labels.values()]


def test_gains_are_those_of_probes_and_of_the_network_itself(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    grid = Grid(tmp_path_factory.mktemp("out"), At("A test.", make=_tiny), [0])
    for run in grid.all():
        run_recipe(run.job.recipe, run.folder)
    grid.compute_extra("probes", 0, transfer.probe_tasks)
    rows = transfer.transfer_rows(grid)
    found = set(zip(rows["job"], rows["group"], rows["value"], strict=True))
    both, other = "digits-temperature-1-weight-0", "digits-temperature-2-weight-0"
    assert found == {(both, TEMPERATURE, 1), (both, REGULARISER, 0), (other, TEMPERATURE, 2)}
    for run in grid.all():
        row = rows[rows["job"] == run.job.name].iloc[0]
        data, model = load_data(run.job.recipe), run.model().eval()
        right = float((model(data.test.inputs).argmax(dim=1) == data.test.labels).double().mean())
        odds = [math.log(row[f"accuracy, {task.name}"]) - math.log1p(-row[f"accuracy, {task.name}"])
                for task in transfer.TASKS["digits"]]  # fmt: skip
        assert row["mean_log_odds"] == pytest.approx(np.mean(odds))
        assert row["gain"] == pytest.approx(np.mean(odds) - math.log(right / (1 - right)))
        # Far above chance: a quarter and a tenth.
        assert row["accuracy, held-out classes"] > 0.5
        assert row["accuracy, all ten classes"] > 0.4


# ---------------------------------------------------------------- published numbers


def test_published_correlations() -> None:
    """Squared distance and cosine similarity turn their sign, VCI does not, and fuzziness does not clearly."""
    found = {
        str(group): [rank_correlation(numbers(part, name), numbers(part, "gain")) for name in COLUMNS]
        for group, part in groups(published_rows(), "group")
    }
    assert found[TEMPERATURE] == pytest.approx([1, 1, -1, 1])
    assert found[REGULARISER] == pytest.approx([-0.4, -1, 1, 1])


# ---------------------------------------------------------------- claims


def made_up(signs: Mapping[str, Sequence[int]], size: int = 6) -> pd.DataFrame:
    """Rows of five seeds in which each metric has these signs of correlation with the gain in both groups."""
    rows = []
    for seed in range(5):
        for at, group in enumerate((TEMPERATURE, REGULARISER)):
            for place in range(size):
                row = {
                    "seed": seed,
                    "job": f"{group}-{place}",
                    "ended": "steps",
                    "group": group,
                    "gain": 0.1 * place,
                }
                rows.append(row | {name: 1 + signs[name][at] * (place + 0.1 * seed) / 10 for name in signs})
    return pd.DataFrame(rows)


def verdicts(rows: pd.DataFrame) -> dict[str, str]:
    return {one.id: one.verdict for one in judge_claims(EXPERIMENT.claims, rows, "paper", "where")}


def test_the_papers_picture_holds() -> None:
    signs = dict(zip(COLUMNS, [(1, -1), (1, -1), (-1, 1), (1, 1)], strict=True))
    found = verdicts(made_up(signs))
    assert len(found) == 7
    assert set(found.values()) == {"holds"}


@pytest.mark.parametrize(
    ("column", "signs", "failing"),
    [
        ("train_vci_adjusted", (1, -1), {"vci-keeps-its-sign"}),
        ("train_fuzziness", (1, 1), {"fuzziness-flips"}),
        ("train_squared_distance", (-1, 1), {"squared-distance-flips", "squared-distance-by-temperature"}),
        ("train_cosine_similarity", (-1, -1), {"cosine-similarity-flips"}),
    ],
)
def test_another_picture_fails(column: str, signs: tuple[int, int], failing: set[str]) -> None:
    usual = dict(zip(COLUMNS, [(1, -1), (1, -1), (-1, 1), (1, 1)], strict=True))
    found = verdicts(made_up(usual | {column: signs}))
    assert {id for id, verdict in found.items() if verdict == "fails"} == failing


def test_a_seed_that_lacks_a_network_is_void() -> None:
    usual = dict(zip(COLUMNS, [(1, -1), (1, -1), (-1, 1), (1, 1)], strict=True))
    rows = made_up(usual)
    rows = rows_that(rows, ~((rows["seed"] == 4) & (rows["job"] == "temperature-0")))
    (one,) = judge_claims(
        [claim for claim in EXPERIMENT.claims if claim.id == "fuzziness-flips"], rows, "paper", "where"
    )
    assert one.void == {4: "missing runs: temperature-0"}
