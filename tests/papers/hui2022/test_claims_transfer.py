"""Claims about transfer (Fig. 5): correlation with the best accuracy, and linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claim_rows import NAN, table, verdict

from collapselab.experiments.claims.claim import judge_all
from collapselab.papers.hui2022 import claims


def transfer(
    accuracies: Sequence[float],
    probes: Sequence[float] = (),
    seed: int = 0,
    sweep: Sequence[float] = (0.0, -0.1),
) -> list[dict[str, Any]]:
    """Checkpoints of falling train variance, each fine-tuned with two learning rates."""
    head = {"dataset": "mnist", "model": "mlp", "seed": seed}
    variances = [1.0, 0.1, 0.01, 0.001][: len(accuracies)]
    rows = [
        head
        | {
            "kind": "fine_tuning",
            "pretrain_step": 10**index,
            "train_variance": variance,
            "learning_rate": 0.1 * (1 + number),
            "accuracy": accuracy + less,
        }
        for index, (variance, accuracy) in enumerate(zip(variances, accuracies, strict=True))
        for number, less in enumerate(sweep)
    ]
    rows += [
        head
        | {
            "kind": "linear_probe",
            "pretrain_step": 10**index,
            "train_variance": variances[index],
            "learning_rate": NAN,
            "accuracy": accuracy,
        }
        for index, accuracy in enumerate(probes)
    ]
    return rows


def test_figure_5_correlates_collapse_with_the_best_accuracy() -> None:
    worse = table(transfer([0.9, 0.8, 0.7]), transfer([0.91, 0.8, 0.6], seed=1))
    assert verdict(claims.FIG5, "collapse-transfers-worse", worse) == "holds"
    better = table(transfer([0.7, 0.8, 0.9]))
    assert verdict(claims.FIG5, "collapse-transfers-worse", better) == "fails"
    assert verdict(claims.FIG5, "collapse-transfers-worse", table(transfer([0.9, 0.8]))) == "inconclusive"


def test_runs_that_diverged_are_not_the_best() -> None:
    rows = table(transfer([0.9, 0.8, 0.7], sweep=(0.0, NAN)))
    assert verdict(claims.FIG5, "collapse-transfers-worse", rows) == "holds"
    nothing = table(transfer([0.9, 0.8, 0.7], sweep=(NAN, NAN)))
    assert verdict(claims.FIG5, "collapse-transfers-worse", nothing) == "inconclusive"


def test_figure_5_needs_every_checkpoint_of_every_seed() -> None:
    id, full = "collapse-transfers-worse", transfer([0.9, 0.8, 0.7, 0.6])
    assert verdict(claims.FIG5, id, table(full, transfer([0.9, 0.8, 0.7], seed=1))) == "inconclusive"
    only_probed = [row for row in transfer([0.9], [0.5], seed=1) if row["kind"] == "linear_probe"]
    assert verdict(claims.FIG5, id, table(full, only_probed)) == "inconclusive"
    rows = table(full)
    rows.loc[rows["pretrain_step"] == 10, "train_variance"] = NAN
    assert verdict(claims.FIG5, id, rows) == "inconclusive"
    assert verdict(claims.FIG5, "probing-is-worse", table(transfer([0.9, 0.8], [0.1]))) == "inconclusive"


def test_figure_5_says_how_the_best_were_chosen() -> None:
    judged = judge_all(claims.FIG5, table(transfer([0.9, 0.8, 0.7], sweep=(0.0, -0.1, NAN))))
    evidence = judged[0]["evidence"]["mnist"]
    assert evidence["learning rates of each checkpoint, best on the test samples"] == [3]
    assert evidence["runs without an accuracy"] == 3


def test_probing_is_compared_at_every_checkpoint() -> None:
    below = table(transfer([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]))
    assert verdict(claims.FIG5, "probing-is-worse", below) == "holds"
    once = table(transfer([0.9, 0.8, 0.7], [0.8, 0.7, 0.71]))
    assert verdict(claims.FIG5, "probing-is-worse", once) == "fails"
    assert verdict(claims.FIG5, "probing-is-worse", table(transfer([0.9, 0.8, 0.7]))) == "inconclusive"
