"""Accuracy of pre-trained checkpoints after transfer: linear probes, and the rows of figure 5."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from collapselab.data import DataSplits, Split
from collapselab.experiments.grid import Grid
from collapselab.experiments.jobs import Job
from collapselab.experiments.rows import run_curve
from collapselab.frames import rows_that, rows_where
from collapselab.records.experiment import ExtraRow, Label
from collapselab.report.builders import ACCURACY_AXES, VARIANCES, Lines, Quantity, by_column
from collapselab.report.chart import TEST, Axis, Look
from collapselab.training.building import classifier_name
from collapselab.training.evaluation import layer_features

PENALTIES = 13
_BATCH = 1024
_VARIANCES = ("train_variance", "train_variance_final")
_COLUMNS = (
    "kind",
    "dataset",
    "model",
    "seed",
    "pretrain_step",
    *_VARIANCES,
    "learning_rate",
    "accuracy",
    "num_test",
)


def probe_checkpoints(runs: Grid, seed: int) -> list[ExtraRow]:
    """Train a linear probe of every checkpoint on the samples of fine-tuning; return one row each."""
    from collapselab.transfer import linear_probe

    pretrained = {job.labels["dataset"]: job for job in _of_kind(runs, seed, "pretraining")}
    # All runs that start from one checkpoint have the same samples; use the first.
    by_checkpoint: dict[tuple[str, int], Job] = {}
    for job in _of_kind(runs, seed, "fine_tuning"):
        by_checkpoint.setdefault(_checkpoint(job), job)
    rows: list[ExtraRow] = []
    for (dataset, step), job in by_checkpoint.items():
        data = runs.data(job.recipe)
        # Features of the pre-trained network; its two outputs are not used.
        model = runs.model(pretrained[dataset], step)
        layer = classifier_name(model)
        train, test = ((layer_features(model, split, layer, _BATCH), split.labels) for split in _splits(data))
        result = linear_probe(train, test, num_penalties=PENALTIES, standardize=False, seed=seed)
        place: ExtraRow = {"kind": "linear_probe", "dataset": dataset, "model": job.labels["model"]}
        rows.append(place | {"pretrain_step": step, "accuracy": result.accuracy})
    return rows


def transfer_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per measured step of pre-training, per fine-tuned network and per linear probe.

    Returns:
        Columns kind (`pretraining`, `fine_tuning`, `linear_probe`), dataset, model, seed, pretrain_step, train_variance
        and train_variance_final of the pre-trained network at that step, learning_rate, accuracy (on the super-classes in
        rows of pre-training, else on the classes in the end; missing where training diverged) and num_test, the test
        samples that it is a share of.
    """
    rows = [row for seed in runs.seeds for row in _seed_rows(runs, seed)]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _seed_rows(runs: Grid, seed: int) -> list[ExtraRow]:
    rows: list[ExtraRow] = []
    variances: dict[tuple[str, Label | None], ExtraRow] = {}
    num_test: dict[str, Label | None] = {}
    for job in runs.jobs(seed):
        curve = run_curve(runs.folder(job.name, seed), job, seed)
        head: ExtraRow = {**job.labels, "seed": seed, "num_test": _num_test(runs, job, seed)}
        if job.labels["kind"] == "pretraining":
            for row in curve.to_dict("records"):
                of_step: ExtraRow = {name: row[name] for name in _VARIANCES}
                variances[str(head["dataset"]), row["step"]] = of_step
                rows.append(
                    {**head, **of_step, "pretrain_step": row["step"], "accuracy": row["test_accuracy"]}
                )
            continue
        last = curve.iloc[-1]
        num_test[str(head["dataset"])] = head["num_test"]
        accuracy = None if last["ended"] == "diverged" else float(last["test_accuracy"])
        rows.append({**head, **variances[_checkpoint(job)], "accuracy": accuracy})
    for row in runs.extra("linear_probe", seed):
        dataset, step = str(row["dataset"]), row["pretrain_step"]
        rows.append({**row, **variances[dataset, step], "seed": seed, "num_test": num_test[dataset]})
    return rows


def _of_kind(runs: Grid, seed: int, kind: str) -> list[Job]:
    return [job for job in runs.jobs(seed) if job.labels["kind"] == kind]


def _checkpoint(job: Job) -> tuple[str, int]:
    return str(job.labels["dataset"]), int(job.labels["pretrain_step"])


def _splits(data: DataSplits) -> tuple[Split, Split]:
    return data.train, data.test


def _num_test(runs: Grid, job: Job, seed: int) -> int | None:
    record = runs.folder(job.name, seed).read_run()
    return None if record is None or record.data is None else record.data.num_test


# ---------------------------------------------------------------- what is drawn and judged


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per checkpoint, seed and kind of transfer, with the best accuracy over learning rates (sec. 4.2)."""
    keys = ["kind", "dataset", "model", "seed", "pretrain_step"]
    others = {
        name: "first" for name in ("train_variance_final", "train_variance", "num_test") if name in rows
    }
    grouped = rows_that(rows, rows["kind"] != "pretraining").groupby(keys, sort=False, as_index=False)
    return grouped.agg({**others, "accuracy": "max"})


def best_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per fine-tuned checkpoint, with the best accuracy over learning rates; diverged runs have none."""
    return rows_where(transfers(rows), kind="fine_tuning")


def kinds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Tell fine-tuning and linear probes apart."""
    tuned, probed = (rows_where(rows, kind=kind) for kind in ("fine_tuning", "linear_probe"))
    return [("fine-tuned, best learning rate", tuned), ("linear probe", probed)]


def less_by_probing(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how much less accurate the linear probe is than fine-tuning: the least over checkpoints, and the mean."""
    parts = best_rates(rows), rows_where(rows, kind="linear_probe")
    tuned, probed = (part.set_index("pretrain_step")["accuracy"] for part in parts)
    less = tuned - probed
    return pd.DataFrame(
        {
            "least_accuracy_lost_by_probing": [less.min(skipna=False)],
            "mean_accuracy_lost_by_probing": [less.mean()],
        }
    )


DOWNSTREAM = Axis("downstream test accuracy", "tight", percent=True)
_ACCURACY = Quantity("accuracy", "test accuracy", Look(TEST))


def _of(kind: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows_where(rows, kind=kind)


PAGE_CHARTS = (
    Lines(
        "learning-rates", "Fine-tuning at every learning rate", (_ACCURACY,), "A gap is training that diverged.",
        x="learning_rate", axes=(Axis("learning rate of fine-tuning", "log"), DOWNSTREAM), references=False, on_paper=False,
        select=_of("fine_tuning"), split=by_column("pretrain_step", "from step {:,}"),
    ),
    Lines(
        "pretraining", "Train variance while pre-training", VARIANCES[:1], x="pretrain_step", on_paper=False,
        select=_of("pretraining"),
    ),
    Lines(
        "pretraining-accuracy", "Test accuracy while pre-training, two classes", (_ACCURACY,), x="pretrain_step",
        axes=ACCURACY_AXES, references=False, on_paper=False, select=_of("pretraining"),
    ),
)  # fmt: skip
