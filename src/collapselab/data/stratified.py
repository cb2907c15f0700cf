"""A smaller number of samples with all classes of the data set in it, in their proportions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from collapselab.errors import InputError


def stratified_rows(
    labels: npt.NDArray[np.int64], limit: int, seed: int, where: str
) -> npt.NDArray[np.int64]:
    """Return the row numbers of at most `limit` samples, ascending: classes keep their shares, and none is left out.

    Every class has two samples if the limit allows it (one has no variance within the class), else one. Within a class,
    samples are drawn at random.

    Args:
        labels: (n,).
        limit: largest number of samples.
        seed: of the draw.
        where: the data set and split, for messages.

    Raises:
        InputError: fewer samples than classes.
    """
    if limit >= len(labels):
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    if limit < len(classes):
        raise InputError(
            f"{where}: limit={limit} leaves classes out: there are {len(classes)}; give at least {2 * len(classes)}, two "
            "samples of each"
        )
    generator = np.random.default_rng(seed)
    rows = [
        generator.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes.tolist(), _shares(counts, limit).tolist(), strict=True)
    ]
    return np.sort(np.concatenate(rows))


def _shares(counts: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Return how many samples of each class are taken, by largest remainder; together `limit`."""
    pair = np.minimum(counts, 2)
    least = pair if pair.sum() <= limit else np.ones_like(counts)
    # What a class is due beyond the least that it has. No class gets more than it has samples.
    due = (limit * counts / counts.sum() - least).clip(min=0)
    left = limit - int(least.sum())
    exact = due * (left / due.sum()) if due.sum() > 0 else due
    taken = np.floor(exact).astype(np.int64)
    order = np.argsort(taken - exact, kind="stable")
    taken[order[: left - int(taken.sum())]] += 1
    return least + taken
