"""Which rows of a split a recipe uses: a function of the labels, the recipe and the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from collapselab.checks import near_matches
from collapselab.data.recipe import Sample
from collapselab.errors import InputError

_Rows = npt.NDArray[np.int64]


def sample_rows(labels: _Rows, sample: Sample, seed: int, where: str) -> _Rows:
    """Row numbers, ascending.

    Samples are taken from one order per seed (of each class, where they are balanced), behind those that are
    skipped: two recipes of one seed, the second of which skips what the first takes, share no sample.

    Args:
        labels: (n,) of the split, as the data set numbers its classes; negative ones are never taken.
        sample: how many, and how.
        seed: of the order.
        where: the data set and split, for messages.

    Raises:
        InputError: more samples than there are.
    """
    usable = np.flatnonzero(labels >= 0)
    if sample.method == "all":
        return usable
    if sample.method == "balanced":
        return _balanced(labels, usable, sample, seed, where)
    assert sample.count is not None, "checked by Sample"
    order = usable if sample.method == "first" else np.random.default_rng(seed).permutation(usable)
    return np.sort(_taken(order, sample.count, sample.skip, where))


def _balanced(labels: _Rows, usable: _Rows, sample: Sample, seed: int, where: str) -> _Rows:
    classes = np.unique(labels[usable])
    number = sample.per_class
    if number is None:
        assert sample.count is not None, "checked by Sample"
        number, left = divmod(sample.count, len(classes))
        if left:
            raise InputError(
                f"{where}: {sample.count} samples cannot be the same number of each of {len(classes)} classes; "
                f"give a multiple of {len(classes)}"
            )
    # `skip` counts samples as `count` does: in all with a count, of each class with a number per class.
    skip, left = (sample.skip, 0) if sample.per_class else divmod(sample.skip, len(classes))
    if left:
        raise InputError(
            f"{where}: skip {sample.skip} is not the same number of each of {len(classes)} classes; give a multiple"
        )
    generator = np.random.default_rng(seed)
    rows = [
        _taken(
            generator.permutation(np.flatnonzero(labels == label)), number, skip, f"{where}, class {label}"
        )
        for label in classes
    ]
    return np.sort(np.concatenate(rows))


def _taken(order: _Rows, number: int, skip: int, where: str) -> _Rows:
    if skip + number > len(order):
        behind = f" behind {skip} skipped ones" if skip else ""
        raise InputError(
            f"{where}: {number} samples wanted{behind}, but there are {len(order)}; ask for fewer"
        )
    return order[skip : skip + number]


def group_labels(
    labels: _Rows,
    groups: Sequence[Sequence[int | str]],
    num_classes: int,
    names: Sequence[str] | None,
    where: str,
) -> _Rows:
    """The number of each sample's group (n,), -1 for classes in none.

    Args:
        labels: (n,) 0 … num_classes - 1.
        groups: each a sequence of classes, by number or by name.
        names: of the classes, if they have any.

    Raises:
        InputError: no such class, a class in two groups, fewer than two groups, an empty one.
    """
    if len(groups) < 2 or not all(groups):
        raise InputError(f"{where}: groups are {len(groups)}, none may be empty; give two or more")
    group_of = np.full(num_classes, -1, dtype=np.int64)
    for number, group in enumerate(groups):
        for one in group:
            label = _label(one, num_classes, names, where)
            if group_of[label] >= 0:
                raise InputError(f"{where}: class {one} is in two groups; leave it in one")
            group_of[label] = number
    return group_of[labels]


def _label(one: int | str, num_classes: int, names: Sequence[str] | None, where: str) -> int:
    if isinstance(one, str):
        if names is None or one not in names:
            raise InputError(f"{where}: no class {one!r}; {near_matches(one, names or ())}")
        return list(names).index(one)
    if not 0 <= one < num_classes:
        raise InputError(f"{where}: no class {one}; there are 0 to {num_classes - 1}")
    return one
