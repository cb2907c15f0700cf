"""A judged claim as stored: one entry of verdicts.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from collapselab.inference import MIN_SEEDS, student_interval, t_test
from collapselab.records.stored import SCHEMA, Stored

Verdict = Literal["holds", "fails", "inconclusive"]
Kind = Literal["finding", "identity"]


class Reading(Stored):
    """The number a reader looks at, in its own unit, and what the claim asks of it.

    Attributes:
        what: name of the quantity: `train variance at the end`.
        by_seed: its value per seed; void seeds may have one too.
        must: what it must be: `be below 0.1`; empty where it is only shown.
        met: seeds, not void, in which it is what it must be.
        unit: `%`, or empty.
    """

    what: str
    by_seed: dict[int, float]
    must: str = ""
    met: list[int] = Field(default_factory=list)
    unit: str = ""


class Effect(Stored):
    """What is tested: one number per seed, larger where the claim is more true.

    Attributes:
        means: what the number is, in words.
        unit: `decades`, `difference`, `Fisher z`, `steps` …
        threshold: value that it must exceed.
        mean, low, high: over seeds, with the two-sided 95 % Student interval of the mean; None where undefined.
        by_seed: by seed; void seeds have none.
    """

    means: str
    unit: str
    threshold: float
    mean: float | None
    low: float | None
    high: float | None
    by_seed: dict[int, float]

    @classmethod
    def over_seeds(cls, by_seed: dict[int, float], **own: Any) -> Effect:
        """Return the effect with its mean and interval."""
        values = list(by_seed.values())
        mean, low, high = values[0] if values else None, None, None
        if len(values) > 1:
            mean, low, high = map(float, student_interval(values))
        return cls(mean=mean, low=low, high=high, by_seed=by_seed, **own)

    @property
    def verdict(self) -> Verdict:
        """Where the interval lies: above the threshold, below it, or around it; with few seeds none decides."""
        if len(self.by_seed) < MIN_SEEDS or self.low is None or self.high is None:
            return "inconclusive"
        if self.low > self.threshold:
            return "holds"
        return "fails" if self.high < self.threshold else "inconclusive"

    @property
    def p(self) -> float | None:
        """The two-sided p-value of the mean against the threshold; None with fewer than two seeds."""
        return t_test(list(self.by_seed.values()), self.threshold)


class Sensitivity(Stored):
    """The verdict at another threshold.

    Attributes:
        what: what it is a threshold of, in the unit of the reading: `train variance at the end below`.
        threshold: its value.
        verdict: with it.
    """

    what: str = ""
    threshold: float
    verdict: Verdict


class SettingJudgement(Stored):
    """A claim judged in one setting: one data set and network, one layer …

    Attributes:
        setting: its name; empty where a claim has only one.
        verdict: by the rule of `collapselab.experiments.claims`.
        readings: the numbers that the effect is made of.
        effect: None for identities.
        agreement: `2 of 3`: seeds whose effect exceeds the threshold, or that an identity holds in; `2 of 3 settings`: where
            there are several.
        void: seeds without an effect, each with the reason.
        p: two-sided p-value of the t-test of the effects against the threshold; None where undefined.
        p_holm: the same, corrected over the claims of the experiment, or over the settings of a claim.
        sensitivity: verdicts at other thresholds.
        is_asked: whether the claim says anything about this setting; of a whole claim, whether any run tests it.
        notes: everything else a reader must know.
    """

    setting: str = ""
    verdict: Verdict
    readings: list[Reading] = Field(default_factory=list)
    effect: Effect | None = None
    agreement: str = ""
    void: dict[int, str] = Field(default_factory=dict)
    p: float | None = None
    p_holm: float | None = None
    sensitivity: list[Sensitivity] = Field(default_factory=list)
    is_asked: bool = True
    notes: list[str] = Field(default_factory=list)


class Judgement(SettingJudgement):
    """A judged claim.

    Attributes:
        id: short and stable.
        paper: where the sentence comes from.
        where: section or figure.
        statement: the sentence; it stands alone.
        criterion: the rule in numbers.
        kind: `finding`, or `identity`: what cannot come out otherwise unless code is wrong.
        settings: one judgement per setting, where there are several.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    id: str
    paper: str
    where: str
    statement: str
    criterion: str = ""
    kind: Kind = "finding"
    settings: list[SettingJudgement] = Field(default_factory=list)
