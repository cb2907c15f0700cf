"""How runs end: what claims about curves have in common. A run that a claim needs and the table lacks is a missing effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from collapselab.experiments.claims.claim import Claim, Outcome, Verdict
from collapselab.experiments.claims.evidence import all_hold
from collapselab.papers.hui2022.common import PAPER
from collapselab.papers.hui2022.curve import Curve
from collapselab.papers.hui2022.definitions import TRAIN_COLLAPSE
from collapselab.papers.hui2022.grouping import groups, last_layer, numbers, where

# Of a variance over its spread, less than this is rounding; a variance of exactly 0 has a logarithm with it.
ROUNDING = 1e-16

BySeed = Mapping[int, pd.DataFrame]


def claim(id: str, where: str, statement: str, judge: Callable[[pd.DataFrame], Verdict]) -> Claim:
    return Claim(id, PAPER, where, statement, judge)


def seeds_of(rows: pd.DataFrame) -> list[int]:
    return sorted({int(seed) for seed in numbers(rows, "seed")})


def runs_of(rows: pd.DataFrame, seeds: list[int]) -> dict[str, dict[int, pd.DataFrame]]:
    """The last layer's curve of every job by seed, in order of steps; without rows where the seed was not run."""
    return {
        str(job): {seed: where(runs, "seed", seed) for seed in seeds}
        for job, runs in groups(last_layer(rows), "job")
    }


def final(run: pd.DataFrame, name: str) -> float | None:
    """The last value of a column; None where there is none, or no number."""
    value = float(run[name].iloc[-1]) if len(run) else math.nan
    return value if math.isfinite(value) else None


def decades(above: float | None, below: float | None) -> float | None:
    """Log10 of a ratio of variances, of which 0 is taken for `ROUNDING`; None where one has no value."""
    if above is None or below is None or above < 0 or below < 0:
        return None
    return math.log10(max(above, ROUNDING) / max(below, ROUNDING))


def still_falling(run: pd.DataFrame, name: str) -> bool | None:
    """Whether the curve still falls at its end, as the definitions have it; None with too few steps to say."""
    values = run[name].to_numpy(dtype=np.float64)
    if not len(values) or np.isinf(values).any() or (values < 0).any():
        return None
    # The rule is the same for every metric.
    return TRAIN_COLLAPSE.judge(Curve(run["step"].to_numpy(dtype=np.int64), values)).still_falling


def unless_falling(verdict: Verdict, runs: BySeed, name: str, outcome: Outcome) -> Verdict:
    """`outcome` needs curves that have stopped falling: where one still falls, the end says not where it goes.

    Args:
        outcome: the one that says the curve stays above. A claim that it vanishes fails, its opposite holds: neither is
            said of a curve that still falls, or that was measured too seldom to tell, so that two claims never disagree
            about one curve.
    """
    falling = {seed: still_falling(run, name) for seed, run in runs.items()}
    words = name.replace("_", " ")
    evidence = verdict.evidence | {
        f"{words} still falling": {f"seed {seed}": value for seed, value in falling.items()}
    }
    if verdict.outcome == outcome and any(value is not False for value in falling.values()):
        reason = f"{words} has not vanished, but is still falling"
        if not any(falling.values()):
            reason = f"too few steps were measured to say whether {words} is still falling"
        return Verdict("inconclusive", {"reason": reason} | evidence)
    return Verdict(verdict.outcome, evidence)


def per_job(
    rows: pd.DataFrame, judge: Callable[[BySeed], Verdict], seeds: list[int] | None = None
) -> Verdict:
    """A claim about every job, over those networks that fit their train set: the paper trains all to zero error.

    Args:
        rows: of the jobs.
        judge: of the runs of one job.
        seeds: default those of `rows`; a job that lacks one is inconclusive.
    """
    by_job = runs_of(rows, seeds_of(rows) if seeds is None else seeds)
    return all_hold({job: only_if_fitted(runs, judge(runs)) for job, runs in by_job.items()})


def only_if_fitted(runs: BySeed, verdict: Verdict) -> Verdict:
    """The verdict, or inconclusive where a run has train errors in the end or its train accuracy is not known."""
    accuracy = {f"seed {seed}": final(run, "train_accuracy") for seed, run in runs.items()}
    if all(value == 1 for value in accuracy.values()):
        return verdict
    reason = "the train error is not zero at the end, which the paper's is"
    if not any(value is not None and value < 1 for value in accuracy.values()):
        reason = "runs, or their train accuracy at the end, are missing"
    return Verdict("inconclusive", verdict.evidence | {"reason": reason, "train accuracy": accuracy})
