"""The demo: an MLP on real digits, trained past zero error, measured at every layer, with claims about what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import Claim, Number, Void, judge_claims
from collapselab.experiments.claims.judges import at_end, gap, ordered
from collapselab.frames import rows_where
from collapselab.probes.results import first_collapsed
from collapselab.records.judgement import Judgement
from collapselab.records.recipe import Checkpoints, ModelSpec, Optimizer
from collapselab.records.run import read_run
from collapselab.records.run_record import RunRecord
from collapselab.report.pages.rendering import write_page
from collapselab.report.pages.run import run_page
from collapselab.training import Recipe, RunFolder, Stopper, run_recipe

_HUI, _RANGAMANI = "Hui, Belkin, Nakkiran (2022)", "Rangamani et al. (2023)"


def digits_recipe(seed: int = 0) -> Recipe:
    """Return the recipe of the demo: an MLP with five hidden layers of 256 units on 1000 digits, 4000 steps.

    Training error is zero after about 100 steps. It uses one CPU thread: more threads hardly speed up a network this small,
    and rounding depends on their number.
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
    """Return the claims that are judged on the rows of the demo.

    Args:
        epsilon: a layer counts as collapsed if normalized_within is below this.
    """
    return (
        at_end(
            "train_variance",
            "The last layer collapses on train data.",
            below=(1e-3, 1e-2),
            where=f"{_HUI}, fig. 1",
        ),
        gap(
            "strong_test_variance",
            "train_variance",
            "The last layer collapses far less on test data than on train data.",
            where=f"{_HUI}, fig. 1",
        ),
        ordered(
            "normalized_within",
            "The share of variance within classes decreases from each layer to the next.",
            where=f"{_RANGAMANI}, fig. 1",
        ),
        Claim(
            id="nearest-centre",
            statement="In every collapsed layer, the nearest class mean gives the same decision as the network.",
            numbers=_least_agreement,
            thresholds=(epsilon,),
            rows=lambda rows: rows,
            where=f"{_RANGAMANI}, fig. 4",
        ),
    )


def _least_agreement(rows: pd.DataFrame, epsilon: float) -> list[Number]:
    end = rows_where(rows, step=rows["step"].max()).sort_values("depth")
    first = first_collapsed(end["layer"].tolist(), end["normalized_within"].tolist(), epsilon)
    if first is None:
        raise Void(f"no layer has a share of variance within classes below {epsilon:g}")
    collapsed = end.iloc[end["layer"].tolist().index(first) :]
    least = float(collapsed["ncc_agreement"].min(skipna=False))
    what = f"smallest share of train samples with the same decision, from {first} on"
    return [Number(what, least, above=0.999, scale="difference")]


def claim_rows(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the rows of a run in the form that claims need: one per step and layer, with train and test variance."""
    train, test = (rows_where(table, split=split).set_index(["step", "layer"]) for split in ("train", "test"))
    rows = train.assign(
        strong_test_variance=test["strong_test_variance"],
        train_accuracy=train["accuracy"],
        is_last=train["depth"] == train["depth"].max(),
        job="digits",
        seed=seed,
    )
    return rows.reset_index()


@dataclass(frozen=True)
class DemoResult:
    """A finished run of the demo.

    Attributes:
        run: content of run.json.
        rows: table of measurements.
        verdicts: content of verdicts.json.
        first_collapsed_layer: first collapsed layer on train data at the end.
        was_finished: whether the run was finished before this call.
    """

    run: RunRecord
    rows: pd.DataFrame
    verdicts: list[Judgement]
    first_collapsed_layer: str | None
    was_finished: bool


def run_digits(
    folder: RunFolder,
    seed: int = 0,
    on_step: Callable[[int, int, str], None] | None = None,
    stopper: Stopper | None = None,
) -> DemoResult:
    """Start or resume the demo, or read a finished one; write verdicts and page.

    Raises:
        InputError: the folder contains something else.
        RunInterrupted: Ctrl-C; the state is saved.
    """
    recipe = digits_recipe(seed)
    before = folder.read_run()
    run = run_recipe(recipe, folder, on_step, stopper=stopper)
    rows = folder.table()
    epsilon = recipe.measuring.epsilon
    verdicts = judge_claims(digits_claims(epsilon), claim_rows(rows, seed), paper="")
    folder.write_verdicts(verdicts)
    final = rows_where(rows, step=rows["step"].max(), split="train").sort_values("depth")
    write_page(folder.report, run_page(read_run(folder)))
    return DemoResult(
        run=run,
        rows=rows,
        verdicts=verdicts,
        first_collapsed_layer=first_collapsed(
            final["layer"].tolist(), final["normalized_within"].tolist(), epsilon
        ),
        was_finished=before is not None and before.is_finished,
    )
