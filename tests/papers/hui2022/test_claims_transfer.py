"""Claims about transfer (Fig. 5): correlation with the best accuracy, and linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from claim_rows import NAN, judgement, seeds, table, verdict

from collapselab.inference import paired_difference_interval
from collapselab.papers.hui2022 import fig5
from collapselab.papers.hui2022.arms import BEFORE_ARMS
from collapselab.papers.hui2022.transfer import best_rates
from collapselab.papers.hui2022.transfer_jobs import CONTROL

FIG5 = fig5.EXPERIMENT
WORSE, PROBING = "collapse-transfers-worse", "probing-is-worse"
LOST, AFTER_EQUAL_STEPS = "accuracy-lost-by-collapse-above-bound", f"{WORSE}-after-equal-steps"


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


def compared(lost: Sequence[int], gained: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
    """Networks fine-tuned from checkpoints of falling train variance, compared with that of the first."""
    rows = []
    for index, counts in enumerate(zip(lost, gained, strict=True)):
        place = {"pretrain_step": 10**index, "train_variance": 10.0**-index, "num_test": 200}
        head = {"kind": "against_first", "dataset": "mnist", "model": "mlp", "seed": seed}
        rows.append({**head, **place, "lost": counts[0] + seed, "gained": counts[1]})
    return rows


def test_the_most_collapsed_checkpoint_is_compared_with_the_first_sample_by_sample() -> None:
    def all_seeds(last: tuple[int, int]) -> pd.DataFrame:
        return seeds(lambda seed: compared([0, 50, last[0]], [0, 0, last[1]], seed))

    worse = judgement(FIG5, LOST, all_seeds((20, 4)))
    assert worse.verdict == "holds"
    assert worse.effect is not None
    assert worse.effect.by_seed[0] == pytest.approx(16 / 200)
    low, _ = paired_difference_interval(20, 4, 200)
    (interval,) = (reading for reading in worse.readings if reading.what.startswith("lower end"))
    assert interval.by_seed[0] == pytest.approx(low)
    assert verdict(FIG5, LOST, all_seeds((4, 20))) == "fails"
    assert verdict(FIG5, LOST, all_seeds((4, 5))) == "inconclusive"


def test_old_rows_were_not_compared_sample_by_sample() -> None:
    rows = seeds(lambda seed: transfer(FALLING, [0.5] * 5, seed=seed))
    assert verdict(FIG5, LOST, rows) == "inconclusive"


def test_the_control_compares_weight_decays_after_equal_steps() -> None:
    def control(accuracies: Sequence[float], seed: int) -> list[dict[str, Any]]:
        rows = [row for row in transfer(accuracies, seed=seed) if row["kind"] == "fine_tuning"]
        for row in rows:
            decay = 1e-3 / row["train_variance"]
            row |= {"arm": CONTROL, "weight_decay": decay, "pretrain_step": 4000}
        return rows

    falling = seeds(lambda seed: control(FALLING, seed))
    assert verdict(FIG5, AFTER_EQUAL_STEPS, falling) == "holds"
    assert verdict(FIG5, AFTER_EQUAL_STEPS, seeds(lambda seed: control(RISING, seed))) == "fails"
    both = pd.concat([falling, seeds(lambda seed: transfer(RISING, seed=seed)).assign(**BEFORE_ARMS)])
    assert verdict(FIG5, AFTER_EQUAL_STEPS, both) == "holds"
    assert verdict(FIG5, f"{WORSE}-literal", both) == "fails"


def test_the_control_differs_in_the_weight_decay_of_pre_training_only() -> None:
    jobs = {job.name: job for job in FIG5.presets["cpu"].jobs(0) if job.labels["arm"] == CONTROL}
    pretraining = [job for job in jobs.values() if job.labels["kind"] == "pretraining"]
    decays = [job.labels["weight_decay"] for job in pretraining]
    assert decays == sorted(set(decays))
    assert decays[0] == 0
    assert [job.recipe.optimizer.weight_decay for job in pretraining] == decays
    same = {job.recipe.with_changes({"optimizer.weight_decay": 0}).to_yaml() for job in pretraining}
    assert len(same) == 1
    tuned = [job for job in jobs.values() if job.after]
    for job in tuned:
        assert job.after in jobs
        assert job.recipe.start is not None
        assert f"/{job.after}/" in job.recipe.start.checkpoint
        assert job.labels["weight_decay"] == jobs[job.after].labels["weight_decay"]
        assert job.recipe.optimizer.weight_decay == 0
    rates = {job.labels["learning_rate"] for job in tuned}
    assert len(tuned) == len(decays) * len(rates)
