"""The demo: an MLP on real digits, trained past zero error, measured at every layer, with claims about what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from collapselab.data.recipe import DataSpec
from collapselab.experiments.claims import Claim, Number, Void, judge_claims
from collapselab.experiments.claims.judges import at_end, gap, ordered
from collapselab.frames import rows_where
from collapselab.probes.summaries import first_collapsed
from collapselab.records.judgement import Judgement
from collapselab.records.recipe import Checkpoints, ModelSpec, Optimizer
from collapselab.records.run import read_run
from collapselab.records.run_record import RunRecord
from collapselab.report.pages.rendering import write_page
from collapselab.report.pages.run import run_page
from collapselab.training import Recipe, RunFolder, Stopper, run_recipe

_STRICTER = (
    "This claim requires a train variance below 0.001. The experiments reproduced from papers require one below 0.1. These "
    "digits are so easy that test variance also ends below 0.1; with that threshold, test data would count as collapsed too"
)
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
            notes=(_STRICTER,),
        ),
        gap(
            "strong_test_variance",
            "train_variance",
            "The last layer collapses far less on test data than on train data.",
            where=f"{_HUI}, fig. 1",
        ),
        ordered(
            "normalized_within",
            "The within-class share of the variance decreases from each layer to the next.",
            where=f"{_RANGAMANI}, fig. 1",
        ),
        Claim(
            id="nearest-centre",
            statement="From the first collapsed layer on, the nearest class mean gives the same decision as the network.",
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
        raise Void(f"no layer has a within-class share of the variance below {epsilon:g}")
    collapsed = end.iloc[end["layer"].tolist().index(first) :]
    least = float(collapsed["ncc_agreement"].min(skipna=False))
    what = f"agreement of nearest class mean and network on train samples, smallest value from {first} to the last layer"
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
    """Finished runs of the demo, one per seed.

    Attributes:
        runs: content of run.json of each seed.
        pages: paths of their pages.
        rows: table of measurements of the first seed.
        verdicts: content of verdicts.json: the claims, judged over all seeds.
        first_collapsed_layer: first collapsed layer of the first seed on train data at the end.
        was_finished: whether all runs were finished before this call.
    """

    runs: Sequence[RunRecord]
    pages: Sequence[Path]
    rows: pd.DataFrame
    verdicts: list[Judgement]
    first_collapsed_layer: str | None
    was_finished: bool


def run_digits(
    folder: RunFolder,
    seeds: Sequence[int] = (0,),
    on_step: Callable[[str], Callable[[int, int, str], None]] | None = None,
    stopper: Stopper | None = None,
) -> DemoResult:
    """Start, resume or read a run of the demo per seed; judge the claims over all seeds; write verdicts and pages.

    Args:
        folder: of the first seed; the runs of other seeds are beside it, in folders that end in `-seed-K`.
        seeds: at least one.
        on_step: returns what to call during the run of this name.
        stopper: of all runs.

    Raises:
        InputError: a folder contains something else.
        RunInterrupted: Ctrl-C; the state is saved.
    """
    beside = {seed: RunFolder(f"{folder.path}-seed-{seed}") for seed in seeds[1:]}
    folders = {seeds[0]: folder, **beside}
    before = [one.read_run() for one in folders.values()]
    runs = [
        run_recipe(
            digits_recipe(seed), one, on_step(f"digits, seed {seed}") if on_step else None, stopper=stopper
        )
        for seed, one in folders.items()
    ]
    tables = {seed: one.table() for seed, one in folders.items()}
    rows = pd.concat([claim_rows(table, seed) for seed, table in tables.items()])
    verdicts = judge_claims(digits_claims(runs[0].epsilon), rows, paper="")
    for one in folders.values():
        one.write_verdicts(verdicts)
        write_page(one.report, run_page(read_run(one)))
    return DemoResult(
        runs=runs,
        pages=[one.report for one in folders.values()],
        rows=tables[seeds[0]],
        verdicts=verdicts,
        first_collapsed_layer=read_run(folder).first_collapsed,
        was_finished=all(run is not None and run.is_finished for run in before),
    )
