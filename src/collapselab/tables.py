"""Tables for a terminal: a `Measurement`, a `Profile`, layers of a run."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from collapselab.errors import one_line, printable, printable_lines, without_middle
from collapselab.text import MISSING, grouped, number

if TYPE_CHECKING:
    from rich.table import Table

# How many values of a spectrum a table shows; files contain all.
_SPECTRUM_HEAD = 5
# The narrowest and the widest table; longer lines are harder to read.
WIDTHS = (72, 100)
_LAYER_WIDTHS = (80, 140)
_PLAIN_WIDTH, _PLAIN_LAYER_WIDTH = 80, 96
_MIN_NAME, _MAX_NAME, _GAP = 12, 30, 3


@dataclass(frozen=True)
class Column:
    """A column of a table of layers: a metric, its heading, whether both splits are shown, and what it means."""

    metric: str
    heading: str
    on_both: bool
    meaning: str


WITHIN = ("normalized_within", "within/total", True, "within-class share of the variance")
ANGLES = ("equiangularity", "equiangular")
SPREAD = "spread of the cosines between class means"
ALIGNED = "alignment of the class means with the weight"
AGREES = (
    "ncc_agreement",
    "NCC agrees",
    True,
    "agreement of nearest class mean and network",
)
_PROFILE_COLUMNS = (
    Column(*WITHIN),
    Column(*ANGLES, False, SPREAD),
    Column("alignment", "aligned", False, ALIGNED),
    Column("alignment_random", "random", False, "alignment of random subspaces"),
    Column(*AGREES),
    Column("stable_rank", "stable rank", False, "stable rank of the features within classes"),
)
_MAX_OTHERS = 6  # chosen metrics with a column of their own
# Columns hidden in a narrow terminal, in this order.
_DROPPED = ("random", "stable rank", "adjusted VCI", "equiangular", "aligned")


@dataclass(frozen=True)
class LayerRow:
    """A row of a table of layers: its metrics by split."""

    name: str
    splits: Mapping[str, Mapping[str, Any]]
    dim: int | None = None
    is_sketched: bool = False


def measurement_table(measurement: Any, *, width: int | None = None, colour: bool = False) -> str:
    """Format metrics by family with their values on each split and at full collapse, then the warnings.

    Args:
        measurement: a `Measurement`, known by its attributes: it lies above this module.
        width: columns of the terminal; None without one.
        colour: whether to use terminal codes.
    """
    m = measurement
    width = _PLAIN_WIDTH if width is None else min(max(width, WIDTHS[0]), WIDTHS[1])
    head = f"{m.num_samples} samples, {m.num_classes} classes, {m.dim} features, {m.weighting} weighting"
    spectra = [*_spectrum_lines(m), ""] if m.spectra else []
    return printed([head, _metric_table(m), *spectra, *warning_lines(m.warnings, width)], width, colour)


def _spectrum_lines(measurement: Any) -> Iterator[str]:
    for split, lists in measurement.spectra.items():
        for name, values in lists.items():
            head = ", ".join(number(value, 4) for value in values[:_SPECTRUM_HEAD])
            rest = f", … ({len(values)} in all)" if len(values) > _SPECTRUM_HEAD else ""
            yield f"  {split} {name}: {head}{rest}"


def _metric_table(measurement: Any) -> Table:
    from rich.text import Text

    from collapselab.metrics import METRICS

    table = empty_table()
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
        values = [values.get(metric.name) for values in measurement.splits.values()]
        table.add_row(
            f"  {metric.name}", *(number(value, 4, MISSING) for value in (*values, metric.at_collapse))
        )
    return table


def profile_table(profile: Any, *, width: int | None = None, colour: bool = False) -> str:
    """Format layers by main metrics, the first collapsed layer, then the warnings.

    Args:
        profile: a `Profile`, known by its attributes.
        width: columns of the terminal; None without one.
        colour: whether to use terminal codes.
    """
    layers = [
        LayerRow(
            layer.name,
            {split: measured.metrics for split, measured in layer.splits.items()},
            layer.dim,
            layer.scatter == "sketch",
        )
        for layer in profile.layers
    ]
    columns = _columns_of(layers)
    shown = {column.metric for column in columns}
    table, width, below = layer_table(layers, columns, profile.epsilon, width)
    collapse = f"First collapsed layer on train data: {profile.first_collapsed_layer or 'none'}"
    has_fuzziness = any("fuzziness" in metrics for layer in layers for metrics in layer.splits.values())
    samples = " and ".join(f"{count} {split}" for split, count in profile.num_samples.items())
    parts = [
        f"{profile.model}: {samples} samples, {len(profile.classes)} classes, {profile.weighting} weighting",
        *([f"Features: {profile.reduction}"] if profile.reduction.startswith("auto") else []),
        *filter(None, [profile.performance()]),
        table,
        *below,
        "",
        *([collapse] if WITHIN[0] in shown else []),
        *([f"Law of separation on train data: {profile.law_of_separation()}"] if has_fuzziness else []),
        *warning_lines(profile.warnings, min(width, _LAYER_WIDTHS[1])),
    ]
    return printed(parts, width, colour)


# ---------------------------------------------------------------- layers


def _columns_of(layers: Sequence[LayerRow]) -> list[Column]:
    """Return the main columns that were measured; where some metrics were chosen, a column for each of the others too."""
    from collapselab.metrics import BY_NAME

    measured = {name for layer in layers for metrics in layer.splits.values() for name in metrics}
    columns = [column for column in _PROFILE_COLUMNS if column.metric in measured]
    if len(columns) < len(_PROFILE_COLUMNS):
        own = {column.metric for column in columns}
        others = (BY_NAME[name] for name in BY_NAME if name in measured - own)
        others = islice(others, _MAX_OTHERS)
        columns += [Column(one.name, one.name, "test" in one.splits, one.formula) for one in others]
    return columns


def layer_table(
    layers: Sequence[LayerRow], columns: Sequence[Column], epsilon: float, width: int | None
) -> tuple[Table, int, list[str]]:
    """Return a table of layers that fits the terminal, its width, and the lines below it: hidden columns, the key."""
    from rich.text import Text

    limit = None if width is None else min(max(width, _LAYER_WIDTHS[0]), _LAYER_WIDTHS[1])
    cells = _cells(layers, columns, epsilon)
    name_width, left_out = _fit(cells, limit)
    table = empty_table()
    for heading in cells:
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for name, *values in zip(*cells.values(), strict=True):
        table.add_row(Text(without_middle(name, name_width)), *values)
    hidden = [f"Columns hidden because the terminal is too narrow: {', '.join(left_out)}"] if left_out else []
    key = _key(layers, [column for column in columns if column.heading in cells], epsilon)
    return table, limit or max(_PLAIN_LAYER_WIDTH, _width(cells)), [*hidden, "", *key]


def _key(layers: Sequence[LayerRow], columns: Sequence[Column], epsilon: float) -> list[str]:
    """Say what marks, pairs of numbers and columns mean, one per line."""
    from collapselab.metrics import BY_NAME

    entries: dict[str, str] = {}
    if any(column.metric == WITHIN[0] for column in columns):
        entries["*"] = f"collapsed on train data: within/total below {epsilon:g}"
    if any("test" in layer.splits for layer in layers):
        entries["two numbers"] = "train, test"
    if any(layer.is_sketched for layer in layers):
        entries["~"] = "estimated from a sketch of the covariance"
    for column in columns:
        full = BY_NAME[column.metric].at_collapse
        entries[column.heading] = column.meaning + (
            "" if full is None else f"; {number(full)} at full collapse"
        )
    room = max(map(len, entries))
    return [f"{name:<{room}}  {meaning}" for name, meaning in entries.items()]


def _cells(layers: Sequence[LayerRow], columns: Sequence[Column], epsilon: float) -> dict[str, list[str]]:
    """The columns of the table by heading, a cell per layer."""
    marks = ["*" if _is_collapsed(layer, epsilon) else "" for layer in layers]
    cells = {"layer": [printable(layer.name) + mark for layer, mark in zip(layers, marks, strict=True)]}
    if all(layer.dim is not None for layer in layers):
        cells["dim"] = [str(layer.dim) for layer in layers]
    for column in columns:
        cells[column.heading] = [_cell(layer, column) for layer in layers]
    return cells


def _is_collapsed(layer: LayerRow, epsilon: float) -> bool:
    share = layer.splits["train"].get("normalized_within")
    return share is not None and share < epsilon


def _cell(layer: LayerRow, column: Column) -> str:
    splits = layer.splits if column.on_both else ("train",)
    text = " ".join(number(layer.splits[split].get(column.metric), missing=MISSING) for split in splits)
    is_estimated = column.metric == "stable_rank" and layer.is_sketched and text != MISSING
    return f"~{text}" if is_estimated else text


def _width(cells: Mapping[str, Sequence[str]], name_width: int = _MAX_NAME) -> int:
    widths = [max(len(heading), *map(len, column)) for heading, column in cells.items()]
    return min(widths[0], name_width) + sum(_GAP + width for width in widths[1:])


def _fit(cells: dict[str, list[str]], limit: int | None) -> tuple[int, list[str]]:
    """Remove columns until all numbers fit; return the remaining width for names, and the removed headings."""
    left_out: list[str] = []
    for heading in _DROPPED:
        if limit is None or _width(cells, _MIN_NAME) <= limit:
            break
        if cells.pop(heading, None) is not None:
            left_out.append(heading)
    room = _MAX_NAME if limit is None else limit - _width(cells, 0)
    return min(max(room, _MIN_NAME), _MAX_NAME), left_out


# ---------------------------------------------------------------- printing


def empty_table() -> Table:
    """Return a table with a line under its head, and nothing else."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))


def warning_lines(warnings: Sequence[str], width: int) -> list[Any]:
    """Return warnings as styled texts of a width, those that differ only in places and numbers together."""
    from rich.text import Text

    return [
        Text(textwrap.fill(one_line(f"warning: {warning}"), width, subsequent_indent="  "), style="yellow")
        for warning in grouped(warnings)
    ]


def printed(parts: Sequence[Any], width: int, colour: bool) -> str:
    """Print strings, styled texts and tables as one text of a width; names in strings are made printable."""
    from rich.console import Console
    from rich.text import Text

    text = io.StringIO()
    console = Console(
        file=text, width=width, force_terminal=colour, color_system="standard" if colour else None,
        legacy_windows=False, highlight=False, emoji=False,
    )  # fmt: skip
    for part in parts:
        console.print(Text(printable_lines(part)) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
