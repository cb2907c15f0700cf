"""The table of an experiment: what its runs measured, one row per job, seed, step and layer."""

from __future__ import annotations

from typing import Any

import pandas as pd

from collapselab.errors import InputError
from collapselab.experiments.experiment import Job, Runs
from collapselab.training import RunFolder

_VARIANCES = ("train_variance", "strong_test_variance", "weak_test_variance")
_OF_NETWORK = ("loss", "accuracy")


def curve_rows(runs: Runs) -> pd.DataFrame:
    """Hui's variances of every measured step and layer, over the references of the last step of their run.

    Columns: job, the job's labels, seed, step, epoch, layer, depth, is_last (what the classifier reads),
    train_variance, strong_test_variance, weak_test_variance (last layer), and of the network itself, in rows of the
    last layer: train_loss, test_loss, train_accuracy, test_accuracy. What was not measured is missing.

    Raises:
        InputError: rows of a run are damaged or gone.
    """
    tables = [
        run_curve(runs.folder(job.name, seed), job, seed) for seed in runs.seeds for job in runs.jobs(seed)
    ]
    return pd.concat(tables, ignore_index=True)


def ended_rows(runs: Runs) -> pd.DataFrame:
    """`curve_rows`, with a column `ended`: why each run stopped, as its record has it (`loss`, `steps`, `diverged`)."""
    table = curve_rows(runs)
    ended = {
        (job.name, seed): (runs.folder(job.name, seed).read_run() or {}).get("ended")
        for seed in runs.seeds
        for job in runs.jobs(seed)
    }
    places = zip(table["job"], table["seed"], strict=True)
    table.insert(table.columns.get_loc("seed") + 1, "ended", [ended[place] for place in places])  # pyright: ignore[reportArgumentType, reportOperatorIssue] one column of that name
    return table


def run_curve(folder: RunFolder, job: Job, seed: int) -> pd.DataFrame:
    """The rows of one run, as `curve_rows` has them."""
    head = {"job": job.name, **job.labels, "seed": seed}
    by_place: dict[tuple[int, str], dict[str, Any]] = {}
    for row in folder.read_rows():
        place = by_place.setdefault(
            (row["step"], row["layer"]),
            head | {name: row[name] for name in ("step", "epoch", "layer", "depth")},
        )
        for name in _OF_NETWORK:
            if name in row["metrics"]:
                place[f"{row['split']}_{name}"] = row["metrics"][name]
    for row in folder.read_final_reference():
        place = by_place.get((row["step"], row["layer"]))
        if place is None:
            raise InputError(
                f"{folder.path}: rows of step {row['step']} are gone from measurements.jsonl; put that file back, or "
                "remove the folder so that it is run again"
            )
        place |= {name: value for name, value in row["metrics"].items() if name in _VARIANCES}
    table = pd.DataFrame(by_place.values())
    table.insert(table.columns.get_loc("depth") + 1, "is_last", table["depth"] == table["depth"].max())  # pyright: ignore[reportArgumentType, reportOperatorIssue] one column of that name
    numbers = [*_VARIANCES, *(f"{split}_{name}" for name in _OF_NETWORK for split in ("train", "test"))]
    table = table.reindex(columns=[*(name for name in table.columns if name not in numbers), *numbers])
    return table.astype(dict.fromkeys(numbers, "float64")).sort_values(["step", "depth"])
