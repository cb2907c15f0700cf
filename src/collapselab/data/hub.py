"""Data sets of the Hugging Face hub: downloaded once into the cache of `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from collapselab.data.names import copies_hint
from collapselab.data.table import DatasetDict, TableStore, quiet_libraries
from collapselab.errors import InputError, one_line

_PATIENCE_SECONDS = 5


class _Unreachable(Exception):
    """Neither the hub nor an earlier download is there; the message says why the hub is unavailable."""


class HubStore(TableStore):
    """A repository of the Hugging Face hub, downloaded when it is first read.

    Args:
        hub_id: `owner/name`.
        config: which of its configurations, if it has several.
        name: short name that the data set was asked for by, for messages.
    """

    def __init__(self, hub_id: str, config: str | None = None, name: str | None = None) -> None:
        self._hub_id, self._config, self._name = hub_id, config, name
        self._where = hub_id if config is None else f"{hub_id}:{config}"

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        """The caches that hold downloaded images."""
        from datasets import config
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE)

    @cached_property
    def _tables(self) -> DatasetDict:
        """All splits.

        Raises:
            InputError: no such repository, or one that needs a login; the hub cannot be reached.
            ImportError: an extra that is not installed.
        """
        return _opened(self._hub_id, self._config, self._name)


def _opened(hub_id: str, config: str | None, name: str | None) -> DatasetDict:
    """Return all splits, from the hub or from an earlier download; any failure is reported in one line."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("reading from the hub needs datasets: pip install 'collapselab[data]'") from error
    try:
        return _loaded(datasets.load_dataset, hub_id, config)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(_refusal(error, hub_id, config, name)) from error


def _refusal(error: Exception, hub_id: str, config: str | None, name: str | None) -> str:
    from datasets.exceptions import DatasetNotFoundError

    where = hub_id if config is None else f"{hub_id}:{config}"
    reason = one_line(error) or type(error).__name__
    if name is None:
        start, by_copy = f"{where}: no such file or folder, and", "check the path or the name"
    else:
        start = f"{name}: no local copy, and"
        by_copy = f"give {copies_hint(name, 'PATH')}"
    if isinstance(error, _Unreachable):
        return (
            f"{start} the hub cannot be reached ({reason}); {by_copy}, or connect to the network to download it "
            "once"
        )
    if isinstance(error, DatasetNotFoundError):
        return f"{start} the hub refuses {where} ({reason}); {by_copy}, or log in with access to it"
    return f"{start} reading {where} from the hub failed ({type(error).__name__}: {reason}); {by_copy}"


@lru_cache(maxsize=16)
def _loaded(load: Callable[..., Any], hub_id: str, config: str | None) -> DatasetDict:
    """Return the data set, mapped from disk; each is asked for once per process. `load` is datasets.load_dataset."""
    unreachable = _unreachable()
    with quiet_libraries(), _offline(unreachable is not None):
        try:
            return load(hub_id, config)
        except Exception as error:
            if unreachable or isinstance(error, ConnectionError):
                raise _Unreachable(unreachable or str(error)) from error
            raise


def _unreachable() -> str | None:
    """Return why the hub cannot be reached, None where it answers. Asked once: `datasets` retries for half a minute."""
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
    """While open, use only earlier downloads."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
