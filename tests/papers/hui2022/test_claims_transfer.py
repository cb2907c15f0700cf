"""Claims about transfer (Fig. 5): correlation with the best accuracy, and linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from claim_rows import NAN, judgement, seeds, table, verdict

from collapselab.papers.hui2022 import fig5
from collapselab.papers.hui2022.arms import BEFORE_ARMS
from collapselab.papers.hui2022.transfer import best_rates

FIG5 = fig5.EXPERIMENT
WORSE, PROBING = "collapse-transfers-worse", "probing-is-worse"


def transfer(
    accuracies: Sequence[float],
    probes: Sequence[float] = (),
    seed: int = 0,
    sweep: Sequence[float] = (0.0, -0.1),
) -> list[dict[str, Any]]:
    """Checkpoints of falling train variance, each fine-tuned with two learning rates."""
    head = {"dataset": "mnist", "model": "mlp", "seed": seed}
    variances = [1.0, 0.1, 0.01, 0.001, 0.0001][: len(accuracies)]
    rows = [
        head
        | {
            "kind": "pretraining",
            "pretrain_step": 7,
            "train_variance": 2.0,
            "learning_rate": NAN,
            "accuracy": 0.5,
        }
    ]
    for index, (variance, accuracy) in enumerate(zip(variances, accuracies, strict=True)):
        place = head | {"pretrain_step": 10**index, "train_variance": variance}
        rows += [
            place | {"kind": "fine_tuning", "learning_rate": 0.1 * (1 + number), "accuracy": accuracy + less}
            for number, less in enumerate(sweep)
        ]
        if index < len(probes):
            rows.append(place | {"kind": "linear_probe", "learning_rate": NAN, "accuracy": probes[index]})
    return rows


FALLING, RISING = [0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.6, 0.7, 0.8, 0.9]


def test_figure_5_correlates_collapse_with_the_best_accuracy() -> None:
    assert verdict(FIG5, WORSE, seeds(lambda seed: transfer(FALLING, seed=seed))) == "holds"
    assert verdict(FIG5, WORSE, seeds(lambda seed: transfer(RISING, seed=seed))) == "fails"
    assert verdict(FIG5, WORSE, seeds(lambda seed: transfer(FALLING, seed=seed), 2)) == "inconclusive"
    assert verdict(FIG5, WORSE, seeds(lambda seed: transfer(FALLING[:3], seed=seed))) == "inconclusive"
    same = judgement(FIG5, WORSE, seeds(lambda seed: transfer([0.8] * 5, seed=seed)))
    assert same.void[0] == "accuracy is the same at all 5 points"


def test_runs_that_diverged_are_not_the_best() -> None:
    rows = seeds(lambda seed: transfer(FALLING, seed=seed, sweep=(NAN, 0.0, NAN)))
    assert verdict(FIG5, WORSE, rows) == "holds"
    nothing = seeds(lambda seed: transfer(FALLING, seed=seed, sweep=(NAN, NAN)))
    assert verdict(FIG5, WORSE, nothing) == "inconclusive"


def test_the_best_learning_rate_of_every_checkpoint_is_taken() -> None:
    best = best_rates(table(transfer(FALLING, sweep=(-0.1, 0.0, NAN))).assign(**BEFORE_ARMS))
    assert best["accuracy"].tolist() == FALLING


def test_figure_5_needs_every_checkpoint_of_a_seed() -> None:
    rows = table(transfer(FALLING), transfer(FALLING, seed=1), transfer(FALLING[:4], seed=2))
    assert judgement(FIG5, WORSE, rows).void == {2: "missing runs: 10000"}
    only_probed = [row for row in transfer(FALLING, [0.5] * 5, seed=2) if row["kind"] == "linear_probe"]
    rows = table(transfer(FALLING), transfer(FALLING, seed=1), only_probed)
    assert judgement(FIG5, WORSE, rows).void == {2: "the run is missing"}
    unknown = seeds(lambda seed: transfer(FALLING, seed=seed))
    unknown.loc[unknown["pretrain_step"] == 10, "train_variance"] = NAN
    assert len(judgement(FIG5, WORSE, unknown).void) == 3


def test_figure_5_says_how_the_best_were_chosen() -> None:
    notes = judgement(FIG5, WORSE, table(transfer(FALLING))).notes
    assert any("best learning rate is chosen on the test samples" in note for note in notes)


def test_probing_is_compared_at_every_checkpoint() -> None:
    def probed(*less: float) -> pd.DataFrame:
        return seeds(
            lambda seed: transfer(
                FALLING, [a - b + 0.002 * seed for a, b in zip(FALLING, less, strict=False)], seed
            )
        )

    assert verdict(FIG5, PROBING, probed(0.1, 0.1, 0.1, 0.1, 0.05)) == "holds"
    assert verdict(FIG5, PROBING, probed(0.1, 0.1, 0.1, 0.1, -0.05)) == "fails"
    assert verdict(FIG5, PROBING, probed(0.1, 0.1, 0.1, 0.1, 0.002)) == "inconclusive"
    assert verdict(FIG5, PROBING, probed(0.1, 0.1)) == "inconclusive"
    assert verdict(FIG5, PROBING, seeds(lambda seed: transfer(FALLING, seed=seed))) == "inconclusive"
    judged = judgement(FIG5, PROBING, probed(0.1, 0.1, 0.1, 0.1, 0.05))
    assert judged.effect is not None
    assert judged.effect.by_seed[0] == 0.05 or abs(judged.effect.by_seed[0] - 0.05) < 1e-12
