"""The table of measurements of an experiment: one row per job, seed, step and layer."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from collapselab.digests import Damaged, digest
from collapselab.errors import InputError, one_line
from collapselab.experiments.grid import Grid
from collapselab.experiments.jobs import Job
from collapselab.records.experiment import Label
from collapselab.records.rows import VARIANCES, Row, fill_at_last_step, final
from collapselab.storage import read_bytes
from collapselab.training import RunFolder

_FINAL = tuple(map(final, VARIANCES))
# Of the network itself, by split: in rows of the last layer.
_NETWORK = tuple(f"{split}_{name}" for name in ("loss", "accuracy") for split in ("train", "test"))
_COLUMNS = (*VARIANCES, *_FINAL, *_NETWORK, "normalized_within")
_PLACE = ("step", "epoch", "layer", "depth", "is_last")
# What tells one run from another where the table has no jobs.
_CHECKPOINTS = ("dataset", "model", "seed")

_Record = dict[str, Label | None]


def curve_rows(runs: Grid) -> pd.DataFrame:
    """Return what all runs measured, at every measured step and layer.

    Returns:
        Columns job, the job's labels, seed, ended (why the run ended: `steps`, `loss`, `diverged`), step, epoch, layer,
        depth, is_last (the layer is the classifier); the three variances with references of the same step and, with
        `_final`, of the last step (weak test variance at the last layer only); in rows of the last layer train_loss,
        test_loss, train_accuracy, test_accuracy of the network itself; normalized_within on train data. NaN where not
        measured.

    Raises:
        InputError: rows of a run are damaged or missing.
    """
    tables = [
        run_curve(runs.folder(job.name, seed), job, seed) for seed in runs.seeds for job in runs.jobs(seed)
    ]
    return pd.concat(tables, ignore_index=True)


def run_curve(folder: RunFolder, job: Job, seed: int) -> pd.DataFrame:
    """Return the rows of one run, as `curve_rows` has them."""
    record, measured = folder.read_run(), folder.read_rows()
    head: _Record = {
        "job": job.name,
        **job.labels,
        "seed": seed,
        "ended": None if record is None else record.ended,
    }
    last = max((row.depth for row in measured), default=0)
    by_place: dict[tuple[int, str], _Record] = {}
    for row in measured:
        place = {"step": row.step, "epoch": row.epoch, "layer": row.layer, "depth": row.depth}
        held = by_place.setdefault((row.step, row.layer), {**head, **place, "is_last": row.depth == last})
        held.update(_values(row))
    for row in folder.read_final_reference():
        if (row.step, row.layer) not in by_place:
            raise InputError(
                f"{folder.path}: rows of step {row.step} are gone from measurements.jsonl; restore that file, or remove "
                "the folder so that it is run again"
            )
        by_place[row.step, row.layer].update(_values(row))
    table = pd.DataFrame(list(by_place.values()), columns=[*head, *_PLACE, *_COLUMNS])
    return fill_at_last_step(table.astype(dict.fromkeys(_COLUMNS, "float64"))).sort_values(["step", "depth"])


def _values(row: Row) -> _Record:
    """Return the columns that a stored row fills."""
    named = {f"{row.split}_{name}" if name in ("loss", "accuracy") else name: name for name in row.metrics}
    return {
        column: row.metrics[name]
        for column, name in named.items()
        if column in _COLUMNS and (column != "normalized_within" or row.split == "train")
    }


def read_rows_csv(path: Path, schema: int, wanted: str = "") -> pd.DataFrame:
    """Read the stored rows of an experiment, in the columns of the present schema.

    Variances of schema 1 are those over references of the last step: they get `_final`, and the plain columns are filled
    at each run's last step, where both references agree. Tables without steps have variances over references of their
    own and stay as they are.

    Args:
        path: of rows.csv.
        schema: of the experiment.json beside it.
        wanted: digest that the file must have; empty where it is not known.

    Raises:
        InputError: the file cannot be read, or is not as it was written.
    """
    try:
        content = read_bytes(path)
        if wanted and digest(content) != wanted:
            raise Damaged
        rows = pd.read_csv(io.BytesIO(content))
    except Damaged as error:
        raise InputError(
            f"{path}: {error}; restore it, or reproduce the experiment again in its folder"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the rows of an experiment ({one_line(error)})") from error
    step = next((name for name in ("step", "pretrain_step") if name in rows), None)
    if schema > 1 or step is None or any(name in rows for name in _FINAL):
        return rows
    keys = ("job", "seed") if "job" in rows else _CHECKPOINTS
    return fill_at_last_step(_renamed(rows), *keys, step=step)


def _renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """Give the variances of schema 1 their names, behind empty columns of plain ones; add what curves of it lack."""
    stored = [name for name in VARIANCES if name in rows]
    first = list(rows).index(stored[0])
    rows = rows.rename(columns={name: final(name) for name in stored})
    names = list(rows)
    more = [name for name in _COLUMNS if name not in (*names, *stored) and "is_last" in names]
    return rows.reindex(columns=[*names[:first], *stored, *names[first:], *more])
