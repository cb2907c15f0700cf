"""Find out which axes hold samples and positions: run parts of the first batch, and see what follows.

Letters: n samples of the first batch, m of the part, r labels of one sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from collapselab.errors import InputError
from collapselab.names import near_matches
from collapselab.probes.axes import Seen, same_values
from collapselab.probes.batches import Batch
from collapselab.probes.geometry import Geometry, Record, Run
from collapselab.probes.inputs import Choice, Path, axes_of_length, leaves, take_samples
from collapselab.probes.positions import find_positions

# The axis of samples of all inputs, or of each input by its name or position (None: it holds no samples).
BatchAxis = int | Mapping[Any, int | None] | None

_MAX_RUNS = 6
_MAX_PART = 8


def study(
    run: Run,
    batch: Batch,
    second: Callable[[], Batch | None],
    batch_axis: BatchAxis,
    *,
    checks_order: bool = True,
) -> Geometry:
    """Run a batch and parts of it.

    Args:
        run: runs the model.
        batch: the first batch, of two samples or more where there is one.
        second: returns the batch after it, if there is one.
        batch_axis: see the options.
        checks_order: whether the next batch is used to see whether layers read samples in their order.

    Raises:
        InputError: the model raised on the whole batch; two inputs could hold the samples; two axes of the labels could.
    """
    batch, full = _run_whole(run, batch, batch_axis)
    labels = tuple(batch.labels.shape)
    geometry = Geometry(labels, full)
    if isinstance(batch_axis, int):
        geometry.assumed_axis = batch_axis
    choice = geometry.choice = _find_samples(geometry, run, batch, second, batch_axis)
    if batch_axis is None:
        _check_labels_turned(batch, choice)
    if len(labels) > 1:
        # Two samples do, but for models that take batches of one size.
        index = geometry.index if len(geometry.index) == labels[0] else geometry.index[:2]
        find_positions(geometry, run, _divided(batch, choice, index) if choice else None, choice)
    other = second() if choice and checks_order and geometry.by_values else None
    if other is not None and len(other.labels) > 1:
        geometry.reordered = _reordered(run, other, choice)
    return geometry


def _check_labels_turned(batch: Batch, choice: Choice) -> None:
    """Refuse as many labels per sample as samples where inputs have time first: then labels may have it first, too.

    Raises:
        InputError: with what to do.
    """
    n, *lengths = batch.labels.shape
    turned = any(axis > 0 for axis in choice.values())
    if turned and lengths and lengths[0] == n > 1:
        raise InputError(
            f"{batch.place}: labels of shape {tuple(batch.labels.shape)} may be (samples, tokens) or (tokens, samples), as "
            "the inputs have time first; give batches of another number of samples, or labels as (samples, tokens) and "
            "batch_axis=1"
        )


def _run_whole(run: Run, batch: Batch, batch_axis: BatchAxis) -> tuple[Batch, Record]:
    """Run the first batch; a single sample twice, as models squeeze the axis of one sample away."""
    if len(batch.labels) == 1:
        choice = next(_choices(_given_axes(batch, 1, batch_axis), batch, lambda: None), {})
        twice = _divided(batch, choice, torch.tensor([0, 0]))
        with suppress(InputError):
            return twice, run(twice, (2, twice.labels.numel()))
    return batch, run(batch, (len(batch.labels), batch.labels.numel()))


# ---------------------------------------------------------------- samples


@dataclass(frozen=True)
class _Attempt:
    """How a part of a batch ran: how many outputs that could be class scores did not follow it."""

    choice: Choice
    part: Record
    index: Tensor
    by_values: bool
    num_silent: int


def _find_samples(
    geometry: Geometry, run: Run, batch: Batch, second: Callable[[], Batch | None], batch_axis: BatchAxis
) -> Choice:
    """Find a part of the inputs that gives a part of the outputs; return how the inputs are divided."""
    n = geometry.labels[0]
    axes = _given_axes(batch, n, batch_axis)
    try_all = partial(_attempts, geometry, run, batch, is_given=isinstance(batch_axis, int))
    attempts = try_all(_choices(axes, batch, second), _part_of(n))
    if not attempts and n > 2:
        # A model that needs its samples in order, such as sequences from the longest to the shortest.
        attempts = try_all(_choices(axes, batch, second), _part_of(n).flip(0))
    if not attempts and n > 1:
        # A model that takes batches of one size is given the same samples in another order.
        turned = torch.arange(n - 1, -1, -1).roll(1)
        found = try_all(_choices(axes, batch, lambda: None), turned)
        attempts = [attempt for attempt in found if attempt.by_values]
    if not attempts:
        _from_second(geometry, run, second)
        return {}
    best = _best(attempts, batch_axis)
    geometry.part, geometry.index, geometry.by_values = best.part, best.index, best.by_values
    if not best.by_values and len(attempts) > 1:
        geometry.notes.append(
            "which axis of the inputs holds the samples is assumed, as features depend on the other samples of a batch or "
            "on chance; batch_axis= says it"
        )
    return best.choice


def _attempts(
    geometry: Geometry, run: Run, batch: Batch, choices: Iterator[Choice], index: Tensor, *, is_given: bool
) -> list[_Attempt]:
    """Return what came of each choice that the outputs followed; only the first if it explains everything.

    Where the caller gave the axis of samples of all inputs, the layers follow, and outputs need not: a matrix of all pairs
    of images and texts has samples along both axes.
    """
    choices = itertools.islice(choices, 1) if is_given else choices
    attempts: list[_Attempt] = []
    for number, choice in enumerate(itertools.islice(choices, _MAX_RUNS)):
        attempt = _try(geometry, run, batch, choice, index, is_given=is_given)
        attempts += [] if attempt is None else [attempt]
        if number == 0 and attempt is not None and attempt.by_values and not attempt.num_silent:
            break
    return attempts


def _given_axes(batch: Batch, n: int, batch_axis: BatchAxis) -> dict[Path, list[int]]:
    """Return the axes of each input that could hold samples, the likeliest first."""
    if isinstance(batch_axis, Mapping):
        _check_inputs_named(batch_axis, batch.inputs)
    found: dict[Path, list[int]] = {}
    for path, leaf in leaves(batch.inputs):
        axes = axes_of_length(leaf, n)
        if isinstance(batch_axis, Mapping):
            named = [key for key in batch_axis if key in path or (not path and key == 0)]
            given = batch_axis[named[0]] if named else 0
            axes = [] if given is None else [axis for axis in axes if axis == given] if named else axes
        elif batch_axis is not None and isinstance(leaf, Tensor) and leaf.ndim > batch_axis:
            axes = [axis for axis in axes if axis == batch_axis]
        if axes:
            found[path] = axes
    if batch_axis is not None and not found:
        raise InputError(
            f"batch_axis={batch_axis}: no input has {n} entries there, as many as there are labels"
        )
    return found


def _check_inputs_named(batch_axis: Mapping[Any, int | None], inputs: Any) -> None:
    known = {key for path, _ in leaves(inputs) for key in path or (0,)}
    known |= set(inputs) if isinstance(inputs, Mapping) else set()
    unused = next((key for key in batch_axis if key not in known), None)
    if unused is not None:
        raise InputError(
            f"batch_axis: no input is named {unused!r}; {near_matches(str(unused), map(str, known))}"
        )


def _choices(
    axes: dict[Path, list[int]], batch: Batch, second: Callable[[], Batch | None]
) -> Iterator[Choice]:
    """Yield ways to divide the inputs, the likeliest first."""
    if not axes:
        return
    first = {path: found[0] for path, found in axes.items()}
    yield first
    last = {path: found[-1] for path, found in axes.items()}
    if last != first:
        yield last
    mixed = [path for path, found in axes.items() if len(found) > 1]
    for path in mixed if len(mixed) > 1 else ():  # time-first sequences with a mask that has samples first
        yield {**first, path: last[path]}
    constant = _constant(batch, second) & set(first) if len(axes) > 1 else set[Path]()
    if constant and len(constant) < len(first):
        yield {path: axis for path, axis in first.items() if path not in constant}
        return
    for left_out in axes if len(axes) > 1 else ():
        yield {path: axis for path, axis in first.items() if path != left_out}


def _constant(batch: Batch, second: Callable[[], Batch | None]) -> set[Path]:
    """Return the inputs that are the same in the next batch: they are no samples."""
    other = second()
    if other is None:
        return set()
    values = dict(leaves(other.inputs))
    return {
        path
        for path, leaf in leaves(batch.inputs)
        if isinstance(leaf, Tensor)
        and isinstance(values.get(path), Tensor)
        and torch.equal(leaf, values[path])
    }


def _part_of(n: int) -> Tensor:
    """Return numbers of m != n samples, in another order than in the batch."""
    if n < 3:
        return torch.tensor([n - 1, 0, n - 1][: n + 1])
    m = min(max(2, n // 2), _MAX_PART)
    return n - 1 - torch.arange(m) * (n // m)


def _try(
    geometry: Geometry, run: Run, batch: Batch, choice: Choice, index: Tensor, *, is_given: bool
) -> _Attempt | None:
    r = batch.labels[0].numel()
    lengths = (len(index), len(index) * r)
    try:
        part = run(_divided(batch, choice, index), lengths)
    except InputError:
        return None
    trial = replace(geometry, part=part, index=index, by_values=False)
    return _judged(trial, choice, _evidence(geometry.full, part, of_layers=is_given))


def _evidence(full: Record, part: Record, *, of_layers: bool) -> list[tuple[Seen, Seen | None]]:
    """Return what must follow the samples; without outputs, the layers."""
    telling = () if of_layers else full.telling_outputs
    outputs = [(full.outputs[path], part.outputs.get(path)) for path in telling]
    return outputs or [(seen, part.calls.get(name)) for name, seen in full.calls.items() if seen.picks]


def _judged(trial: Geometry, choice: Choice, seen: list[tuple[Seen, Seen | None]]) -> _Attempt | None:
    following, silent, agreeing = 0, 0, 0
    for full, part in seen:
        folded = trial.fold(full, part) if part is not None else None
        if folded is not None:
            following, agreeing = following + 1, agreeing + (folded[1] != "unknown")
        elif not isinstance(axis := trial.sample_axis(full, part), str):
            following += 1
            agreeing += part is not None and same_values(full.picks[axis][trial.index], part.picks[axis])
        elif part is None or full.shape == part.shape:
            silent += 1
        else:  # two axes follow, as where the number of classes is divided too
            return None
    if not following or trial.part is None:
        return None
    return _Attempt(choice, trial.part, trial.index, agreeing == following, silent)


def _reordered(run: Run, batch: Batch, choice: Choice) -> frozenset[str]:
    """Return the calls that read the samples of a batch in another order than they are given.

    A network may sort its samples, by length for example, and the first batch can happen to be in order.
    """
    index = torch.arange(min(len(batch.labels), _MAX_PART))
    r = batch.labels[0].numel()
    # A batch that is the same from its end tells as much as two; a model that takes one size only is given these.
    for orders in ([torch.cat((index, index.flip(0)))], [index, index.flip(0)]):
        n = len(orders[0])
        with suppress(InputError):
            records = [run(_divided(batch, choice, order), (n, n * r)) for order in orders]
            one, two = records[0].calls, records[-1].calls
            return frozenset(
                name for name, seen in one.items() if name in two and _differs(seen, two[name], n)
            )
    return frozenset()


def _differs(seen: Seen, flipped: Seen, n: int) -> bool:
    """Return whether no axis of what a call reads follows n samples that are given in the opposite order."""
    if seen.shape != flipped.shape or not seen.picks or n < 2:
        return False
    for axis, picks in seen.picks.items():
        r = len(picks) // n
        in_samples = picks.unflatten(0, (n, r)).flip(0).flatten(0, 1)
        in_positions = picks.unflatten(0, (r, n)).flip(1).flatten(0, 1)
        if any(same_values(order, flipped.picks[axis]) for order in (in_samples, in_positions)):
            return False
    return True


def _divided(batch: Batch, choice: Choice, index: Tensor) -> Batch:
    return replace(
        batch,
        inputs=take_samples(batch.inputs, choice, index),
        labels=batch.labels[index.to(batch.labels.device)],
    )


def _best(attempts: list[_Attempt], batch_axis: BatchAxis) -> _Attempt:
    """Return the attempt that explains most.

    Raises:
        InputError: two attempts with different inputs explain as much.
    """

    def rank(attempt: _Attempt) -> tuple[bool, int]:
        return not attempt.by_values, attempt.num_silent

    best = min(attempts, key=rank)
    equal = [one for one in attempts if rank(one) == rank(best)]
    choices = sorted({tuple(one.choice) for one in equal}, key=str)
    if len(choices) > 1 and best.by_values:
        names = [" and ".join(".".join(map(str, path)) for path in choice) for choice in choices]
        # The first of the inputs that one choice has and the other has not.
        other = next(path[0] for path in choices[1] if path not in choices[0])
        raise InputError(
            f"either {names[0]} or {names[1]} could hold the samples; say which with batch_axis=, such as "
            f"batch_axis={{{other!r}: None}}, or batch_axis=0 if all do"
        )
    return best


def _from_second(geometry: Geometry, run: Run, second: Callable[[], Batch | None]) -> None:
    """Compare with the next batch if it has another size; otherwise say what is assumed."""
    other = second()
    if other is not None and len(other.labels) != geometry.labels[0]:
        geometry.part = _renamed(geometry, run(other, ()), len(other.labels))
        geometry.index = torch.zeros(len(other.labels), dtype=torch.int64)
        return
    geometry.notes.append(
        f"axes of samples are assumed, as no other batch than one of {geometry.labels[0]} samples could be tried: axis "
        f"{geometry.assumed_axis} where it has this length; batch_axis= says another"
    )


def _renamed(geometry: Geometry, other: Record, m: int) -> Record:
    """Return a record with all lengths of the first batch but those that went from n to m."""
    n = geometry.labels[0]

    def like(full: Seen | None, seen: Seen) -> Seen:
        if full is None or len(full.shape) != len(seen.shape):
            return seen
        pairs = zip(full.shape, seen.shape, strict=True)
        return Seen(tuple(m if (a, b) == (n, m) else a for a, b in pairs), {})

    calls = {name: like(geometry.full.calls.get(name), seen) for name, seen in other.calls.items()}
    outputs = {path: like(geometry.full.outputs.get(path), seen) for path, seen in other.outputs.items()}
    return Record(calls, outputs)
