"""The class scores among a model's outputs, and what they decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from collapselab.errors import InputError, one_line
from collapselab.probes.axes import Axes, Shape
from collapselab.probes.batches import Batch
from collapselab.probes.inputs import Path
from collapselab.probes.tensors import UnreadableError, ordinary

# A name or number of an output, a dotted path to one, a function of what the model returns; False for none.
ScoresOption = str | int | Callable[[Any], Tensor] | bool | None


@dataclass(frozen=True)
class Scores:
    """Where a model returns its class scores.

    Attributes:
        path: of the output.
        axes: its axes that belong to the labels.
        rest: shape of the scores of one label: (c,), or (1,) or () for one logit of two classes.
        are_probabilities: whether they went through a softmax or a sigmoid.
        given: the function that returns them, where the caller gave one.
    """

    path: Path
    axes: Axes
    rest: Shape
    are_probabilities: bool = False
    given: Callable[[Any], Tensor] | None = None

    @property
    def is_one_logit(self) -> bool:
        return self.rest in ((), (1,))

    @property
    def num_classes(self) -> int:
        return 2 if self.is_one_logit else self.rest[0]

    def decisions(self, output: Any, batch: Batch) -> Tensor:
        """Return the class with the highest score, for every label that counts.

        Raises:
            InputError: see `rows`.
        """
        return self.decided(self.rows(output, batch))

    def decided(self, rows: Tensor) -> Tensor:
        """Return the class that each row of scores decides for."""
        if self.is_one_logit:  # it decides for class 1 above the score of an even chance
            return (rows.flatten() > (0.5 if self.are_probabilities else 0.0)).long()
        return rows.argmax(-1)

    def rows(self, output: Any, batch: Batch) -> Tensor:
        """Return the scores of every label that counts: (n, c), or (n,) or (n, 1) for one logit.

        Raises:
            InputError: the output is not there, or has another shape than in the first batch.
        """
        found = outputs_of(output, self.given).get(self.path)
        rows = None if found is None else self.axes.rows(found, tuple(batch.labels.shape), self.rest)
        if rows is None or tuple(rows.shape[1:]) != self.rest:
            shape = None if found is None else tuple(found.shape)
            raise InputError(
                f"{batch.place}: the class scores ({describe(self.path)}) have shape {shape} for labels of shape "
                f"{tuple(batch.labels.shape)}, unlike in the first batch; let the model return one row per label"
            )
        return batch.rows_that_count(rows)


def describe(path: Path) -> str:
    """Return the path of an output as users write it."""
    return ".".join(map(str, path)) or "the output"


def outputs_of(output: Any, given: Callable[[Any], Tensor] | None = None) -> dict[Path, Tensor]:
    """Return the tensors that a model returned, by their path.

    Args:
        given: a function that picks one of them.

    Raises:
        InputError: the function raised, or returned something else.
    """
    if given is None:
        return {
            path: tensor for path, tensor in map(_ordinary, tensors_by_path(output)) if tensor is not None
        }
    try:
        found = given(output)
    except Exception as error:
        raise InputError(
            f"scores=: the function raised {type(error).__name__} ({one_line(error)[:100]}) for what the model returned, a "
            f"{type(output).__name__}"
        ) from error
    if not isinstance(found, Tensor):
        raise InputError(f"scores=: the function returned a {type(found).__name__}; let it return a tensor")
    return {(): found}


def _ordinary(item: tuple[Path, Tensor]) -> tuple[Path, Tensor | None]:
    with suppress(UnreadableError):
        return item[0], ordinary(item[1])
    return item[0], None


def tensors_by_path(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors in what a model returned, as they are, each with the keys that lead to it."""
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value)]
    else:
        logits = getattr(value, "logits", None)
        items = [] if logits is None else [("logits", logits)]
    for key, item in items:
        yield from tensors_by_path(item, (*path, key))
