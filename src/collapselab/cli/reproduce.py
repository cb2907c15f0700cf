"""`collapselab reproduce`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapselab.choices import EngineName, Scale
from collapselab.cli.errors import options_of
from collapselab.cli.grid_bars import GridBars, shares_left
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
from collapselab.cli.terminal import note, print_text
from collapselab.errors import InputError
from collapselab.text import counted

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment
    from collapselab.experiments.runner import Request
    from collapselab.experiments.running import Engine
    from collapselab.training import Stopper

_ALL = "all"
_SHARE = re.compile(r"(\d+)/(\d+)")


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="PAPER/FIGURE|PAPER|all|list",
            help="The experiment, such as hui2022/fig6; a paper, such as hui2022, for all of its experiments; all for every "
            "experiment. list prints them.",
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
            "--out",
            metavar="DIR",
            help="Folder to write everything to; default: runs/PAPER-FIGURE-SCALE. Several experiments are written to "
            "DIR/PAPER/FIGURE.",
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
    jobs: Annotated[
        str | None,
        typer.Option(
            "--jobs",
            metavar="I/N",
            help="Run only the I-th of N shares of the runs, such as 1/8 in the first task of a SLURM array. Figures and "
            "verdicts are made when all shares are there.",
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="local: one run after another in this process. ray: many at once on a Ray cluster."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="ray only. The cluster; default: RAY_ADDRESS, else one that runs on this machine, else a new one.",
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus",
            min=0,
            max=64,
            metavar="N",
            help="ray only. GPUs that each run needs; 0.5 runs two on a GPU. Default: 1 at scale paper, otherwise 0.",
        ),
    ] = None,
    stop_after: StopAfterOption = None,
) -> None:
    """Reproduce an experiment of a paper, or several.

    Trains and measures networks, draws the paper's figures, judges its claims, and writes a page. The page also lists how
    the chosen --scale differs from the paper's experiment. An experiment consists of jobs. Jobs differ in settings such
    as the data set. Each seed of a job is a run. If an experiment is stopped or killed, the same command resumes it.
    Finished runs are not run again, so you can add seeds later. To share the runs among processes, start the same command
    in several terminals, share them out with --jobs, or run them on a cluster with --engine ray.

    For several experiments, the estimate of each is printed first. An experiment that fails does not stop the others. One
    page over all of them is written after each: DIR/index.html with --out DIR, otherwise runs/NAME-SCALE.html.

    \b
    Examples:
      collapselab reproduce list
      collapselab reproduce hui2022/fig6
      collapselab reproduce hui2022/fig6 --scale cpu --data mnist=data/mnist --seeds 3 --stop-after 50m
      collapselab reproduce all --scale cpu --data mnist=data/mnist --data cifar10=data/cifar10
      collapselab reproduce hui2022/fig2 --scale paper --data cifar10=/shared/cifar10 --out /shared/fig2 --engine ray
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    if name == "list":
        print_text(_listed())
        return
    copies = copies_from(data)
    chosen = _chosen(name)
    from collapselab.cli.reproduce_many import reproduce_many
    from collapselab.experiments.runner import Request

    is_one = name != _ALL and "/" in name
    if only and not is_one:
        raise InputError(f"--only {only}: names of jobs differ between experiments; give a single experiment")
    _check_used(data, chosen, scale, name)
    requests = [
        Request(
            experiment=experiment,
            scale=scale,
            seeds=seeds,
            out=out if is_one or out is None else out / experiment.id,
            copies=copies,
            changes=changes_from(set_) | ({} if threads is None else {"num_threads": threads}),
            only=names_from(only),
            share=_share(jobs),
            engine=_engine(engine, address, gpus),
            command="collapselab " + shlex.join(_portable(sys.argv[1:])),
        )
        for experiment in chosen
    ]
    stopper = stopper_from(stop_after)
    if is_one:
        _reproduce_one(requests[0], stopper)
    else:
        page = Path("runs") / f"{name}-{scale}.html" if out is None else out / "index.html"
        reproduce_many(requests, page, stopper, options_of(reproduce))


def _reproduce_one(request: Request, stopper: Stopper) -> None:
    from collapselab.cli.outcome import print_outcome
    from collapselab.experiments.runner import SharesLeft
    from collapselab.experiments.runner import reproduce as run_experiment
    from collapselab.training import RunInterrupted

    try:
        with ProgressBars() as bars:
            outcome = run_experiment(request, GridBars(bars, list(request.experiment.extras)), stopper)
    except RunInterrupted as stopped:
        end_stopped(request.folder, stopped, f"{stopped.reason}; run the same command again to resume")
        return
    except SharesLeft as left:
        note(f"{request.folder}: {shares_left(left.runs)}")
        return
    notes = ["All runs were already finished; nothing was run again"] if outcome.was_finished else []
    if outcome.left_out:
        notes.append(
            f"Earlier results included {counted(outcome.left_out, 'more run')}; rows, figures and verdicts now exclude them"
        )
    print_outcome(outcome, notes)


def _chosen(name: str) -> Sequence[Experiment]:
    """Return the experiment of this name, all of a paper, or all."""
    from collapselab.registry import IDS, find_experiment

    of_paper = [find_experiment(id) for id in IDS if name in (_ALL, id.partition("/")[0])]
    return of_paper or [find_experiment(name)]


def _share(jobs: str | None) -> tuple[int, int]:
    """Parse I/N of `--jobs`."""
    if jobs is None:
        return 1, 1
    match = _SHARE.fullmatch(jobs.strip())
    share, shares = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share <= shares:
        raise InputError(f"--jobs {jobs}: give I/N with I from 1 to N, such as 1/8")
    return share, shares


def _engine(name: EngineName, address: str | None, gpus: float | None) -> Engine | None:
    if name == "ray":
        from collapselab.experiments.engines.ray_cluster import RayCluster

        return RayCluster(address, gpus)
    for option, value in {"--address": address, "--gpus": gpus}.items():
        if value is not None:
            raise InputError(f"{option} {value}: only a cluster has it; give --engine ray too")
    return None


def _listed() -> str:
    """List all experiments, each with its size and data at every scale."""
    from collapselab.registry import IDS, find_experiment

    lines = []
    for id, others in IDS.items():
        experiment = find_experiment(id)
        also = f" (also {', '.join(others)})" if others else ""
        lines.append(f"{experiment.id}{also}: {experiment.title} [{experiment.where}]")
        for scale, preset in experiment.presets.items():
            jobs = preset.jobs(0)
            lines.append(
                f"  {scale:<6} {counted(len(jobs), 'job')} x {counted(preset.seeds, 'seed')}, "
                f"{sum(job.recipe.steps for job in jobs):,} steps per seed, data: {', '.join(preset.data_names())}"
            )
    return "\n".join(lines) + "\n"


def _check_used(pairs: list[str] | None, experiments: Sequence[Experiment], scale: Scale, name: str) -> None:
    """Refuse local copies given by `--data` that the experiments do not use."""
    names = {name for one in experiments for name in one.presets[scale].data_names()} - {"digits"}
    for pair in pairs or []:
        if pair.partition("=")[0].strip() not in names:
            raise InputError(
                f"--data {pair}: {name} at scale {scale} uses only {' and '.join(sorted(names)) or 'digits'}; "
                "choose another --scale, or omit this option"
            )


def _portable(arguments: list[str]) -> list[str]:
    """Return the command without machine-specific paths: absolute paths are shortened to their last part."""

    def portable(argument: str) -> str:
        head, equals, path = argument.rpartition("=")
        return f"{head}{equals}{Path(path).name if Path(path).is_absolute() else path}"

    return [portable(argument) for argument in arguments]
