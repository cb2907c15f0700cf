"""Claims of footnote 2: where train variance stays, and what dropout does to it."""

from __future__ import annotations

import pandas as pd

from collapselab.experiments.claims.claim import Verdict
from collapselab.experiments.claims.evidence import all_hold, inconclusive, over_seeds
from collapselab.papers.hui2022.definitions import VANISHED
from collapselab.papers.hui2022.endings import (
    BySeed,
    claim,
    decades,
    final,
    only_if_fitted,
    per_job,
    seeds_of,
    unless_falling,
)
from collapselab.papers.hui2022.grouping import groups, last_layer, numbers, where


def _vgg_stays(rows: pd.DataFrame) -> Verdict:
    vgg = pd.DataFrame(rows[["vgg" in str(model) for model in rows["model"]]])
    if vgg.empty:
        return inconclusive("no VGG among the runs")

    def judge(runs: BySeed) -> Verdict:
        effects = {seed: decades(final(run, "train_variance"), VANISHED) for seed, run in runs.items()}
        meaning = f"decades by which train variance is above {VANISHED:g}"
        return unless_falling(over_seeds(effects, 0.0, meaning), runs, "train_variance", "holds")

    return per_job(vgg, judge, seeds_of(rows))


def _dropout_is_faster(rows: pd.DataFrame) -> Verdict:
    verdicts = {}
    for (dataset, model), group in groups(last_layer(rows), "dataset", "model"):
        shares = sorted(set(numbers(group, "dropout")))
        if len(shares) < 2:
            continue
        effects: dict[int, float | None] = {}
        compared: dict[str, int] = {}
        ends: dict[float, dict[int, pd.DataFrame]] = {shares[0]: {}, shares[-1]: {}}
        for seed in seeds_of(rows):
            run = where(group, "seed", seed)
            by_share = {share: where(run, "dropout", share) for share in ends}
            steps = set.intersection(*(set(numbers(one, "step")) for one in by_share.values()))
            step = max(steps, default=-1.0)
            for share, one in by_share.items():
                ends[share][seed] = where(one, "step", step)
            effects[seed] = decades(*(final(end[seed], "train_variance") for end in ends.values()))
            if steps:
                compared[f"seed {seed}"] = int(step)
        meaning = f"decades that train variance at the end is lower with dropout {shares[-1]:g} than with {shares[0]:g}"
        verdict = over_seeds(effects, 0.0, meaning, **{"at step": compared})
        for runs in ends.values():
            verdict = only_if_fitted(runs, verdict)
        verdicts[f"{dataset}, {model}"] = verdict
    return (
        all_hold(verdicts) if verdicts else inconclusive("no network with and without dropout among the runs")
    )


FOOTNOTE2 = (
    claim(
        "vgg-does-not-vanish",
        "Footnote 2",
        f"With VGG architectures train variance does not collapse to a negligible value [above {VANISHED:g} at the end and "
        "no longer falling, at zero train error].",
        _vgg_stays,
    ),
    claim(
        "dropout-accelerates",
        "Footnote 2",
        "Adding stochasticity, such as dropout, often accelerates collapse [train variance after the same number of steps is "
        "lower with dropout, at zero train error].",
        _dropout_is_faster,
    ),
)
