"""A `Measurement` as text: JSON, CSV or a table; and writing it to a file in one step."""

from __future__ import annotations

import csv
import io
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.errors import InputError, one_line
from collapselab.storage import replace_text

if TYPE_CHECKING:
    from rich.table import Table

    from collapselab.features.measure import Measurement

_MISSING = "–"
# How many values of a spectrum a table shows; files hold all.
_SPECTRUM_HEAD = 5
# A table stays readable on the narrowest usual screen, and wider lines make it no clearer.
_WIDTHS = (72, 100)
_PLAIN_WIDTH = 80


def to_json(measurement: Measurement) -> str:
    """One JSON object; every number is finite, what is undefined is null."""
    return json.dumps(measurement.to_dict(), indent=2, allow_nan=False) + "\n"


def to_csv(measurement: Measurement) -> str:
    """Columns `name,split,value`, one row per metric and split; an empty value is undefined.

    Values of a spectrum have rows of their own, named `within_eigenvalues[0]` and so on, largest first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "split", "value"))
    for split, values in measurement.splits.items():
        writer.writerows((name, split, "" if value is None else value) for name, value in values.items())
    for split, lists in measurement.spectra.items():
        for name, values in lists.items():
            writer.writerows((f"{name}[{index}]", split, value) for index, value in enumerate(values))
    return text.getvalue()


def to_table(measurement: Measurement, *, width: int | None = None, colour: bool = False) -> str:
    """Metrics by family with their values on each split and at full collapse, then the warnings.

    Args:
        width: of the terminal; None where there is none.
        colour: whether terminal codes may be used.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    width = _PLAIN_WIDTH if width is None else min(max(width, _WIDTHS[0]), _WIDTHS[1])
    text = io.StringIO()
    console = Console(
        file=text, width=width, force_terminal=colour, color_system="standard" if colour else None,
        legacy_windows=False, highlight=False, emoji=False,
    )  # fmt: skip
    m = measurement
    head = f"{m.num_samples} samples, {m.num_classes} classes, {m.dim} features, {m.weighting} weighting"
    console.print(Text(head))
    console.print(_metric_table(measurement))
    for split, lists in measurement.spectra.items():
        for name, values in lists.items():
            shown = ", ".join(number(value) for value in values[:_SPECTRUM_HEAD])
            rest = f", … ({len(values)} in all)" if len(values) > _SPECTRUM_HEAD else ""
            console.print(Padding(Text(f"{split} {name}: {shown}{rest}"), (0, 0, 0, 2)))
    if measurement.spectra:
        console.print()
    for warning in measurement.warnings:
        lines = textwrap.wrap(one_line(f"warning: {warning}"), width, subsequent_indent="  ")
        console.print(Text("\n".join(lines), style="yellow"))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _metric_table(measurement: Measurement) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from collapselab.metrics import METRICS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("metric", overflow="fold")
    for split in measurement.splits:
        table.add_column(split, justify="right", no_wrap=True, min_width=10)
    table.add_column("at collapse", justify="right", no_wrap=True)
    family = None
    for metric in METRICS:
        if not any(metric.name in values for values in measurement.splits.values()):
            continue
        if metric.family != family:
            family = metric.family
            table.add_section()
            table.add_row(Text(family, style="bold"))
        values = [number(values.get(metric.name)) for values in measurement.splits.values()]
        table.add_row(f"  {metric.name}", *values, number(metric.at_collapse))
    return table


def number(value: int | float | None) -> str:
    """Four significant digits; whole numbers in full; a dash where there is none."""
    if value is None or value != value:
        return _MISSING
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def check_output(path: Path, inputs: tuple[Path, ...]) -> None:
    """Refuse a file that could not be written, before any work is done for it.

    Raises:
        InputError: a folder, in a folder that does not exist or cannot be written, or one of `inputs`.
    """
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}; make it first")
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            raise InputError(f"--output {path}: is the file that is measured; name another")
    writable = os.access(path if path.exists() else path.parent, os.W_OK)
    if not writable:
        raise InputError(f"--output {path}: may not be written; choose another place")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it, and a failure leaves the old one.

    Raises:
        InputError: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a device or pipe cannot be replaced
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return
        replace_text(path, text)
    except OSError as error:
        raise InputError(
            f"--output {path}: cannot be written ({one_line(error.strerror or error)}); choose another place"
        ) from error
