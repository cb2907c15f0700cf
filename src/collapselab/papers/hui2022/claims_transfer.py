"""Claims of sec. 4 about transfer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from collapselab.experiments.claims.claim import Claim, Verdict
from collapselab.experiments.claims.evidence import all_hold, correlated, inconclusive, over_seeds
from collapselab.papers.hui2022.common import PAPER
from collapselab.papers.hui2022.grouping import groups, least, numbers, only, where

_Point = dict[str, float]


def _best(rows: pd.DataFrame) -> dict[str, dict[int, dict[int, _Point]]]:
    """By data set, seed and checkpoint: its train variance and the best accuracy over learning rates.

    Every checkpoint is asked of every seed; what the rows lack is NaN. Runs that diverged have no accuracy and are not the
    best: the paper's best is one of those that can be measured.
    """
    out: dict[str, dict[int, dict[int, _Point]]] = {}
    transfer = pd.DataFrame(rows[rows["kind"].isin(["fine_tuning", "linear_probe"])])
    seeds = sorted({int(seed) for seed in numbers(rows, "seed")})
    for dataset, of in groups(transfer, "dataset"):
        steps = sorted({int(step) for step in numbers(of, "pretrain_step")})
        tuned = where(of, "kind", "fine_tuning")
        for seed in seeds:
            for step in steps:
                part = where(where(tuned, "seed", seed), "pretrain_step", step)
                accuracies = [value for value in numbers(part, "accuracy") if math.isfinite(value)]
                out.setdefault(str(dataset), {}).setdefault(seed, {})[step] = {
                    "train variance": numbers(part, "train_variance")[0] if len(part) else math.nan,
                    "accuracy": max(accuracies, default=math.nan),
                    "learning rates": len(part),
                    "diverged": len(part) - len(accuracies),
                }
    return out


def _how_chosen(seeds: Mapping[int, Mapping[int, _Point]]) -> dict[str, object]:
    """Of how many runs the best are the best: more tries on the same test samples have a better best."""
    points = [point for of in seeds.values() for point in of.values()]
    tried = sorted({int(point["learning rates"]) for point in points})
    return {
        "learning rates of each checkpoint, best on the test samples": tried,
        "runs without an accuracy": int(sum(point["diverged"] for point in points)),
    }


def _collapse_hurts(rows: pd.DataFrame) -> Verdict:
    verdicts = {}
    for dataset, seeds in _best(rows).items():
        by_seed = {
            seed: (
                [point["train variance"] for point in points.values()],
                [point["accuracy"] for point in points.values()],
            )
            for seed, points in seeds.items()
        }
        verdict = correlated(
            by_seed, "rank correlation of train variance and the best downstream accuracy", lambda rho: rho
        )
        table = {}
        for step in next(iter(seeds.values())):
            means = {
                name: sum(points[step][name] for points in seeds.values()) / len(seeds)
                for name in ("train variance", "accuracy")
            }
            if all(map(math.isfinite, means.values())):
                table[f"step {step:,}"] = means
        evidence = verdict.evidence | _how_chosen(seeds) | {"means over seeds": table}
        verdicts[dataset] = Verdict(verdict.outcome, evidence)
    return all_hold(verdicts)


def _probe_is_worse(rows: pd.DataFrame) -> Verdict:
    probes = where(rows, "kind", "linear_probe")
    if probes.empty:
        return inconclusive("no linear probes among the rows")
    verdicts = {}
    for dataset, seeds in _best(rows).items():
        of = where(probes, "dataset", dataset)
        gaps = {
            seed: [
                point["accuracy"] - only(where(where(of, "seed", seed), "pretrain_step", step), "accuracy")
                for step, point in points.items()
            ]
            for seed, points in seeds.items()
        }
        effects = {seed: least(*values) for seed, values in gaps.items()}
        means = {
            f"seed {seed}": sum(values) / len(values)
            for seed, values in gaps.items()
            if effects[seed] is not None
        }
        verdicts[dataset] = over_seeds(
            effects,
            0.0,
            "accuracy of fine-tuning less that of the linear probe, at the checkpoint where this is least",
            **{"mean over checkpoints": means} | _how_chosen(seeds),
        )
    return all_hold(verdicts)


FIG5 = (
    Claim(
        "collapse-transfers-worse",
        PAPER,
        "Fig. 5, sec. 4.3",
        "Checkpoints with more train collapse transfer worse [rank correlation of the checkpoint's train variance with the "
        "best downstream test accuracy over learning rates is above 0 in every seed].",
        _collapse_hurts,
    ),
    Claim(
        "probing-is-worse",
        PAPER,
        "Sec. 4.2",
        "Linear probing transfers worse than fine-tuning [at every checkpoint].",
        _probe_is_worse,
    ),
)
