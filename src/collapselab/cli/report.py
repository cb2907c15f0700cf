"""`collapselab report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapselab.cli.paths import check_exists
from collapselab.cli.terminal import note
from collapselab.errors import InputError


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Folders of runs, of monitored runs or of profiles. Several of a kind are compared on one page.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The page to write; default: report.html in the folder, or comparison.html here for several folders.",
        ),
    ] = None,
) -> None:
    """Write the page of a run or a profile, or compare several on one page.

    Reads what was measured; nothing is trained or measured. The page is one file that works offline.

    \b
    Examples:
      collapselab report runs/digits
      collapselab report runs/decay-0 runs/decay-5e-4
      collapselab report profiles/step-*/ --out steps.html
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    given = list(dict.fromkeys(folder.resolve() for folder in folders))
    for folder in given:
        check_exists(folder, "folder", "give the folder of a run or of a profile")

    from collapselab.records.run import Run
    from collapselab.report.pages.profile import profile_page
    from collapselab.report.pages.rendering import write_page
    from collapselab.report.pages.run import run_page
    from collapselab.views.comparison import comparison_page
    from collapselab.views.folders import open_folder, short_names

    opened = dict(zip(short_names(given), map(open_folder, given), strict=True))
    (first, *others) = opened.values()
    if others:
        page, path = comparison_page(opened), out or Path("comparison.html")
    else:
        page = run_page(first) if isinstance(first, Run) else profile_page(first.profile, made=first.made)
        folder = given[0] if given[0].is_dir() else given[0].parent
        path = out or folder / "report.html"
    try:
        write_page(path, page)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    note(f"wrote {path}")
