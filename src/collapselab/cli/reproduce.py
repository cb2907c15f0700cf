"""`collapselab reproduce`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapselab.choices import Scale
from collapselab.cli.options import (
    DataOption,
    StopAfterOption,
    changes_from,
    copies_from,
    end_stopped,
    names_from,
    stopper_from,
)
from collapselab.cli.progress import ProgressBars
from collapselab.cli.terminal import print_text
from collapselab.errors import InputError
from collapselab.text import counted, duration, words

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment

_ENDINGS = {"steps": "", "loss": " (loss below its threshold)", "diverged": " (diverged)"}


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="PAPER/FIGURE|list",
            help="The experiment, such as hui2022/fig6; list prints all experiments.",
        ),
    ],
    scale: Annotated[
        Scale,
        typer.Option(
            help="smoke: takes seconds and needs no data; its verdicts mean nothing. cpu: real data; takes hours on two "
            "cores. paper: the paper's own settings; needs a GPU."
        ),
    ] = "smoke",
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            max=1000,
            metavar="N",
            help="Run seeds 0 to N-1; default: the number of seeds of the scale.",
        ),
    ] = None,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder to write everything to; default: runs/PAPER-FIGURE-SCALE."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="GLOB,GLOB",
            help="Run only jobs whose names match one of these globs, comma-separated. If no name matches, the error lists "
            "all names.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Override a value in every recipe (steps=500), or only in matching jobs (JOB-GLOB:steps=500). Overrides "
            "are recorded. May be given several times.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            max=4096,
            metavar="N",
            help="Number of CPU threads; default: the number that PyTorch uses. The last digits of results depend on it.",
        ),
    ] = None,
    stop_after: StopAfterOption = None,
) -> None:
    """Reproduce an experiment of a paper.

    Trains and measures networks, draws the paper's figures, judges its claims, and writes a page. The page also lists how
    the chosen --scale differs from the paper's experiment. An experiment consists of jobs. Jobs differ in settings such
    as the data set. Each seed of a job is a run. If an experiment is stopped or killed, the same command resumes it.
    Finished runs are not run again, so you can add seeds later. To share the runs among processes, start the same command
    in several terminals.

    \b
    Examples:
      collapselab reproduce list
      collapselab reproduce hui2022/fig6
      collapselab reproduce hui2022/fig6 --scale cpu --data mnist=data/mnist --seeds 3 --stop-after 50m
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    if name == "list":
        print_text(_listed())
        return
    from collapselab.cli.outcome import print_outcome
    from collapselab.experiments.runner import Request
    from collapselab.experiments.runner import reproduce as run_experiment
    from collapselab.registry import find_experiment
    from collapselab.training import RunInterrupted

    experiment = find_experiment(name)
    request = Request(
        experiment=experiment,
        scale=scale,
        seeds=seeds,
        out=out,
        copies=_copies(data, experiment, scale),
        changes=changes_from(set_) | ({} if threads is None else {"num_threads": threads}),
        only=names_from(only),
        command="collapselab " + shlex.join(_portable(sys.argv[1:])),
    )
    stopper = stopper_from(stop_after)
    try:
        with ProgressBars() as bars:
            watcher = _GridBars(bars, list(experiment.extras))
            outcome = run_experiment(request, watcher, stopper)
    except RunInterrupted as stopped:
        end_stopped(request.folder, stopped, f"{stopped.reason}; run the same command again to resume")
        return
    notes = ["All runs were already finished; nothing was run again"] if outcome.was_finished else []
    if outcome.left_out:
        notes.append(
            f"Earlier results included {counted(outcome.left_out, 'more run')}; rows, figures and verdicts now exclude them"
        )
    print_outcome(outcome, notes)


class _GridBars:
    """Shows the progress of an experiment: one bar for all runs, one for the run in progress."""

    def __init__(self, bars: ProgressBars, extras: Sequence[str]) -> None:
        self._bars = bars
        self._extras = " and ".join(words(name) for name in extras)
        self._all, self._run = ("", 0, 0), ""

    def timing(self, job: str) -> None:
        self._bars.note(f"timing a few steps of {job}")

    def estimated(self, runs_left: int, runs: int, seconds: float) -> None:
        then = f", then {self._extras}" if self._extras else ""
        self._bars.note(
            f"{runs_left} of {counted(runs, 'run')} left: about {duration(seconds)} at the current speed{then} (you can "
            "stop with Ctrl-C; the same command resumes)"
        )

    def waiting(self, runs: int) -> None:
        self._bars.note(f"waiting for {counted(runs, 'run')} in other processes")

    def run_started(
        self, job: str, seed: int, number: int, runs: int, steps_before: int, steps_of_all: int, steps: int
    ) -> None:
        self._bars.hide_all()
        self._all, self._run = (f"run {number} of {runs}", steps_before, steps_of_all), f"{job}, seed {seed}"
        self.progress(0, steps, "starting")

    def progress(self, done: int, total: int, doing: str) -> None:
        text, before, all_steps = self._all
        self._bars.show("all runs", before + done, all_steps, text)
        self._bars.show(self._run, done, total, f"{done:,} of {total:,} steps, {doing}")

    def run_ended(self, job: str, seed: int, number: int, runs: int, ended: str, seconds: float) -> None:
        self._bars.note(f"{number} of {runs}: {job}, seed {seed}: {duration(seconds)}{_ENDINGS[ended]}")

    def extra(self, name: str, seed: int) -> None:
        self._bars.note(f"computing {words(name)}, seed {seed}")


def _listed() -> str:
    """List all experiments, each with its size and data at every scale."""
    from collapselab.registry import experiments

    lines = []
    for experiment in experiments().values():
        also = f" (also {', '.join(experiment.also)})" if experiment.also else ""
        lines.append(f"{experiment.id}{also}: {experiment.title} [{experiment.where}]")
        for scale, preset in experiment.presets.items():
            jobs = preset.jobs(0)
            lines.append(
                f"  {scale:<6} {counted(len(jobs), 'job')} x {counted(preset.seeds, 'seed')}, "
                f"{sum(job.recipe.steps for job in jobs):,} steps per seed, data: {', '.join(preset.data_names())}"
            )
    return "\n".join(lines) + "\n"


def _copies(pairs: list[str] | None, experiment: Experiment, scale: Scale) -> Mapping[str, Path]:
    """Return the local copies given by `--data`; the experiment must use all of them."""
    copies = copies_from(pairs)
    names = set(experiment.presets[scale].data_names()) - {"digits"}
    for pair in pairs or []:
        if pair.partition("=")[0].strip() not in names:
            raise InputError(
                f"--data {pair}: {experiment.id} at scale {scale} uses only {' and '.join(sorted(names)) or 'digits'}; "
                "choose another --scale, or omit this option"
            )
    return copies


def _portable(arguments: list[str]) -> list[str]:
    """Return the command without machine-specific paths: absolute paths are shortened to their last part."""

    def portable(argument: str) -> str:
        head, equals, path = argument.rpartition("=")
        return f"{head}{equals}{Path(path).name if Path(path).is_absolute() else path}"

    return [portable(argument) for argument in arguments]
