"""Options that several commands share."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from collapselab.cli.terminal import INTERRUPTED, note
from collapselab.errors import InputError

if TYPE_CHECKING:
    from collapselab.training import RunInterrupted, Stopper

Format = Literal["table", "json", "csv"]


def _check_pairs(pairs: list[str] | None) -> list[str] | None:
    """Reject the former use of `--data`, which named the data set to measure."""
    for pair in pairs or []:
        if "=" not in pair:
            raise InputError(
                f"--data {pair}: give NAME=PATH, the path of a local copy, such as mnist=data/mnist; for the data to "
                f"profile, use --dataset {pair}"
            )
    return pairs


def _data_option(used_by: str = "") -> Any:
    return typer.Option(
        "--data",
        metavar="NAME=PATH",
        callback=_check_pairs,
        help=f"{used_by}Path of a local copy of a named data set, such as mnist=data/mnist. May be given several times. "
        "To set paths for all commands, use the environment variable COLLAPSELAB_DATA.",
    )


DataOption = Annotated[list[str] | None, _data_option()]
RecipeDataOption = Annotated[list[str] | None, _data_option("Recipes only. ")]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="NAME,NAME",
        help="Compute these metrics only: comma-separated names from collapselab metrics. Passes over the data that they "
        "do not need are not made. Default: all.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE",
        callback=lambda path: None if path == Path("-") else path,
        help="Write the result to this file instead of standard output; - is standard output.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Recipes only. Override a value of the recipe, such as optimizer.learning_rate=0.01. May be given several times.",
    ),
]
StopAfterOption = Annotated[
    str | None,
    typer.Option(
        "--stop-after",
        metavar="TIME",
        help="Stop cleanly after this time, such as 90s, 9m or 1h30m; run the same command again to resume.",
    ),
]


def copies_from(pairs: list[str] | None) -> dict[str, Path]:
    """Parse the pairs NAME=PATH of `--data`.

    Raises:
        InputError: an unknown name, a path that does not exist, a name with two paths.
    """
    from collapselab.data.names import local_copies

    return local_copies(pairs or [], origin="--data")


def check_data(*sources: str | None) -> None:
    """Refuse what names no data set, before anything is loaded.

    Raises:
        InputError: with near matches.
    """
    from collapselab.data.names import check_source

    for source in sources:
        if source is not None:
            check_source(source)


def changes_from(pairs: list[str] | None) -> dict[str, Any]:
    """Parse the pairs NAME=VALUE of `--set`; values are read as YAML.

    Raises:
        InputError: no `=`, not YAML, the same name twice.
    """
    from collapselab.records.plain_yaml import read_yaml

    changes: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip() or name.strip() in changes:
            raise InputError(f"--set {pair}: give NAME=VALUE, each name once, such as steps=500")
        try:
            changes[name.strip()] = read_yaml(text, "the value")
        except InputError as error:
            raise InputError(
                f"--set {pair}: the value cannot be read ({error}); give a number, true, or [a, b]"
            ) from error
    return changes


def names_from(text: str | None) -> list[str]:
    """Split comma-separated names."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def stopper_from(stop_after: str | None) -> Stopper:
    """Return a `Stopper` with the deadline of `--stop-after`, or without one.

    Raises:
        InputError: not a positive duration.
    """
    from collapselab.training import Stopper, parse_duration

    if stop_after is None:
        return Stopper()
    try:
        return Stopper(time.monotonic() + parse_duration(stop_after))
    except InputError as error:
        raise InputError(
            f"--stop-after {stop_after}: give a positive duration such as 90s, 9m or 1h30m"
        ) from error


def end_stopped(where: Path, stopped: RunInterrupted, what: object) -> None:
    """Print why the work was stopped, and exit; the exit code is 0 if the time of `--stop-after` was reached."""
    note(f"{where}: {what}")
    sys.exit(0 if stopped.reason == "out of time" else INTERRUPTED)


def metric_names(options: list[str] | None) -> list[str] | None:
    """Return the names given by all `--metrics`; None for all.

    Raises:
        InputError: no names, or an unknown one, with near matches.
    """
    from collapselab.metrics.names import check_metrics

    if not options:
        return None
    names = names_from(",".join(options))
    if not names:
        raise InputError("--metrics: no names given; give comma-separated names, or leave it out for all")
    check_metrics(names)
    return names
