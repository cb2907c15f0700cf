"""The main job: an MLP on real digits, past zero training error, measured at every layer, with its claims."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims.claim import Claim, Verdict, first_collapsed_layer, judge_all, rows_where
from collapselab.records.judgement import Judgement
from collapselab.records.recipe import Checkpoints, ModelSpec, Optimizer
from collapselab.records.run_record import RunRecord
from collapselab.records.verdicts import judgement_from_schema_1
from collapselab.report import write_report
from collapselab.training import Recipe, RunFolder, Stopper, run_recipe

_MAX_TRAIN_VARIANCE = 1e-3
_MIN_TEST_RATIO = 50
_HUI = "Hui, Belkin, Nakkiran 2022"
_RANGAMANI = "Rangamani et al. 2023"


def digits_recipe(seed: int = 0) -> Recipe:
    """Five hidden layers of 256 on 1000 digits, 4000 steps: all of training error is gone after about 100.

    One CPU thread: on a network this small more gain little, and rounding depends on their number.
    """
    return Recipe(
        model=ModelSpec(name="mlp", options={"width": 256, "depth": 5}),
        data=DataSpec(name="digits"),
        optimizer=Optimizer(learning_rate=0.05, momentum=0.9, weight_decay=5e-3),
        steps=4000,
        batch_size=128,
        seed=seed,
        num_threads=1,
        checkpoints=Checkpoints(at="measured", save_every=10),
    )


def digits_claims(epsilon: float) -> tuple[Claim, ...]:
    """What the demo asserts about its own rows.

    Args:
        epsilon: a layer is collapsed while normalized_within is below this.
    """
    return (
        Claim(
            "train-not-test",
            _HUI,
            "sec. 3, fig. 1",
            f"The last layer collapses on train data (train variance below {_MAX_TRAIN_VARIANCE:g}) and not on test "
            f"data (strong test variance more than {_MIN_TEST_RATIO} times larger).",
            _train_not_test,
        ),
        Claim(
            "layers-in-order",
            _RANGAMANI,
            "sec. 5.1, fig. 1",
            "At the end, the share of variance within classes falls from each layer to the next, and some layer "
            f"is the first collapsed one (below {epsilon:g} from there to the classifier).",
            lambda rows: _layers_in_order(rows, epsilon),
        ),
        Claim(
            "nearest-centre",
            _RANGAMANI,
            "sec. 5.1, fig. 4",
            "In every collapsed layer, the nearest class mean already decides as the network does, on all training "
            "samples.",
            lambda rows: _nearest_centre(rows, epsilon),
        ),
    )


def _final(rows: pd.DataFrame, split: str) -> list[tuple[int, pd.DataFrame]]:
    """Rows of the last step of each seed, in order of depth."""
    last = rows["step"].max()
    return [
        (int(seed), rows_where(rows, seed=seed, split=split, step=last))
        for seed in sorted(rows["seed"].unique())
    ]


def _train_not_test(rows: pd.DataFrame) -> Verdict:
    evidence: dict[str, Any] = {}
    holds = True
    for (seed, train), (_, test) in zip(_final(rows, "train"), _final(rows, "test"), strict=True):
        train_variance = float(train["train_variance"].iloc[-1])
        test_variance = float(test["strong_test_variance"].iloc[-1])
        ratio = test_variance / train_variance
        evidence[f"seed {seed}"] = {
            "train_variance": train_variance,
            "strong_test_variance": test_variance,
            "ratio": ratio,
        }
        holds &= train_variance < _MAX_TRAIN_VARIANCE and ratio > _MIN_TEST_RATIO
    return Verdict("holds" if holds else "fails", evidence)


def _layers_in_order(rows: pd.DataFrame, epsilon: float) -> Verdict:
    evidence: dict[str, Any] = {}
    holds = True
    for seed, train in _final(rows, "train"):
        shares = train["normalized_within"].tolist()
        first = first_collapsed_layer(train, epsilon)
        evidence[f"seed {seed}"] = {"normalized_within": shares, "first_collapsed_layer": first}
        holds &= first is not None and all(b < a for a, b in itertools.pairwise(shares))
    return Verdict("holds" if holds else "fails", evidence)


def _nearest_centre(rows: pd.DataFrame, epsilon: float) -> Verdict:
    evidence: dict[str, Any] = {}
    outcomes = []
    for seed, train in _final(rows, "train"):
        first = first_collapsed_layer(train, epsilon)
        if first is None:
            evidence[f"seed {seed}"] = {"first_collapsed_layer": None}
            continue
        collapsed = train.iloc[train["layer"].tolist().index(first) :]
        agreement = dict(zip(collapsed["layer"], collapsed["ncc_agreement"], strict=True))
        evidence[f"seed {seed}"] = {"first_collapsed_layer": first, "ncc_agreement": agreement}
        outcomes.append(bool((collapsed["ncc_agreement"] == 1).all()))
    if not outcomes:
        return Verdict("inconclusive", evidence)
    return Verdict("holds" if all(outcomes) else "fails", evidence)


@dataclass(frozen=True)
class DemoResult:
    """A finished run of the demo.

    Attributes:
        run: as run.json holds it.
        rows: the measured table.
        verdicts: as in verdicts.json.
        first_collapsed_layer: on train data at the end.
        was_finished: whether the run was finished before this call.
    """

    run: RunRecord
    rows: pd.DataFrame
    verdicts: list[dict[str, Any]]
    first_collapsed_layer: str | None
    was_finished: bool


def run_digits(
    folder: RunFolder,
    seed: int = 0,
    on_step: Callable[[int, int, str], None] | None = None,
    stopper: Stopper | None = None,
) -> DemoResult:
    """Run the demo, go on with one that was stopped, or read one that is finished; write verdicts and page.

    Raises:
        InputError: the folder holds something else.
        RunInterrupted: Ctrl-C; the state is saved.
    """
    recipe = digits_recipe(seed)
    before = folder.read_run()
    run = run_recipe(recipe, folder, on_step, stopper=stopper)
    rows = folder.table()
    verdicts = judge_all(digits_claims(recipe.measuring.epsilon), rows.assign(seed=seed))
    folder.write_verdicts([Judgement.model_validate(judgement_from_schema_1(one)) for one in verdicts])
    final = rows_where(rows, step=rows["step"].max(), split="train")
    write_report(folder)
    return DemoResult(
        run=run,
        rows=rows,
        verdicts=verdicts,
        first_collapsed_layer=first_collapsed_layer(final, recipe.measuring.epsilon),
        was_finished=before is not None and before.is_finished,
    )
