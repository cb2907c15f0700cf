"""Format a `Measurement`, a `Profile` or a `Ranking` as text, and print it or write it to a file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapselab.cli.errors import in_options, options_of
from collapselab.cli.options import Format
from collapselab.cli.terminal import is_terminal, note, print_text, terminal_width, uses_colour
from collapselab.errors import InputError, encodable, in_strings, one_line, printable
from collapselab.storage import WriteError, replace_text, write_to_device
from collapselab.text import grouped

if TYPE_CHECKING:
    from collapselab.features.measurement import Measurement
    from collapselab.probes import Profile
    from collapselab.ranking import Ranking

    Result = Measurement | Profile | Ranking


def show(result: Result, format: Format, output: Path | None, command: Callable[..., Any]) -> None:
    """Print a result, or write it to a file; csv has no warnings, so they go to stderr.

    Args:
        result: its warnings are shown with options of the command in place of arguments of Python.
        format: of the text.
        output: file to write; None for standard output.
        command: function of the command that shows it.
    """
    options = options_of(command)
    result = replace(result, warnings=tuple(in_options(text, options) for text in result.warnings))
    text = as_text(result, format, to_terminal=output is None and is_terminal())
    if format == "csv":
        for warning in grouped(result.warnings):
            note(f"warning: {one_line(warning)}")
    if output is None:
        print_text(text)
    else:
        write_text(output, text)
        note(f"wrote {output}")


def as_text(result: Result, format: Format, *, to_terminal: bool = False) -> str:
    """Format a result. In JSON every number is finite, and an undefined metric is null; in CSV it is empty."""
    from collapselab.features.measurement import Measurement
    from collapselab.probes import Profile
    from collapselab.tables import measurement_table, profile_table

    if format == "json":
        return json.dumps(in_strings(encodable, result.to_dict()), indent=2, allow_nan=False) + "\n"
    width, colour = (terminal_width(), uses_colour()) if to_terminal else (None, False)
    if isinstance(result, Profile):
        if format == "csv":
            return _csv(("layer", "depth", "split", "name", "value"), _profile_rows(result))
        return profile_table(result, width=width, colour=colour)
    if isinstance(result, Measurement):
        if format == "csv":
            return _csv(("name", "split", "value"), _measurement_rows(result))
        return measurement_table(result, width=width, colour=colour)
    return _ranking_text(result, format, width, colour=colour)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows((*row[:-1], "" if row[-1] is None else row[-1]) for row in rows)
    return text.getvalue()


def _measurement_rows(measurement: Measurement) -> Iterator[tuple[str, str, Any]]:
    """One row per metric and split; values of a spectrum have rows of their own: `within_eigenvalues[0]`, …"""
    for split, values in measurement.splits.items():
        for name, value in values.items():
            yield name, split, value
    for split, lists in measurement.spectra.items():
        for name, values in lists.items():
            for index, value in enumerate(values):
                yield f"{name}[{index}]", split, value


def _profile_rows(profile: Profile) -> Iterator[tuple[str, int, str, str, Any]]:
    for layer in profile.layers:
        for split, measured in layer.splits.items():
            for name, value in measured.metrics.items():
                yield printable(layer.name), layer.depth, split, name, value


def _ranking_text(ranking: Ranking, format: Format, width: int | None, *, colour: bool) -> str:
    from collapselab.cli.rank_table import ranking_table

    if format == "csv":
        return _csv(("dataset", "model", "name", "value"), _ranking_rows(ranking))
    return ranking_table(ranking, width=width, colour=colour)


def _ranking_rows(ranking: Ranking) -> Iterator[tuple[str, str, str, Any]]:
    for row in ranking.rows:
        facts = {"rank": row.rank, "num_samples": row.num_samples, "dim": row.dim, "accuracy": row.accuracy}
        seconds = {f"seconds of {name}": value for name, value in row.seconds.items()}
        for name, value in {**facts, **row.scores, **seconds}.items():
            yield printable(row.dataset), printable(row.model), name, value


def make_result_folder(path: Path, known: Iterable[str], what: str) -> None:
    """Create the folder of `--out`, or accept one with earlier results.

    Args:
        path: the folder.
        known: names of the files of an earlier result.
        what: what such files are, for the message.

    Raises:
        InputError: it cannot be created or written to, or contains something else.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise InputError(f"--out {path}: cannot be created ({reason}); choose another folder") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"--out {path}: no permission to write; choose another folder")
    if (path / "run.json").exists() or (
        any(path.iterdir()) and not any((path / name).exists() for name in known)
    ):
        raise InputError(f"--out {path}: contains something other than {what}; choose another folder")


def check_output(path: Path, inputs: tuple[Path, ...]) -> None:
    """Reject a file that cannot be written, before any work is done.

    Raises:
        InputError: a folder, a file in a folder that does not exist or cannot be written to, or one of `inputs`.
    """
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}; create it first")
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            raise InputError(f"--output {path}: is one of the files to measure; give another name")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--output {path}: no permission to write; choose another file")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: on failure the old file remains.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a device or pipe cannot be replaced
            write_to_device(path, text.encode("utf-8", errors="backslashreplace"))
            return
        replace_text(path, text)
    except WriteError as error:
        raise InputError(f"--output {error}") from error
