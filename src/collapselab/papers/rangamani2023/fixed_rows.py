"""Accuracy of networks with fixed layers, and where the free network of the same seed has collapsed."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from collapselab.experiments.claims.claim import NotAsked
from collapselab.experiments.grid import Grid
from collapselab.frames import last_layer, rows_that, rows_where
from collapselab.papers.rangamani2023.common import EPSILON
from collapselab.papers.rangamani2023.layer_rows import BATCH, recalibrated
from collapselab.probes import profile
from collapselab.records.experiment import ExtraRow
from collapselab.report.chart import WEAK, Look, Mark

FREE, ETF, IDENTITY, ORTHOGONAL = "free", "etf", "identity", "orthogonal"


def first_collapsed(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return the first collapsed layer of the free network of each data set, by its depth, with recalibrated batch norm."""
    rows: list[ExtraRow] = []
    for run in runs.of(seed).values():
        if run.job.labels["fixed"] == FREE:
            model, data = recalibrated(run, runs)
            found = profile(
                model,
                data.train.batches(BATCH),
                metrics=["normalized_within"],
                reduce="flatten",
                epsilon=EPSILON,
            )
            depth = None if found.first_collapsed_layer is None else found[found.first_collapsed_layer].depth
            rows.append({"dataset": run.job.labels["dataset"], "first_collapsed": depth})
    return rows


def accuracy_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per run: its end, and the first collapsed layer of the free network of its seed and data set.

    Returns:
        Columns job, dataset, model, fixed (what the other layers are, `free` where all are trained), trained (number of layers,
        L), seed, ended, loss and accuracy of both splits, first_collapsed (depth, the number of layers before it).
    """
    ends = pd.concat([last_layer(run.curve()).tail(1) for run in runs.all()], ignore_index=True)
    extra = pd.DataFrame(
        [row | {"seed": seed} for seed in runs.seeds for row in runs.extra("collapsed", seed)]
    )
    names = [
        "job",
        "dataset",
        "model",
        "fixed",
        "trained",
        "seed",
        "ended",
        "train_loss",
        "test_loss",
        "train_accuracy",
        "test_accuracy",
    ]
    return ends[names].merge(extra, on=["dataset", "seed"], how="left")


# ---------------------------------------------------------------- what is drawn and judged


def with_free(rows: pd.DataFrame) -> pd.DataFrame:
    """Let the line of every kind end at the free network."""
    free = rows_where(rows, fixed=FREE)
    kinds = [rows_where(rows, fixed=kind) for kind in (ETF, IDENTITY, ORTHOGONAL)]
    return pd.concat(
        [
            part
            for kind in kinds
            for part in (kind, free.assign(fixed=kind["fixed"].iloc[0]) if len(kind) else kind)
        ]
    )


def collapsed_mark(rows: pd.DataFrame) -> Mark | str:
    first = rows["first_collapsed"].median()
    if pd.isna(first):
        return "No layer of the free network is collapsed"
    return Mark("x", float(first), "layers before the first collapsed one", Look(WEAK, "solid", "none"))


def lost(other: str, kind: str = ETF, *, collapsed: bool) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return one row: how much less accurate networks with fixed layers are than others.

    With `collapsed`, all collapsed layers of the free network are fixed; else the mean over all L for which also others are.

    Raises:
        NotAsked: the free network has no such layers.
    """

    def select(rows: pd.DataFrame) -> pd.DataFrame:
        first = rows["first_collapsed"].iloc[0]
        chosen = rows["trained"] == first if collapsed else rows["trained"] < first
        own, against = (
            rows_where(rows_that(rows, chosen), fixed=name)["test_accuracy"] for name in (kind, other)
        )
        against = rows_where(rows, fixed=FREE)["test_accuracy"] if other == FREE else against
        if pd.isna(first) or own.empty:
            raise NotAsked(
                "no layer of the free network is collapsed"
                if pd.isna(first)
                else "all fixed layers are collapsed ones"
            )
        values = {
            "test_accuracy": own.mean(),
            f"test_accuracy_{other}": against.mean(),
            "first_collapsed_layer": first,
        }
        return pd.DataFrame([values | {f"test_accuracy_lost_against_{other}": against.mean() - own.mean()}])

    return select
