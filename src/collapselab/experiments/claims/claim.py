"""A claim: a sentence of a paper, the numbers that decide it, and the runs that it is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from collapselab.curves import ROUNDING
from collapselab.frames import last_layer
from collapselab.records.judgement import Kind
from collapselab.records.rows_csv import FITTED
from collapselab.text import number

_EXACT = 1e-6  # tolerances up to this are not mentioned in texts
Scale = Literal["ratio", "change", "difference", "correlation"]
# Unit of the effect, and how the effect is computed from a number.
SCALES: Mapping[Scale, tuple[str, str]] = {
    "ratio": ("decades", "log10 of "),
    "change": ("decades", "log10 of 1 + "),
    "difference": ("difference", ""),
    "correlation": ("Fisher z", "Fisher's z of "),
}


class Void(Exception):
    """Raised if a seed has no effect; the message is the reason."""


class NotAsked(Void):
    """Raised if the claim says nothing about a seed; a setting without any other seed does not count."""


@dataclass(frozen=True)
class Number:
    """One number of one seed, and its criterion.

    Attributes:
        what: name, including where and when it was measured: `train variance at the end`.
        value: the number; a change is in percent; NaN if undefined.
        above: bound that it must exceed.
        below: bound that it must stay below.
        near: value that it must have, and the tolerance. Without any bound the number is only shown.
        scale: how to compare it with its bound: as logarithms for ratios and changes, as Fisher's z for correlations, else
            as a difference.
        clip: correlations are clipped to plus or minus this value.
        remark: note about this seed; equal remarks are counted.
        why: reason for an undefined value, as a clause; empty if unknown.
    """

    what: str
    value: float
    above: float | None = None
    below: float | None = None
    near: tuple[float, float] | None = None
    scale: Scale = "ratio"
    clip: float = 1.0
    remark: str = ""
    why: str = ""

    @property
    def unit(self) -> str:
        return "%" if self.scale == "change" else ""

    @property
    def must(self) -> str:
        """The criterion in words: `be below 0.1`; empty if there is none."""
        if self.near is not None:
            wanted, tolerance = self.near
            return f"be {f'within {number(tolerance, 4)} of ' if tolerance > _EXACT else ''}{number(wanted)}"
        side, bound = ("below", self.below) if self.above is None else ("above", self.above)
        if bound is None:
            return ""
        how = " (half a decade)" if self.scale == "ratio" and bound == 10**0.5 else ""
        return f"be {side} {number(bound, 3 if how else 4)}{self.unit}{how}"

    @property
    def score(self) -> float:
        """The value on its scale; a larger score supports the claim more."""
        return -abs(self.value - self.near[0]) if self.near else self._scaled(self.value)

    @property
    def bar(self) -> float:
        """The value that the score must exceed."""
        return -self.near[1] if self.near else self._scaled(self.below if self.above is None else self.above)

    @property
    def undefined(self) -> str:
        """Clause that says what is undefined, and why."""
        return f"{self.what} is undefined{self.why and f', because {self.why}'}"

    @property
    def is_met(self) -> bool:
        return bool(self.score > self.bar)

    def _scaled(self, value: float | None) -> float:
        if value is None or not math.isfinite(value) or (self.scale == "ratio" and value < 0):
            return math.nan
        if self.scale == "correlation":
            value = math.atanh(max(-self.clip, min(self.clip, value)))
        elif self.scale != "difference":
            value = math.log10(max(value if self.scale == "ratio" else 1 + value / 100, ROUNDING))
        return 0.0 + (-value if self.above is None else value)  # the sum is never -0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that is understandable on its own, and how it is judged.

    Attributes:
        id: short and stable.
        statement: the sentence.
        numbers: computes the numbers of one seed in one setting from its rows and a threshold; all seeds have the same
            numbers; may raise `Void`. The score of a number with a bound is an effect.
        thresholds: the threshold of the verdict, then those of the sensitivity list.
        kind: `finding`; or `identity`, which can only be false if code is wrong.
        where: section or figure.
        per: columns that define settings. The claim must hold in each setting.
        runs: column that identifies the runs of a setting; a seed is void if one of them is missing.
        only: restricts the claim to rows whose columns match these glob patterns.
        rows: selects the rows of a seed that `numbers` reads; default: those of the last layer.
        fitted: train accuracy below which a run is void; None if networks are not trained to zero error.
        anywhere: whether one setting is enough for the claim to hold; it then fails only if it fails in every setting.
        notes: notes for the reader, such as a criterion that changed after results had been seen.
    """

    id: str
    statement: str
    numbers: Callable[[pd.DataFrame, float], Sequence[Number]]
    thresholds: Sequence[float] = (0.0,)
    kind: Kind = "finding"
    where: str = ""
    per: Sequence[str] = ("job",)
    runs: str = "job"
    only: Mapping[str, str] | None = None
    rows: Callable[[pd.DataFrame], pd.DataFrame] = last_layer
    fitted: float | None = FITTED
    anywhere: bool = False
    notes: Sequence[str] = ()
