"""`collapselab results`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapselab.cli.options import OutputOption
from collapselab.cli.paths import check_exists
from collapselab.cli.terminal import note, print_text
from collapselab.errors import InputError

if TYPE_CHECKING:
    from collapselab.results.stored import StoredResults


def results(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder that contains experiments, at any depth; default: runs."),
    ] = Path("runs"),
    output: OutputOption = None,
) -> None:
    """Show stored results of experiments; nothing is run.

    Prints every claim with its verdict, and writes one page over all experiments found in the folder, DIR/index.html by
    default. The page has a table of all claims, then each experiment with its figures, seeds, time and differences from
    the paper. It links to figures and rows, so it must stay where it is relative to them.

    \b
    Examples:
      collapselab results
      collapselab results results --output results/index.html
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    check_exists(folder, "folder", "give a folder that contains experiments")

    from collapselab.registry import experiments
    from collapselab.results.page import write_results_page
    from collapselab.results.stored import read_results

    found = read_results(folder, list(experiments()))
    if not (found.experiments or found.notes):
        raise InputError(
            next(
                iter(found.problems), f"{folder}: contains no experiments; give a folder that reproduce wrote"
            )
        )
    page = output or folder / "index.html"
    write_results_page(page, found)
    for problem in found.problems:
        note(f"not shown: {problem}")
    print_text(f"{claims_text(found)}\nPage: {page}\n")


def claims_text(found: StoredResults) -> str:
    """Return every claim with its verdict, by experiment."""
    from collapselab.records.wording import outcome
    from collapselab.text import counted

    lines = []
    for one in found.experiments:
        record = one.record
        size = (
            f"{record.scale}, {counted(len(record.seeds), 'seed')}"
            if one.is_finished
            else f"{record.scale}, not finished"
        )
        lines.append(f"{record.experiment} ({size}, {one.folder}): {record.title}".rstrip(": "))
        lines += [
            f"  {outcome(claim, record.scale).upper():<14}{claim.statement}" for claim in one.judgements
        ]
    lines += [f"{notes.folder}: {notes.title} (notes, without claims)" for notes in found.notes]
    return "\n".join(lines)
