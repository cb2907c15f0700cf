"""A `Profile` as text: JSON, CSV or a table."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from typing import TYPE_CHECKING

from collapselab.errors import one_line
from collapselab.output import number

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
_PLAIN_WIDTH, _WIDTHS = 96, (80, 140)
_MAX_NAME = 30


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

    width = _PLAIN_WIDTH if width is None else min(max(width, _WIDTHS[0]), _WIDTHS[1])
    text = io.StringIO()
    console = Console(
        file=text, width=width, force_terminal=colour, color_system="standard" if colour else None,
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
    console.print(_layer_table(profile))
    console.print()
    console.print(Text(f"First collapsed layer on train data: {profile.first_collapsed_layer or 'none'}"))
    for warning in profile.warnings:
        lines = textwrap.wrap(one_line(f"warning: {warning}"), width, subsequent_indent="  ")
        console.print(Text("\n".join(lines), style="yellow"))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _layer_table(profile: Profile) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("layer", no_wrap=True)
    table.add_column("dim", justify="right", no_wrap=True)
    for _, heading, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in profile.layers:
        cells = []
        for name, _, on_both in _COLUMNS:
            splits = layer.splits if on_both else ("train",)
            shown = " ".join(_short(layer.splits[split].metrics.get(name)) for split in splits)
            estimated = name == "stable_rank" and layer.scatter == "sketch" and shown != "–"
            cells.append(f"~{shown}" if estimated else shown)
        share = layer.train.get("normalized_within")
        mark = "*" if share is not None and share < profile.epsilon else ""
        table.add_row(f"{_shortened(layer.name)}{mark}", str(layer.dim), *cells)
    return table


def _short(value: int | float | None) -> str:
    return number(None if value is None else float(f"{value:.3g}"))


def _shortened(name: str) -> str:
    """A long name without its middle: what tells layers apart is at its ends."""
    half = _MAX_NAME // 2
    return name if len(name) <= _MAX_NAME else f"{name[:half]}…{name[-half:]}"
