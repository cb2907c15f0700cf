"""A `Profile` as text: JSON, CSV or a table."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from typing import TYPE_CHECKING

from collapselab.cli.output import number
from collapselab.errors import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from collapselab.probes import Profile

# Metric, heading, and whether both splits are shown.
_COLUMNS = (
    ("normalized_within", "within/total", True),
    ("equiangularity", "equiangular", False),
    ("alignment", "aligned", False),
    ("alignment_random", "random", False),
    ("ncc_agreement", "NCC agrees", True),
    ("stable_rank", "stable rank", False),
)
_HEADINGS = {name: heading for name, heading, _ in _COLUMNS}
# What a narrow terminal does without, the first first.
_DROPPED = ("alignment_random", "stable_rank", "equiangularity", "alignment")
_PLAIN_WIDTH, _WIDTHS = 96, (80, 140)
_MIN_NAME, _MAX_NAME, _GAP = 12, 30, 3


def profile_to_json(profile: Profile) -> str:
    """One JSON object; every number is finite, what is undefined is null."""
    return json.dumps(profile.to_dict(), indent=2, allow_nan=False) + "\n"


def profile_to_csv(profile: Profile) -> str:
    """Columns `layer,depth,split,name,value`; an empty value is undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "depth", "split", "name", "value"))
    for layer in profile.layers:
        for split, measured in layer.splits.items():
            writer.writerows(
                (layer.name, layer.depth, split, name, "" if value is None else value)
                for name, value in measured.metrics.items()
            )
    return text.getvalue()


def profile_to_table(profile: Profile, *, width: int | None = None, colour: bool = False) -> str:
    """Layers by main metrics, the first collapsed layer, then the warnings.

    Args:
        width: of the terminal; None where there is none.
        colour: whether terminal codes may be used.
    """
    from rich.console import Console
    from rich.text import Text

    limit = None if width is None else min(max(width, _WIDTHS[0]), _WIDTHS[1])
    width = limit or _PLAIN_WIDTH
    rows = _cells(profile)
    names, left_out = _fitted(rows, limit)
    text = io.StringIO()
    console = Console(
        file=text, width=width if limit else max(width, _width(rows)), force_terminal=colour, color_system="standard" if colour else None,
        legacy_windows=False, highlight=False, emoji=False,
    )  # fmt: skip
    samples = " and ".join(f"{count} {split}" for split, count in profile.num_samples.items())
    console.print(
        Text(
            f"{profile.model}: {samples} samples, {len(profile.classes)} classes, {profile.weighting} weighting"
        )
    )
    both = "; cells with two numbers are train, then test" if "test" in profile.num_samples else ""
    console.print(Text(f"* collapsed on train (< {profile.epsilon:g}); ~ estimated from a sketch{both}"))
    console.print(_layer_table(rows, names))
    if left_out:
        console.print(Text(f"Not shown for lack of width: {', '.join(left_out)}"))
    console.print()
    console.print(Text(f"First collapsed layer on train data: {profile.first_collapsed_layer or 'none'}"))
    for warning in profile.warnings:
        lines = textwrap.wrap(one_line(f"warning: {warning}"), width, subsequent_indent="  ")
        console.print(Text("\n".join(lines), style="yellow"))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _layer_table(rows: dict[str, list[str]], name_width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for heading in rows:
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for name, *values in zip(*rows.values(), strict=True):
        table.add_row(Text(_shortened(name, name_width)), *values)
    return table


def _cells(profile: Profile) -> dict[str, list[str]]:
    """The columns of the table by heading, a cell per layer."""
    columns: dict[str, list[str]] = {heading: [] for heading in ("layer", "dim", *_HEADINGS.values())}
    for layer in profile.layers:
        share = layer.train.get("normalized_within")
        mark = "*" if share is not None and share < profile.epsilon else ""
        columns["layer"].append(f"{layer.name}{mark}")
        columns["dim"].append(str(layer.dim))
        for name, heading, on_both in _COLUMNS:
            splits = layer.splits if on_both else ("train",)
            shown = " ".join(_short(layer.splits[split].metrics.get(name)) for split in splits)
            estimated = name == "stable_rank" and layer.scatter == "sketch" and shown != "–"
            columns[heading].append(f"~{shown}" if estimated else shown)
    return columns


def _width(columns: dict[str, list[str]], name_width: int = _MAX_NAME) -> int:
    widths = [max(len(heading), *map(len, cells)) for heading, cells in columns.items()]
    return min(widths[0], name_width) + sum(_GAP + width for width in widths[1:])


def _fitted(columns: dict[str, list[str]], limit: int | None) -> tuple[int, list[str]]:
    """How wide names may be, and the headings of what was taken out of `columns`, so that no number is cut."""
    left_out: list[str] = []
    for metric in _DROPPED:
        if limit is None or _width(columns, _MIN_NAME) <= limit:
            break
        left_out.append(_HEADINGS[metric])
        del columns[_HEADINGS[metric]]
    room = _MAX_NAME if limit is None else limit - _width(columns, 0)
    return min(max(room, _MIN_NAME), _MAX_NAME), left_out


def _short(value: int | float | None) -> str:
    return number(None if value is None else float(f"{value:.3g}"))


def _shortened(name: str, width: int) -> str:
    """A long name without its middle: what tells layers apart, and the mark of a collapsed one, is at its ends."""
    end = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - end]}…{name[-end:]}"
