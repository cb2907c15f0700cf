"""The end of a run in a terminal: its layers at the last step and its verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from collapselab.frames import rows_where
from collapselab.records.judgement import Judgement
from collapselab.records.wording import verdicts_text
from collapselab.tables import (
    AGREES,
    ALIGNED,
    ANGLES,
    SPREAD,
    WIDTHS,
    WITHIN,
    Column,
    LayerRow,
    layer_table,
    printed,
)

_COLUMNS = (
    Column(*WITHIN),
    # For train against test: without the adjustment, VCI depends on the number of samples.
    Column("vci_adjusted", "adjusted VCI", True, "VCI, adjusted for the number of samples"),
    Column(*ANGLES, True, SPREAD),
    Column("alignment", "aligned", True, ALIGNED),
    Column(*AGREES),
)


def run_summary(
    rows: pd.DataFrame,
    verdicts: Sequence[Judgement],
    lines: Sequence[str],
    *,
    epsilon: float,
    width: int | None = None,
    colour: bool = False,
) -> str:
    """Format the layers at the last step, the verdicts and closing lines.

    Args:
        rows: measured rows of one run.
        verdicts: as in verdicts.json.
        lines: printed at the end, unchanged.
        epsilon: a layer is collapsed while normalized_within is below this.
        width: columns of the terminal; None without one.
        colour: whether to use terminal codes.
    """
    step = int(rows["step"].max())
    columns = [column for column in _COLUMNS if column.metric in rows.columns]
    table, width, below = layer_table(_last_layers(rows), columns, epsilon, width)
    parts = [
        f"Step {step:,}",
        table,
        *below,
        "",
        *([verdicts_text(verdicts, width=min(width, WIDTHS[1])).rstrip(), ""] if verdicts else []),
        *lines,
    ]
    return printed(parts, max(width, *map(len, lines), 1), colour)


def _last_layers(rows: pd.DataFrame) -> list[LayerRow]:
    """The rows of the last step as layers, in order of depth."""
    layers: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows_where(rows, step=rows["step"].max()).to_dict("records"):
        layers.setdefault(str(row["layer"]), {})[str(row["split"])] = {str(key): row[key] for key in row}
    return [LayerRow(name, splits) for name, splits in layers.items()]
