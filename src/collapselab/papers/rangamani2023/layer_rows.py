"""What is measured at every layer of a network along training, and the rows of these measurements.

Running means and variances of batch norm lag behind the weights and are those of the last few batches, so that networks are
also measured with statistics computed anew over the train set: rows named `recalibrated`, at the steps whose weights are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from collapselab.choices import AutoScatter
from collapselab.data import DataSplits
from collapselab.experiments.grid import Grid, GridRun
from collapselab.papers.rangamani2023.associative_memory import memory_cosine, recall
from collapselab.papers.rangamani2023.common import EPSILON, METRICS
from collapselab.passes.stream import no_progress
from collapselab.probes import LayerProfile, Profile, profile
from collapselab.probes.summaries import first_collapsed, fit_law_of_separation
from collapselab.records.experiment import ExtraRow
from collapselab.records.rows import Values
from collapselab.training.building import loss_function
from collapselab.training.evaluation import evaluate

RUNNING, RECALIBRATED = "running", "recalibrated"
BATCH = 1000
# What needs pooled covariances, and covariances of each class, of train data: measured one after the other, because wide
# layers have room for one kind only.
_POOLED = ("stable_rank", "fuzziness")
_BY_CLASS = ("stable_rank_per_class", "stable_rank_published")
# Of the covariances of layers that are measured together.
_MOST_BYTES = 2**32
_SINGULAR = tuple(f"singular_value_{rank}" for rank in range(1, 21))
_ON_TEST = tuple(
    f"test_{name}" for name in ("normalized_within", "etf_distance", "ncc_agreement", "ncc_accuracy")
)
_NETWORK = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
_LAW = ("separation_rho", "separation_r_squared")
_MEMORY = ("memory_cosine", "memory_recall", "test_memory_recall")
_PLACE = ("num_classes", "step", "epoch", "norms", "layer", "depth", "dim", "is_last", "is_collapsed")
_COLUMNS = (*_PLACE, *_NETWORK, *METRICS, *_ON_TEST, *_POOLED, *_BY_CLASS, *_MEMORY, *_LAW, *_SINGULAR)


def recalibrate(model: nn.Module, data: DataSplits) -> nn.Module:
    """Compute the statistics of batch norm over the whole train set, in place: the mean over batches of 1,000."""
    update_bn(data.train.batches(BATCH), model)
    return model


def recalibrated(run: GridRun, runs: Grid, step: int | None = None) -> tuple[nn.Module, DataSplits]:
    """Return the recalibrated network of a run, by default of its last step, and its samples, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = runs.samples.of(run.job.recipe).to(device)
    return recalibrate(run.model(step).to(device), data), data


def measure_recalibrated(runs: Grid, seed: int) -> list[ExtraRow]:
    """Return a row per run, stored step and layer, of networks with recalibrated batch norm."""
    return [row for run in runs.of(seed).values() for row in _measured(run, runs)]


def _measured(run: GridRun, runs: Grid) -> Iterator[ExtraRow]:
    recipe = run.job.recipe
    layers = recipe.measuring.layers
    for step in run.folder.stored_steps("checkpoints"):
        model, data = recalibrated(run, runs, step)
        network: ExtraRow = {}
        for name, split in (("train", data.train), ("test", data.test)):
            found = evaluate(model, split, loss_function(recipe), BATCH, num_classes=data.num_classes)
            network |= {f"{name}_loss": found.loss, f"{name}_accuracy": found.accuracy}
        place: ExtraRow = {"job": run.job.name, "step": step}
        chosen = None if isinstance(layers, str) else list(layers)
        both = profile(
            model,
            data.train.batches(BATCH),
            data.test.batches(BATCH),
            chosen,
            reduce="flatten",
            metrics=list(METRICS),
            progress=no_progress,
        )
        within = [_of_train(model, data, both.layers, names) for names in (_POOLED, _BY_CLASS)]
        recalled = [recall(model, both, split, BATCH) for split in (data.train, data.test)]
        for row in _rows_of(both, within, network):
            row |= {name: found[str(row["layer"])] for name, found in zip(_MEMORY[1:], recalled, strict=True)}
            yield place | row


def _of_train(
    model: nn.Module, data: DataSplits, layers: Sequence[LayerProfile], names: Sequence[str]
) -> dict[str, Values]:
    """Return metrics of train data by layer, from sketches only where a covariance does not fit into memory."""
    found: dict[str, Values] = {}
    for scatter, group in _groups(layers):
        measured = profile(
            model,
            data.train.batches(BATCH),
            layers=group,
            reduce="flatten",
            metrics=list(names),
            scatter=scatter,
            progress=no_progress,
        )
        found |= {layer.name: layer.train for layer in measured.layers}
    return found


def _groups(layers: Sequence[LayerProfile]) -> Iterator[tuple[AutoScatter, list[str]]]:
    """Yield names of layers to measure together, with the part of their scatter that is stored."""
    group, wide, used = [], [], 0
    for layer in layers:
        size = 8 * layer.dim**2
        if size > _MOST_BYTES:
            wide.append(layer.name)
            continue
        if used + size > _MOST_BYTES:
            yield "full", group
            group, used = [], 0
        group.append(layer.name)
        used += size
    if group:
        yield "full", group
    if wide:
        yield "sketch", wide


def _rows_of(both: Profile, within: Sequence[Mapping[str, Values]], network: ExtraRow) -> Iterator[ExtraRow]:
    law = fit_law_of_separation(
        {layer.depth: within[0][layer.name].get("fuzziness") for layer in both.layers}
    )
    for layer in both.layers:
        row: ExtraRow = {"layer": layer.name, "depth": layer.depth, "dim": layer.dim}
        row |= layer.train | {
            f"test_{name}": value for name, value in layer.test.items() if f"test_{name}" in _ON_TEST
        }
        row |= dict(zip(_SINGULAR, layer.weight_singular_values, strict=False))
        for measured in within:
            row |= measured[layer.name]
        if layer is both.layers[-1]:
            row |= network | {"separation_rho": law.rho, "separation_r_squared": law.r_squared}
        yield row


def layer_rows(runs: Grid) -> pd.DataFrame:
    """Return one row per run, measured step and layer, with running statistics of batch norm, and one with recalibrated ones.

    Returns:
        Columns job and its labels, seed, ended, step, epoch, norms (`running` or `recalibrated`), layer, depth, dim (features),
        is_last, is_collapsed (this layer and all later ones are), in the last layer loss and accuracy of the network itself,
        metrics of train data, and of test data with `test_`. Only with recalibrated statistics: ranks, the largest singular
        values of the weight, recall of the associative memory, and in the last layer rho and R^2 of the law of separation.
    """
    tables = []
    for seed in runs.seeds:
        extra = pd.DataFrame(list(runs.extra("recalibrated", seed)))
        for name, run in runs.of(seed).items():
            running = pd.DataFrame(list(_running(run)))
            again = extra[extra["job"] == name].drop(columns="job").assign(norms=RECALIBRATED)
            again["epoch"] = again["step"].map(running.drop_duplicates("step").set_index("step")["epoch"])
            labels: dict[str, Any] = {"job": name, **run.job.labels, "seed": seed, "ended": run.record.ended}
            both = pd.concat([running.assign(norms=RUNNING), again], ignore_index=True)
            both["dim"] = both["layer"].map(again.drop_duplicates("layer").set_index("layer")["dim"])
            assert run.record.data is not None
            both["num_classes"] = run.record.data.num_classes
            tables.append(
                _placed(both).reindex(columns=list(_COLUMNS)).assign(**labels)[[*labels, *_COLUMNS]]
            )
    return pd.concat(tables, ignore_index=True)


def _running(run: GridRun) -> Iterator[dict[str, Any]]:
    """Yield the rows that a run stored, those of both splits of a layer as one."""
    by_place: dict[tuple[int, str], dict[str, Any]] = {}
    for row in run.folder.read_rows():
        held = by_place.setdefault(
            (row.step, row.layer),
            {"step": row.step, "epoch": row.epoch, "layer": row.layer, "depth": row.depth},
        )
        for name, value in row.metrics.items():
            on_split = f"{row.split}_{name}"
            held[on_split if on_split in (*_NETWORK, *_ON_TEST) else name if row.split == "train" else ""] = (
                value
            )
    yield from by_place.values()


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Add which layer is the last, which layers are collapsed with all later ones, and the cosine of the memory."""
    parts = []
    for _, part in rows.groupby(["norms", "step"], sort=False):
        part = part.sort_values("depth")
        first = first_collapsed(part["layer"].tolist(), part["normalized_within"].tolist(), EPSILON)
        start = part.loc[part["layer"] == first, "depth"].min()  # NaN without one
        parts.append(
            part.assign(is_last=part["depth"] == part["depth"].max(), is_collapsed=part["depth"] >= start)
        )
    placed = pd.concat(parts, ignore_index=True)
    return placed.assign(memory_cosine=placed["self_duality"].astype("float64").map(memory_cosine))
