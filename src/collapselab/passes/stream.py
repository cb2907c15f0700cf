"""Input of a pass: the features of one split at every probe point, batch by batch.

Letters: n samples of a batch, p features, k labels of the label space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

# Called with what is being done, samples done, and samples in total (0 where unknown).
ProgressCallback = Callable[[str, int, int], None]

# Called with a source of features, its rows (n, p) in a batch, and their label numbers (n,).
ReceiveRows = Callable[[str, Tensor, Tensor], None]

# Returns the network's decisions for a batch as label numbers (n,), or None where it has none.
Decide = Callable[[], Tensor | None]

# Called after each batch with its label numbers (n,) and a function that returns the network's decisions.
EndBatch = Callable[[Tensor, Decide], None]


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Point:
    """A place where features are measured.

    Attributes:
        name: name in results.
        source: name of the point whose features this one shares; its own name if it shares none.
        dim: p, features per sample.
        channels_first: where a weight reads channels at several positions: whether features are laid out as
            (channels, positions) or as (positions, channels).
        is_classifier: whether the weight that reads the features returns the network's class scores.
    """

    name: str
    source: str
    dim: int
    channels_first: bool
    is_classifier: bool


@runtime_checkable  # the tests check annotations at run time
class FeatureStream(Protocol):
    """Labelled features of one split that can be read several times, in the same order.

    Labels are numbered 0 … k-1 within a label space; some of them may not occur. Where the labels are not known
    beforehand, the space is open: the first pass numbers new labels as they come, and `settle_labels` closes it.
    """

    @property
    def split(self) -> str:
        """`train` or `test`."""
        ...

    @property
    def where(self) -> str:
        """Name of the data in error messages."""
        ...

    @property
    def label_values(self) -> Int[Tensor, " k"]:
        """The user's label for each label number; in ascending order once the space is closed, in the train split."""
        ...

    @property
    def expected_labels(self) -> int | None:
        """Number of labels to make room for while the label space is open; None once it is closed."""
        ...

    @property
    def declared_counts(self) -> Int[Tensor, " k"] | None:
        """Samples of each label as known before the first pass; None where unknown."""
        ...

    @property
    def in_memory(self) -> tuple[Tensor, Tensor] | None:
        """All features (n, p) and label numbers (n,), where they are in memory already."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other processes read other samples of this split."""
        ...

    @property
    def can_be_read_again(self) -> bool:
        """Whether another pass is possible."""
        ...

    def settle_labels(self) -> Int[Tensor, " k"] | None:
        """Close the label space after the first pass, with the labels that occurred in any process.

        Returns:
            The number in the open space of each label of the closed one, -1 where only other processes saw it; None if
            the space was closed already.
        """
        ...

    def read(self, receive: ReceiveRows, end_batch: EndBatch) -> None:
        """Make one pass: call `receive` for every source of features of every batch, then `end_batch`.

        Raises:
            InputError: features or labels that cannot be measured, naming the place.
        """
        ...
