"""rows.csv: the rows of an experiment as stored."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from collapselab.digests import Damaged, digest
from collapselab.errors import InputError, one_line
from collapselab.records.rows import VARIANCES, fill_at_last_step, final
from collapselab.storage import read_bytes

FITTED = 0.999  # train accuracy from which a network counts as trained to zero error
_FINAL = tuple(map(final, VARIANCES))
# Of the network itself, by split: in rows of the last layer.
_NETWORK = tuple(f"{split}_{name}" for name in ("loss", "accuracy") for split in ("train", "test"))
CURVE_COLUMNS = (*VARIANCES, *_FINAL, *_NETWORK, "normalized_within")
# What tells one run from another where the table has no jobs.
_CHECKPOINTS = ("dataset", "model", "seed")


def read_rows_csv(path: Path, schema: int, wanted: str = "", ended: Collection[str] = ()) -> pd.DataFrame:
    """Read the stored rows of an experiment, in the columns of the present schema.

    Variances of schema 1 are those over references of the last step: they get `_final`, and the plain columns are filled
    at each run's last step, where both references agree. Tables without steps have variances over references of their
    own and stay as they are.

    Args:
        path: of rows.csv.
        schema: of the experiment.json beside it.
        wanted: digest that the file must have; empty where it is not known.
        ended: why runs ended; where there is one reason and rows do not say it, they get a column.

    Raises:
        InputError: the file cannot be read, or is not as it was written.
    """
    try:
        content = read_bytes(path)
        if wanted and digest(content) != wanted:
            raise Damaged
        rows = _with_ending(pd.read_csv(io.BytesIO(content)), ended)
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


def _with_ending(rows: pd.DataFrame, ended: Collection[str]) -> pd.DataFrame:
    if "ended" not in rows and "job" in rows and len(ended) == 1:
        rows.insert(list(rows).index("seed") + 1, "ended", next(iter(ended)))
    return rows


def _renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """Give the variances of schema 1 their names, behind empty columns of plain ones; add what curves of it lack."""
    stored = [name for name in VARIANCES if name in rows]
    first = list(rows).index(stored[0])
    rows = rows.rename(columns={name: final(name) for name in stored})
    names = list(rows)
    more = [name for name in CURVE_COLUMNS if name not in (*names, *stored) and "is_last" in names]
    return rows.reindex(columns=[*names[:first], *stored, *names[first:], *more])
