"""`collapselab run`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapselab.cli.options import (
    RecipeDataOption,
    SetOption,
    StopAfterOption,
    changes_from,
    copies_from,
    end_stopped,
    stopper_from,
)
from collapselab.cli.paths import check_exists
from collapselab.cli.progress import ProgressBars
from collapselab.cli.terminal import note, print_text, terminal_width, uses_colour
from collapselab.errors import InputError
from collapselab.text import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from collapselab.records.judgement import Judgement
    from collapselab.records.run_record import RunRecord
    from collapselab.training import Recipe, RunFolder, Stopper

_DIGITS = "digits"
_ENDINGS = {
    "steps": "all steps done",
    "loss": "the loss fell below the recipe's threshold",
    "diverged": "training diverged",
}


def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="digits, or the path of a recipe (a YAML file).")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write the run to; default: runs/NAME."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            metavar="N",
            help="Seed for initial weights and the order of samples; default: the recipe's seed, or 0.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            max=1000,
            metavar="N",
            help="digits only. Run seeds 0 to N-1 and judge the claims over all of them. A verdict needs three seeds.",
        ),
    ] = None,
    data: RecipeDataOption = None,
    set_: SetOption = None,
    stop_after: StopAfterOption = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            metavar="N",
            help="Recipes only. Share every batch among N GPUs of this machine, or N processes without a GPU; default: the recipe's devices, or 1.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1024,
            metavar="N",
            help="Recipes only. Processes that decode images which do not fit in memory; default: one per processor but one, at most 8. "
            "Results do not depend on it.",
        ),
    ] = None,
    show_recipe: Annotated[
        bool,
        typer.Option("--show-recipe", help="Print the recipe, with an explanation of every value, and exit."),
    ] = False,
) -> None:
    """Train a network and measure every layer during training.

    `digits` trains an MLP on the handwritten digits included in scikit-learn, tests four claims about neural collapse
    and writes a page, report.html. It takes under a minute on two cores. Any other run is described by a recipe, a YAML
    file; --show-recipe prints an example. A recipe has no claims and no page: its run only writes measurements to the run
    folder. If a run is stopped or killed, the same command resumes it. For a finished run, the command only prints the
    result.

    \b
    Examples:
      collapselab run digits
      collapselab run digits --seeds 3
      collapselab run digits --show-recipe > recipe.yaml
      collapselab run recipe.yaml --set steps=2000 --stop-after 9m
      collapselab run mnist.yaml --data mnist=data/mnist
      collapselab run recipe.yaml --devices 2
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    _check_seeds(name, seed, seeds)
    if name == _DIGITS and (data or set_ or devices or workers is not None):
        raise InputError(
            "digits: --data, --set, --devices and --workers do not apply to this run; save its recipe with --show-recipe > "
            "recipe.yaml, and run the file"
        )
    if name != _DIGITS:
        if not name.endswith((".yaml", ".yml")):
            raise InputError(f"unknown run {name!r}; give digits, or the path of a recipe, a .yaml file")
        check_exists(Path(name), "file")

    from collapselab.training import RunFolder

    recipe = _recipe(name, {"seed": seed, "devices": devices}, set_)
    if show_recipe:
        print_text(recipe.documented_yaml())
        return
    folder = RunFolder(out or Path("runs") / Path(name).stem)
    stopper = stopper_from(stop_after)
    if name == _DIGITS:
        _run_digits(folder, range(seeds) if seeds else [seed or 0], stopper)
    else:
        _run_recipe(recipe, folder, copies_from(data), stopper, workers)


def _check_seeds(name: str, seed: int | None, seeds: int | None) -> None:
    if seeds is not None and (name != _DIGITS or seed is not None):
        why = (
            f"{name} has no claims to judge over seeds; give"
            if name != _DIGITS
            else "give only this, or only"
        )
        raise InputError(f"--seeds {seeds}: {why} --seed")


def _recipe(name: str, given: dict[str, int | None], set_: list[str] | None) -> Recipe:
    from collapselab.findings.digits import digits_recipe
    from collapselab.training import Recipe

    if name == _DIGITS:
        return digits_recipe(given["seed"] or 0)
    changes = changes_from(set_) | {name: value for name, value in given.items() if value is not None}
    recipe = Recipe.read(Path(name))
    return recipe.with_changes(changes) if changes else recipe


def _run_digits(folder: RunFolder, seeds: Sequence[int], stopper: Stopper) -> None:
    from collapselab.findings.digits import run_digits
    from collapselab.inference import MIN_SEEDS
    from collapselab.training import RunInterrupted

    try:
        with ProgressBars() as bars:
            result = run_digits(folder, seeds, bars.steps, stopper)
    except RunInterrupted as stopped:
        end_stopped(folder.path, stopped, stopped)
        return
    of_seed = f" (table and this line: seed {seeds[0]})" if len(seeds) > 1 else ""
    lines = [
        f"First collapsed layer on train data{of_seed}: {result.first_collapsed_layer or 'none'}",
        _durations(*result.runs)
        + (" (finished earlier; nothing was run again)" if result.was_finished else ""),
        f"Page: {', '.join(map(str, result.pages))}",
    ]
    if len(seeds) < MIN_SEEDS and seeds[0] == 0:
        out = "" if folder.path == Path("runs") / _DIGITS else f" --out {shlex.quote(str(folder.path))}"
        lines.insert(0, f"For a verdict on each claim: collapselab run digits --seeds {MIN_SEEDS}{out}")
    _print_summary(result.rows, result.verdicts, lines, result.runs[0])


def _run_recipe(
    recipe: Recipe, folder: RunFolder, copies: Mapping[str, Path], stopper: Stopper, workers: int | None
) -> None:
    from collapselab.data import open_data_set
    from collapselab.frames import numbers, rows_that
    from collapselab.training import RunInterrupted, run_recipe

    if not int(os.environ.get("RANK", "0")):
        for text in open_data_set(recipe.data.name, copies).notes:
            note(text)
    try:
        with ProgressBars() as bars:
            on_step = bars.steps(folder.path.name)
            done = run_recipe(recipe, folder, on_step, copies=copies, stopper=stopper, workers=workers)
    except RunInterrupted as stopped:
        end_stopped(folder.path, stopped, stopped)
        return
    if int(os.environ.get("RANK", "0")):  # another process prints
        return
    rows = folder.table()
    lines = [
        f"{done.steps:,} steps: {_ENDINGS[done.ended or 'steps']}",
        _durations(done),
        f"Folder: {folder.path}",
    ]
    if rows.empty:  # the loss was NaN or infinite before the first step
        print_text("\n".join(lines) + "\n")
        return
    last = rows_that(rows, (rows["step"] == rows["step"].max()) & rows["accuracy"].notna())
    accuracy = dict(zip(last["split"], numbers(last, "accuracy"), strict=True))
    lines.insert(
        1, f"Accuracy: {percent(accuracy['train'])} on train data, {percent(accuracy['test'])} on test data"
    )
    _print_summary(rows, [], lines, done)


def _print_summary(
    rows: pd.DataFrame, verdicts: Sequence[Judgement], lines: Sequence[str], run: RunRecord
) -> None:
    from collapselab.cli.run_summary import run_summary

    print_text(
        run_summary(rows, verdicts, lines, epsilon=run.epsilon, width=terminal_width(), colour=uses_colour())
    )


def _durations(*runs: RunRecord) -> str:
    training, measuring = (
        sum(getattr(run.seconds, what) for run in runs) for what in ("training", "measuring")
    )
    return f"Time: {training:.0f} s training, {measuring:.0f} s measuring"
