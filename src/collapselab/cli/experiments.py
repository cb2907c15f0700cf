"""The commands that train: one run, or the runs of an experiment of a paper."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collapselab.cli.terminal import INTERRUPTED, GridProgress, note, print_text, step_progress
from collapselab.errors import InputError

if TYPE_CHECKING:
    from collapselab.records.run_record import RunRecord
    from collapselab.training import Stopper

_DATA = typer.Option(
    "--data",
    metavar="NAME=PATH",
    help="A local copy of a data set, as mnist=PATH; may be given several times. Or set COLLAPSELAB_DATA.",
)
_STOP_AFTER = typer.Option(
    "--stop-after", metavar="TIME", help="End cleanly after 90s, 9m or 1h30m; the same command goes on."
)
_THREADS = typer.Option(
    "--threads",
    min=1,
    metavar="N",
    help="CPU threads; default as many as torch takes. Rounding depends on it.",
)


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="digits, or a recipe in a YAML file.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/NAME.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of initial weights and the order of samples; default the recipe's, or 0."),
    ] = None,
    data: Annotated[list[str] | None, _DATA] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A value of the recipe, as optimizer.learning_rate=0.01."
        ),
    ] = None,
    stop_after: Annotated[str | None, _STOP_AFTER] = None,
    show_recipe: Annotated[
        bool, typer.Option("--show-recipe", help="Print the recipe, every value with its meaning, and end.")
    ] = False,
) -> None:
    """Train a network, measure every layer while it trains, and write what was measured.

    `digits`: an MLP on the handwritten digits that ship with scikit-learn, under a minute on two cores, with verdicts
    and a page. Any other run is a recipe in YAML: `--show-recipe` prints one to start from. A run that was stopped or
    killed goes on where it was; a finished one is shown again.

    \b
    Examples:
      collapselab run digits
      collapselab run digits --show-recipe > recipe.yaml
      collapselab run recipe.yaml --data mnist=data/mnist --set steps=2000 --stop-after 9m
      torchrun --nproc-per-node 2 -m collapselab run recipe.yaml
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    from collapselab.data.names import local_copies
    from collapselab.findings.digits import digits_recipe
    from collapselab.training import Recipe, RunFolder

    demo = name == "digits"
    if demo and (data or set_):
        raise InputError("digits is fixed; write its recipe to a file with --show-recipe and change that")
    if not demo and not name.endswith((".yaml", ".yml")):
        raise InputError(f"unknown run {name!r}; give digits, or a recipe in a .yaml file")
    recipe = digits_recipe(seed or 0) if demo else Recipe.read(Path(name))
    changes = parse_changes(set_ or []) | ({} if seed is None else {"seed": seed})
    if changes and not demo:
        recipe = recipe.with_changes(changes)
    if show_recipe:
        print_text(recipe.documented_yaml())
        return
    folder = RunFolder(out or Path("runs") / (name if demo else Path(name).stem))
    stopper = _stopper(stop_after)
    if demo:
        _run_digits(folder, seed or 0, stopper)
    else:
        _run_recipe(recipe, folder, local_copies(data or []), stopper)


def _run_digits(folder: Any, seed: int, stopper: Stopper) -> None:
    from collapselab.findings.digits import run_digits
    from collapselab.training import RunInterrupted

    try:
        with step_progress("digits: layers measured while training") as on_step:
            result = run_digits(folder, seed=seed, on_step=on_step, stopper=stopper)
    except RunInterrupted as stopped:
        note(f"{folder.path}: {stopped}")
        sys.exit(_code(stopped))
    lines = [
        f"First collapsed layer on train data: {result.first_collapsed_layer or 'none'}",
        _seconds(result.run) + (", in an earlier run: nothing was run again" if result.was_finished else ""),
        f"Page: {folder.report}",
    ]
    _print_summary(result.rows, result.verdicts, lines, result.run)


def _run_recipe(recipe: Any, folder: Any, copies: dict[str, Path], stopper: Stopper) -> None:
    from collapselab.training import RunInterrupted, run_recipe

    try:
        with step_progress(folder.path.name) as on_step:
            result = run_recipe(recipe, folder, on_step, copies=copies, stopper=stopper)
    except RunInterrupted as stopped:
        note(f"{folder.path}: {stopped}")
        sys.exit(_code(stopped))
    if int(os.environ.get("RANK", "0")):  # another process prints
        return
    why = {
        "steps": "all steps done",
        "loss": "the loss is below the recipe's",
        "diverged": "training diverged",
    }
    rows = folder.table()
    last = rows[rows["step"] == rows["step"].max()].set_index("split")["accuracy"].dropna()
    lines = [
        f"{result.steps:,} steps: {why[result.ended or 'steps']}",
        f"Accuracy: {last['train']:.1%} on train, {last['test']:.1%} on test data",
        _seconds(result),
        f"Folder: {folder.path}",
    ]
    _print_summary(rows, [], lines, result)


def _print_summary(rows: Any, verdicts: Sequence[Any], lines: list[str], run: RunRecord) -> None:
    from collapselab.cli.tables import run_summary

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print_text(run_summary(rows, verdicts, lines, epsilon=run.epsilon, colour=colour))


def _seconds(run: RunRecord) -> str:
    return f"{run.seconds.training:.0f} s training and {run.seconds.measuring:.0f} s measuring"


class ScaleName(str, Enum):
    """How much of an experiment is done."""

    smoke = "smoke"
    cpu = "cpu"
    paper = "paper"


def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="list|PAPER/FIGURE", help="list, or what is listed, as hui2022/fig6.")
    ],
    scale: Annotated[
        ScaleName,
        typer.Option(
            help="smoke: seconds, no data needed; cpu: real data, two cores; paper: its own numbers."
        ),
    ] = ScaleName.smoke,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, metavar="N", help="Seeds 0 to N-1; default as the preset says."),
    ] = None,
    data: Annotated[list[str] | None, _DATA] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of everything; default runs/PAPER-FIGURE-SCALE."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="GLOB,GLOB", help="Only the runs of these names.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A value of every recipe, as steps=500, or of some, as JOB-GLOB:steps=500; it is recorded.",
        ),
    ] = None,
    threads: Annotated[int | None, _THREADS] = None,
    stop_after: Annotated[str | None, _STOP_AFTER] = None,
) -> None:
    """Do an experiment of a paper: its runs, its figures, its claims judged, a page over all of it.

    What is smaller than in the paper at each scale is written in the preset, and on the page. A grid that was stopped
    or killed goes on where it was; runs that are finished are not run again, so that seeds can be added later.
    The same command in several terminals shares the runs out among them.

    \b
    Examples:
      collapselab reproduce list
      collapselab reproduce hui2022/fig6
      collapselab reproduce hui2022/fig6 --scale cpu --data mnist=data/mnist --seeds 3 --stop-after 50m
    """  # noqa: D301 (as above)
    if name == "list":
        print_text(_listed())
        return
    from collapselab.experiments.runner import Request
    from collapselab.experiments.runner import reproduce as do
    from collapselab.papers.registry import find_experiment
    from collapselab.training import RunInterrupted

    experiment = find_experiment(name)
    changes = parse_changes(set_ or []) | ({} if threads is None else {"num_threads": threads})
    request = Request(
        experiment=experiment,
        scale=scale.value,
        seeds=seeds,
        out=out,
        copies=_copies(data or [], experiment, scale.value),
        changes=changes,
        only=[glob.strip() for glob in only.split(",") if glob.strip()] if only else (),
        command="collapselab " + shlex.join(_portable(sys.argv[1:])),
    )
    stopper = _stopper(stop_after)
    try:
        with GridProgress() as progress:
            outcome = do(request, _Told(progress, [extra.name for extra in experiment.extras]), stopper)
    except RunInterrupted as stopped:
        note(f"{request.folder}: {stopped.reason}; run it again to resume")
        sys.exit(_code(stopped))
    lines = [(outcome.folder / "verdicts.txt").read_text(encoding="utf-8").rstrip(), ""]
    if outcome.was_finished:
        lines.append("All runs were finished before; nothing was run again")
    if outcome.left_out:
        lines.append(
            f"{outcome.left_out} more runs were in the results before; rows, figures and verdicts are without them now"
        )
    lines += [
        f"Figures: {', '.join(str(path) for path in outcome.figures)}",
        f"Rows: {outcome.folder / 'rows.csv'}",
    ]
    print_text("\n".join([*lines, f"Page: {outcome.folder / 'report.html'}"]) + "\n")


class _Told:
    """Progress of an experiment, in a terminal."""

    def __init__(self, progress: GridProgress, extras: Sequence[str]) -> None:
        self._progress = progress
        self._then = " and ".join(name.replace("_", " ") for name in extras)

    def timing(self, job: str) -> None:
        self._progress.note(f"timing a few steps of {job}")

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        self._progress.note(
            f"{runs_left} of {runs} runs to do: about {say_duration(seconds)} at the speed of now"
            f"{f', then {self._then}' if self._then else ''} (Ctrl-C and the same command again lose nothing)"
        )

    def waiting(self, runs: int) -> None:
        self._progress.note(
            f"waiting for {runs} run{'s' if runs > 1 else ''} that another process is at, or that start from one of its runs"
        )

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        self._progress.begin(f"{job}, seed {seed}", number, runs, steps_before, steps_of_all, steps)

    def progress(self, done: int, total: int, doing: str) -> None:
        self._progress.update(done, total, doing)

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        how = {"steps": "", "loss": " (loss is low enough)", "diverged": " (diverged)"}[ended]
        self._progress.note(f"{number} of {runs}: {job}, seed {seed}: {say_duration(seconds)}{how}")

    def extra(self, name: str, seed: int) -> None:
        self._progress.note(f"computing {name.replace('_', ' ')}, seed {seed}")


def _listed() -> str:
    from collapselab.experiments.experiment import SCALES
    from collapselab.papers.registry import experiments

    lines = []
    for experiment in experiments().values():
        also = f" (also {', '.join(experiment.also)})" if experiment.also else ""
        lines.append(f"{experiment.id}{also}: {experiment.title} [{experiment.where}]")
        for scale in SCALES:
            preset = experiment.presets[scale]
            jobs = preset.jobs(0)
            names = sorted({job.recipe.data.name for job in jobs})
            lines.append(
                f"  {scale:<6} {len(jobs)} run{'s' if len(jobs) > 1 else ''} x {preset.seeds} seed"
                f"{'s' if preset.seeds > 1 else ''}, {sum(job.recipe.steps for job in jobs):,} steps a seed, data: "
                f"{', '.join(names)}"
            )
    return "\n".join(lines) + "\n"


def _copies(pairs: list[str], experiment: Any, scale: str) -> dict[str, Path]:
    """NAME=PATH; a path alone is that of the only data set that an experiment has."""
    from collapselab.data.names import local_copies

    names = {job.recipe.data.name for job in experiment.presets[scale].jobs(0)} - {"digits"}
    bare = [pair for pair in pairs if "=" not in pair]
    if bare and len(names) != 1:
        wanted = " or ".join(f"--data {name}={bare[0]}" for name in sorted(names)) or "leave --data out"
        raise InputError(f"--data {bare[0]}: of which data set? Say {wanted}")
    copies = local_copies([pair if "=" in pair else f"{next(iter(names))}={pair}" for pair in pairs])
    asked = [pair.partition("=")[0].strip() for pair in pairs if "=" in pair]
    if unused := [name for name in asked if name not in names]:
        raise InputError(
            f"--data {unused[0]}=…: {experiment.id} at scale {scale} reads {' and '.join(sorted(names)) or 'digits'} only; "
            "choose another --scale, or leave it out"
        )
    return copies


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    """Of `NAME=VALUE`, the values read as YAML reads them.

    Raises:
        InputError: no `=`, no YAML, the same name twice.
    """
    import yaml

    changes: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip() or name in changes:
            raise InputError(f"--set {pair}: give NAME=VALUE, each name once, as steps=500")
        try:
            changes[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"--set {pair}: the value cannot be read; give a number, true, or [a, b]"
            ) from error
    return changes


def say_duration(seconds: float) -> str:
    """In words, as exactly as an estimate is."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _portable(arguments: list[str]) -> list[str]:
    """A command as others can type it: folders of this machine are of no use to them."""
    out = []
    for argument in arguments:
        head, equals, path = argument.rpartition("=")
        shown = Path(path).name if Path(path).is_absolute() else path
        out.append(f"{head}{equals}{shown}")
    return out


def _stopper(stop_after: str | None) -> Stopper:
    from collapselab.training import Stopper, parse_duration

    return Stopper(None if stop_after is None else time.monotonic() + parse_duration(stop_after))


def _code(stopped: Any) -> int:
    """Ending at the time that was asked for is no failure."""
    return 0 if stopped.reason == "out of time" else INTERRUPTED
