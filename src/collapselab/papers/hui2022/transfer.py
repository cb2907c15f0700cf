"""Accuracy of pre-trained checkpoints after transfer: linear probes, and the rows of figure 5."""

from __future__ import annotations

from functools import partial

import pandas as pd

from collapselab.experiments.grid import Grid
from collapselab.frames import rows_that, rows_where
from collapselab.papers.hui2022.common import probe_accuracy
from collapselab.records.experiment import ExtraRow
from collapselab.report.builders import ACCURACY_AXES, VARIANCES, Lines, Quantity, by_column
from collapselab.report.chart import TEST, Axis, Look

_VARIANCES = ("train_variance", "train_variance_final")
_PLACE = ("kind", "dataset", "model", "arm", "weight_decay", "seed", "pretrain_step")
_OF_CHECKPOINT = ("dataset", "model", "arm", "weight_decay", "pretrain_step")
_COLUMNS = (*_PLACE, *_VARIANCES, "learning_rate", "accuracy", "num_test")


def probe_checkpoints(runs: Grid, seed: int) -> list[ExtraRow]:
    """Train a linear probe of every checkpoint on the samples of fine-tuning; return one row each."""
    of = runs.of(seed)
    # All runs that start from one checkpoint have the same samples.
    tuned = {run.job.recipe.start: run.job for run in of.values() if run.job.after}
    rows: list[ExtraRow] = []
    for job in tuned.values():
        step = int(job.labels["pretrain_step"])
        # Features of the pre-trained network; its two outputs are not used.
        accuracy = probe_accuracy(of[str(job.after)].model(step), runs.samples.of(job.recipe), seed)
        place: ExtraRow = {name: job.labels[name] for name in _OF_CHECKPOINT}
        rows.append({"kind": "linear_probe", **place, "accuracy": accuracy})
    return rows


def transfer_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per measured step of pre-training, per fine-tuned network and per linear probe.

    Returns:
        Columns kind (`pretraining`, `fine_tuning`, `linear_probe`), dataset, model, seed, pretrain_step, train_variance
        and train_variance_final of the pre-trained network at that step, learning_rate, accuracy (on the super-classes in
        rows of pre-training, else on the classes in the end; missing where training diverged) and num_test, the test
        samples that it is a share of.
    """
    tables = [_seed_rows(runs, seed) for seed in runs.seeds]
    return pd.concat(tables, ignore_index=True).reindex(columns=list(_COLUMNS))


def _seed_rows(runs: Grid, seed: int) -> pd.DataFrame:
    tables, num_test = [], {}
    for run in runs.of(seed).values():
        table, data = run.curve().rename(columns={"test_accuracy": "accuracy"}), run.record.data
        assert data is not None
        if run.job.labels["kind"] == "pretraining":
            table["pretrain_step"] = table["step"]
        else:
            table = table.tail(1)
            table = table.assign(accuracy=table["accuracy"].where(table["ended"] != "diverged"))
            num_test[run.job.labels["dataset"]] = data.num_test
        tables.append(table.assign(num_test=data.num_test))
    for row in runs.extra("linear_probe", seed):
        tables.append(pd.DataFrame([row | {"seed": seed, "num_test": num_test[row["dataset"]]}]))
    rows = pd.concat(tables, ignore_index=True)
    checkpoints = rows_where(rows, kind="pretraining").set_index(["dataset", "arm", "pretrain_step"])
    return rows.drop(columns=list(_VARIANCES)).join(checkpoints[list(_VARIANCES)], on=checkpoints.index.names)


# ---------------------------------------------------------------- what is drawn and judged


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per checkpoint, seed and kind of transfer, with the best accuracy over learning rates (sec. 4.2)."""
    others = {name: "first" for name in (*_VARIANCES, "num_test") if name in rows}
    grouped = rows_that(rows, rows["kind"] != "pretraining").groupby(list(_PLACE), sort=False, as_index=False)
    return grouped.agg({**others, "accuracy": "max"})


def best_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per fine-tuned checkpoint, with the best accuracy over learning rates; diverged runs have none."""
    return rows_where(transfers(rows), kind="fine_tuning")


def kinds(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Tell fine-tuning and linear probes apart."""
    tuned, probed = (rows_where(rows, kind=kind) for kind in ("fine_tuning", "linear_probe"))
    return [("fine-tuned (best rate)", tuned), ("linear probe", probed)]


def less_by_probing(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how much less accurate the linear probe is than fine-tuning: the least over checkpoints, and the mean."""
    parts = best_rates(rows), rows_where(rows, kind="linear_probe")
    tuned, probed = (part.set_index("pretrain_step")["accuracy"] for part in parts)
    less = tuned - probed
    lost = {"least": less.min(skipna=False), "mean": less.mean()}
    return pd.DataFrame([lost]).add_suffix("_accuracy_lost_by_probing")


DOWNSTREAM = Axis("downstream test accuracy", "tight", percent=True)
_ACCURACY = Quantity("accuracy", "test accuracy", Look(TEST))


PAGE_CHARTS = (
    Lines(
        "learning-rates", "Fine-tuning at every learning rate", (_ACCURACY,), "A gap is training that diverged.",
        x="learning_rate", axes=(Axis("learning rate of fine-tuning", "log"), DOWNSTREAM), references=False, on_paper=False,
        select=partial(rows_where, kind="fine_tuning"), split=by_column("pretrain_step", "from step {:,}"),
    ),
    Lines(
        "pretraining", "Train variance while pre-training", VARIANCES[:1], x="pretrain_step", on_paper=False,
        select=partial(rows_where, kind="pretraining"),
    ),
    Lines(
        "pretraining-accuracy", "Test accuracy while pre-training, two classes", (_ACCURACY,), x="pretrain_step",
        axes=ACCURACY_AXES, references=False, on_paper=False, select=partial(rows_where, kind="pretraining"),
    ),
)  # fmt: skip
