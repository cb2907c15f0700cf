"""Claims of footnote 2: where train variance stays, and what dropout does to it."""

from __future__ import annotations

import pandas as pd

from collapselab.claims import Verdict
from collapselab.evidence import all_hold, inconclusive, over_seeds
from collapselab.papers.hui2022.definitions import VANISHED
from collapselab.papers.hui2022.endings import (
    BySeed,
    claim,
    decades,
    final,
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
        for seed in seeds_of(rows):
            run = where(group, "seed", seed)
            without, with_ = (where(run, "dropout", share) for share in (shares[0], shares[-1]))
            both = set(numbers(without, "step")) & set(numbers(with_, "step"))
            effects[seed] = None
            if both:
                step = max(both)
                compared[f"seed {seed}"] = int(step)
                effects[seed] = decades(
                    *(final(where(one, "step", step), "train_variance") for one in (without, with_))
                )
        meaning = f"decades that train variance at the end is lower with dropout {shares[-1]:g} than with {shares[0]:g}"
        verdicts[f"{dataset}, {model}"] = over_seeds(effects, 0.0, meaning, **{"at step": compared})
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
        "lower with dropout].",
        _dropout_is_faster,
    ),
)
