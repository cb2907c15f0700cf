"""Data sets of the Hugging Face hub: downloaded once, and kept where `datasets` keeps them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collapselab.data.names import COPIES_VARIABLE
from collapselab.data.parquet import cell_image, find_columns, ordered_splits
from collapselab.data.stored import ImageSource, StoredSplit, checked_labels
from collapselab.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

_PATIENCE_SECONDS = 5
_ROWS_AT_ONCE = 2**8

_Dataset = Any  # of datasets: a table with typed columns
_DatasetDict = Any  # of datasets: a dictionary of them, by split


class _Unreachable(Exception):
    """Neither the hub nor an earlier download: the message is why the hub is not."""


def hub_splits(hub_id: str, config: str | None = None, name: str | None = None) -> tuple[str, ...]:
    """The splits of a repository, train and test first.

    Args:
        hub_id: `owner/name`.
        config: which of its configurations, if it has several.
        name: short name that the data set was asked for by, for messages.

    Raises:
        InputError: no such repository, or one that needs a login; the hub cannot be reached.
        ImportError: an extra that is not installed.
    """
    return ordered_splits(_opened(hub_id, config, name))


def read_hub(hub_id: str, config: str | None, split: str, name: str | None = None) -> StoredSplit:
    """One split of `hub_splits`.

    Raises:
        InputError: as `hub_splits` and `split_of`.
        ImportError: an extra that is not installed.
    """
    where = hub_id if config is None else f"{hub_id}:{config}"
    return split_of(_opened(hub_id, config, name), split, where)


def split_of(splits: _DatasetDict, split: str, where: str) -> StoredSplit:
    """One split of a data set that is open. Columns are found by their types; no image is decoded yet.

    Raises:
        InputError: no such split; columns that are missing or ambiguous, wrong labels.
    """
    if split not in splits:
        raise InputError(f"{where}: no split {split!r}; it has {', '.join(ordered_splits(splits))}")
    image, label, names = find_columns(splits[split].features, where)
    labels = {
        other: _labels(splits[other], label, names, f"{where} ({other}), {label}")
        for other in (splits if names is None else (split,))
    }
    values = np.unique(np.concatenate(list(labels.values())))
    return StoredSplit(labels[split], names, values, _TableImages(splits[split], image, f"{where} ({split})"))


def _labels(data: _Dataset, column: str, names: tuple[str, ...] | None, where: str) -> npt.NDArray[np.int64]:
    stored = data.select_columns([column]).with_format("arrow")[:].column(column)
    return checked_labels(stored.to_numpy(), where, names)


class _TableImages(ImageSource):
    def __init__(self, data: _Dataset, column: str, where: str) -> None:
        import datasets

        self._data = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column, self._where = column, where

    def images(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, Image]]:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            wanted = rows[first : first + _ROWS_AT_ONCE].tolist()
            for row, cell in zip(wanted, self._data[wanted][self._column], strict=True):
                where = f"{self._where}, row {row}"
                yield where, cell_image(_with_bytes(cell, where), where)


def _with_bytes(cell: dict[str, Any] | None, where: str) -> dict[str, Any] | None:
    """Images that were downloaded as files are named in their cells."""
    if cell is None or cell["bytes"] is not None or cell["path"] is None:
        return cell
    try:
        return {"bytes": Path(cell["path"]).read_bytes()}
    except OSError as error:
        raise InputError(f"{where}: {cell['path']} cannot be read ({error.strerror}); check it") from error


def _opened(hub_id: str, config: str | None, name: str | None) -> _DatasetDict:
    """All splits, from the hub or from an earlier download; one line on whatever goes wrong."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("reading from the hub needs datasets: pip install 'collapselab[papers]'") from error
    try:
        return _loaded(datasets.load_dataset, hub_id, config)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(_refusal(error, hub_id, config, name)) from error


def _refusal(error: Exception, hub_id: str, config: str | None, name: str | None) -> str:
    from datasets.exceptions import DatasetNotFoundError

    where = hub_id if config is None else f"{hub_id}:{config}"
    reason = one_line(error)[:300] or type(error).__name__
    if name is None:
        start, by_copy = f"{where}: no such file or folder, and", "check the path or the name"
    else:
        start = f"{name}: no local copy, and"
        by_copy = f"set {COPIES_VARIABLE}={name}=PATH (reproduce also takes --data {name}=PATH)"
    if isinstance(error, _Unreachable):
        return (
            f"{start} the hub cannot be reached ({reason}); {by_copy}, or connect to the network so that it is "
            "downloaded once"
        )
    if isinstance(error, DatasetNotFoundError):
        return f"{start} the hub does not give {where} ({reason}); {by_copy}, or log in with access to it"
    return f"{start} reading {where} from the hub failed ({type(error).__name__}: {reason}); {by_copy}"


@lru_cache(maxsize=16)
def _loaded(load: Callable[..., Any], hub_id: str, config: str | None) -> _DatasetDict:
    """The data set, mapped from disk: asked for once per process. `load` is datasets.load_dataset."""
    unreachable = _unreachable()
    with _quiet(), _offline(unreachable is not None):
        try:
            return load(hub_id, config)
        except Exception as error:
            if unreachable or isinstance(error, ConnectionError):
                raise _Unreachable(unreachable or str(error)) from error
            raise


def _unreachable() -> str | None:
    """Why the hub cannot be reached, None where it answers. Asked once: `datasets` tries for half a minute."""
    from datasets import config
    from huggingface_hub.utils import get_session

    if config.HF_HUB_OFFLINE:
        return "offline mode is on"
    # The client of the hub library knows proxies and certificates.
    try:
        get_session().head(config.HF_ENDPOINT, timeout=_PATIENCE_SECONDS)
    except Exception as error:
        return str(error) or type(error).__name__
    return None


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Only what was downloaded before is looked at."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of the libraries; their progress bars only where someone looks at them."""
    import datasets
    import huggingface_hub.utils as hub

    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for log in (datasets.logging, hub.logging):
            undo.callback(log.set_verbosity, log.get_verbosity())
            log.set_verbosity(logging.CRITICAL)
        if not sys.stderr.isatty():
            for bars in (datasets.utils, hub):
                if not bars.are_progress_bars_disabled():
                    undo.callback(bars.enable_progress_bars)
                    bars.disable_progress_bars()
        yield
