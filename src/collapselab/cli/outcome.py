"""What the terminal shows at the end of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collapselab.cli.terminal import print_text
from collapselab.text import counted

if TYPE_CHECKING:
    from collapselab.records.outcome import Outcome


def print_outcome(outcome: Outcome, scale: str) -> None:
    """Print the verdicts, and where everything is."""
    from collapselab.report.wording import verdicts_text

    lines = [verdicts_text(outcome.judgements, scale).rstrip(), ""]
    if outcome.was_finished:
        lines.append("All runs had finished earlier; nothing was run again")
    if outcome.left_out:
        lines.append(
            f"Earlier results had {counted(outcome.left_out, 'more run')}; rows, figures and verdicts no longer include them"
        )
    lines += [
        f"Figures: {', '.join(str(path) for path in outcome.figures)}",
        f"Rows: {outcome.folder / 'rows.csv'}",
        f"Page: {outcome.folder / 'report.html'}",
    ]
    print_text("\n".join(lines) + "\n")
