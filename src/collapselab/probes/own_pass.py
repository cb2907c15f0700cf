"""Read a user's loaders while a training loop may be in the middle of them, and leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from collapselab.probes.snapshot import Snapshot

# Orders and small data sets; larger tensors and arrays are read, not written.
_MOST_BYTES = 2**24
_MOST_WRAPPERS = 4


@contextmanager
def own_passes(*loaders: Any) -> Iterator[list[Any]]:
    """Yield loaders to read instead of `loaders`, whose state is restored on exit.

    A `DataLoader`, also within a wrapper, is copied: with persistent workers a second iterator would end the first. Data
    sets, samplers, collate functions and transforms are shared with the copy, and what reading changes in them is
    restored as far as `Snapshot` finds it. An iterator is read itself.
    """
    used = [
        loader for loader in loaders if loader is not None and not isinstance(loader, Iterator | list | tuple)
    ]
    state = Snapshot([root for loader in used for root in _roots(loader)], _MOST_BYTES)
    try:
        yield [_separate(loader) for loader in loaders]
    finally:
        state.restore()


def _roots(loader: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a loader that tend to have a state first, while there is room for copies."""
    for name in ("generator", "sampler", "batch_sampler", "loader", "dataset"):
        yield name, getattr(loader, name, None)
    yield "loader", loader


def _separate(loader: Any, depth: int = 0) -> Any:
    """Return a copy of a loader that has its own iterator; other objects are returned unchanged."""
    own = getattr(loader, "__dict__", None)
    if not isinstance(own, dict) or isinstance(loader, Iterator) or depth > _MOST_WRAPPERS:
        return loader
    changes: dict[str, Any] = {}
    if _is_data_loader(loader):
        changes = {"_iterator": None, "persistent_workers": False}
    elif not hasattr(loader, "__iter__"):
        return loader
    for name, value in own.items():
        separate = value if name in ("dataset", "sampler", "batch_sampler") else _separate(value, depth + 1)
        if separate is not value:
            changes[name] = separate
    if not changes:
        return loader
    copied = object.__new__(type(loader))
    copied.__dict__.update(own | changes)
    return copied


def _is_data_loader(loader: Any) -> bool:
    """Whether this is a `DataLoader` of torch, or of another library with the same attributes."""
    return {"_iterator", "dataset", "batch_sampler"} <= getattr(loader, "__dict__", {}).keys()
