"""The result of `rank`: what was scored, how well scores can be trusted, and which model to take."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from collapselab.errors import printable_lines
from collapselab.text import grouped

Number = int | float


@dataclass(frozen=True)
class RankedModel:
    """One model on one data set.

    Attributes:
        model, dataset: names.
        rank: 1 for the model that the leading score predicts to transfer best; models without a value come last.
        num_samples, dim, num_classes: of the features that were scored.
        scores: value of each score by name; None where it is undefined.
        seconds: time of each score by name.
        accuracy: test accuracy of a linear probe; None unless it was measured.
        num_test: samples that it is a share of.
        from_cache: whether features were found in the cache.
    """

    model: str
    dataset: str
    rank: int
    num_samples: int
    dim: int
    num_classes: int
    scores: Mapping[str, Number | None]
    seconds: Mapping[str, Number]
    accuracy: Number | None = None
    num_test: int | None = None
    from_cache: bool = False


@dataclass(frozen=True)
class ScoreTrust:
    """How far a score can be trusted on these models and data, over all data sets.

    Attributes:
        direction: which values predict better transfer.
        stability: rank correlation over models between two halves of the samples; None below three models.
        correlation: rank correlation with the measured accuracy, above 0 where the score predicts it; None where this was
            not measured, or below three models.
        regret: accuracy lost by taking the model that the score prefers instead of the best one; None where not measured.
        seconds: mean time per model.
        caveat: why the score should not be trusted at this number of samples; empty without.
    """

    direction: str
    stability: Number | None
    correlation: Number | None
    regret: Number | None
    seconds: Number
    caveat: str


@dataclass(frozen=True)
class Ranking:
    """Models ordered by predicted transfer.

    Attributes:
        by: the leading score.
        order: models, the best first; over several data sets by the mean of their ranks.
        rows: one per data set and model, in the order of the ranks.
        scores: trust in every score, by name.
        advice: which scores to trust here, in sentences.
        mean_log_odds: of the measured accuracies by model, over data sets; empty where these were not measured.
        warnings: everything unusual.
    """

    by: str
    order: tuple[str, ...]
    rows: tuple[RankedModel, ...]
    scores: Mapping[str, ScoreTrust]
    advice: tuple[str, ...]
    mean_log_odds: Mapping[str, Number]
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The model that is predicted to transfer best."""
        return self.order[0]

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.dataset for row in self.rows))

    @property
    def is_measured(self) -> bool:
        """Whether the accuracy after transfer was measured."""
        return any(row.accuracy is not None for row in self.rows)

    def of(self, dataset: str) -> list[RankedModel]:
        """Return the rows of a data set, best rank first."""
        return [row for row in self.rows if row.dataset == dataset]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, ready for JSON."""
        return {"best": self.best, **asdict(self)}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per data set and model: rank, sizes, accuracy (NaN unless measured) and every score."""
        rows = [
            {
                "dataset": row.dataset,
                "model": row.model,
                "rank": row.rank,
                "num_samples": row.num_samples,
                "dim": row.dim,
                "accuracy": row.accuracy,
                **row.scores,
            }
            for row in self.rows
        ]
        frame = pd.DataFrame(rows)
        numbers = ["accuracy", *self.scores]
        return frame.astype(dict.fromkeys(numbers, "float64"))

    def trust_frame(self) -> pd.DataFrame:
        """Return one row per score: direction, stability, correlation, regret, seconds, caveat."""
        return pd.DataFrame([{"score": name, **asdict(trust)} for name, trust in self.scores.items()])

    def _repr_html_(self) -> str:
        """Return tables for notebooks; every string is escaped."""
        tables = [
            frame.to_html(float_format=lambda value: f"{value:.4g}", na_rep="–", escape=True, index=False)
            for frame in (self.to_frame(), self.trust_frame())
        ]
        notes = "".join(f"<li>{html.escape(text)}</li>" for text in (*self.advice, *grouped(self.warnings)))
        return printable_lines("".join(tables) + (f"<ul>{notes}</ul>" if notes else ""))
