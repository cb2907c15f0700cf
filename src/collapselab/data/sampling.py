"""Selection of the samples a recipe uses: a function of the labels, the recipe and the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from collapselab.data.recipe import Sample
from collapselab.data.stratified import stratified_rows
from collapselab.errors import InputError
from collapselab.names import near_matches

_Rows = npt.NDArray[np.int64]


def sample_rows(labels: _Rows, sample: Sample, seed: int, where: str) -> _Rows:
    """Return the row numbers of the selected samples, ascending.

    Samples are taken from one order per seed (one per class if they are balanced), after those that are skipped: two
    recipes with the same seed share no sample if the second skips as many as the first takes.

    Args:
        labels: (n,) labels of the split; samples with negative labels are never selected.
        sample: how many, and how they are selected.
        seed: seed for the order.
        where: the data set and split, for messages.

    Raises:
        InputError: more samples than the split has.
    """
    usable = np.flatnonzero(labels >= 0)
    if sample.method == "all":
        return usable
    if sample.method == "balanced":
        return _balanced(labels, usable, sample, seed, where)
    assert sample.count is not None, "checked by Sample"
    if sample.method == "stratified":
        _taken(usable, sample.count, 0, where)
        return usable[stratified_rows(labels[usable], sample.count, seed, where)]
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
                f"{where}: {sample.count} samples cannot be divided equally among {len(classes)} classes; "
                f"give a multiple of {len(classes)}"
            )
    # `skip` counts like the number of samples: in total with `count`, of each class with `per_class`.
    skip, left = (sample.skip, 0) if sample.per_class else divmod(sample.skip, len(classes))
    if left:
        raise InputError(
            f"{where}: skip {sample.skip} cannot be divided equally among {len(classes)} classes; give a multiple of {len(classes)}"
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
        after = f" after {skip} skipped ones" if skip else ""
        raise InputError(
            f"{where}: {number} samples requested{after}, but there are {len(order)}; request fewer"
        )
    return order[skip : skip + number]


def group_labels(
    labels: _Rows,
    groups: Sequence[Sequence[int | str]],
    num_classes: int,
    names: Sequence[str] | None,
    where: str,
) -> _Rows:
    """Return the group number of each sample (n,), -1 for classes in no group.

    Args:
        labels: (n,) 0 … num_classes - 1.
        groups: the classes of each group, by number or by name.
        num_classes: number of classes of the data set.
        names: names of the classes, if they have any.
        where: the data set and split, for messages.

    Raises:
        InputError: unknown class, a class in two groups, fewer than two groups, an empty group.
    """
    if len(groups) < 2 or not all(groups):
        raise InputError(f"{where}: there are {len(groups)} groups; give two or more, none of them empty")
    group_of = np.full(num_classes, -1, dtype=np.int64)
    for number, group in enumerate(groups):
        for one in group:
            label = _label(one, num_classes, names, where)
            if group_of[label] >= 0:
                raise InputError(f"{where}: class {one} is in two groups; keep it in one")
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
