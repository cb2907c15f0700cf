"""What the terminal shows at the end of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collapselab.frames import rows_where
from collapselab.records.judgement import Judgement
from collapselab.report.wording import verdicts_text

_MAIN = {
    "normalized_within": "within/total",
    "vci": "VCI",
    "equiangularity": "equiangular",
    "alignment": "alignment",
    "ncc_agreement": "NCC",
}
_STYLES = {"holds": "green", "fails": "bold red", "inconclusive": "yellow"}
_WIDTH = 80


def final_table(rows: pd.DataFrame, epsilon: float) -> Table:
    """Layers by those main metrics that were measured, at the last step, train and test; collapsed layers are marked.

    Args:
        rows: measured rows of one run.
        epsilon: a layer is collapsed while normalized_within is below this.
    """
    last = rows["step"].max()
    train = rows_where(rows, step=last, split="train")
    test = rows_where(rows, step=last, split="test")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("layer", no_wrap=True)
    shown = {name: title for name, title in _MAIN.items() if name in rows.columns}
    for title in shown.values():
        table.add_column(title, justify="right", no_wrap=True)
    for a, b in zip(train.to_dict("records"), test.to_dict("records"), strict=True):
        mark = "*" if a.get("normalized_within", 1.0) < epsilon else ""
        table.add_row(f"{a['layer']}{mark}", *(f"{_short(a[name])} {_short(b[name])}" for name in shown))
    return table


def run_summary(
    rows: pd.DataFrame, verdicts: Sequence[Judgement], lines: list[str], *, epsilon: float, colour: bool
) -> str:
    """The final table, the verdicts and closing lines, at most 80 columns wide.

    Args:
        rows: measured rows of one run.
        verdicts: as in verdicts.json.
        lines: printed at the end as they are.
        epsilon: a layer is collapsed while normalized_within is below this.
        colour: whether terminal codes may be used.
    """
    text = io.StringIO()
    console = Console(
        file=text, width=_WIDTH, force_terminal=colour, color_system="standard" if colour else None,
        legacy_windows=False, highlight=False, emoji=False,
    )  # fmt: skip
    step = int(rows["step"].max())
    console.print(
        Text(f"Step {step}: each cell is train, then test; * is collapsed on train (< {epsilon:g})")
    )
    console.print(final_table(rows, epsilon))
    console.print()
    if verdicts:
        console.print(Text(verdicts_text(verdicts, width=_WIDTH)))
    console.print()
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _short(value: float) -> str:
    """Five characters."""
    if pd.isna(value):
        return f"{'–':>5}"
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3f}"
    return f"{value:.0e}".replace("e-0", "e-").rjust(5)
