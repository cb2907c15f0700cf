"""`collapselab report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapselab.cli.paths import check_exists
from collapselab.cli.terminal import note
from collapselab.errors import InputError

if TYPE_CHECKING:
    from collapselab.probes import Profile
    from collapselab.records.profile import StoredProfile

# In every page that was ever written here; a file without it is not replaced.
_MARK = b'<a class="skip" href="#main">Skip to the results</a>'


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

    Reads what was measured; nothing is trained or measured. The page is one file that works offline. A profile made with
    --against is drawn against it again. A file that is not such a page is not replaced.

    \b
    Examples:
      collapselab report runs/digits
      collapselab report runs/decay-0 runs/decay-5e-4
      collapselab report profiles/step-*/ --out steps.html
    """  # noqa: D301 (Typer wants the backspace itself before lines it must not join)
    given = list(dict.fromkeys(folder.resolve() for folder in folders))
    for folder in given:
        check_exists(folder, "folder", "give the folder of a run or of a profile")
    beside = given[0] if given[0].is_dir() else given[0].parent
    path = out or (Path("comparison.html") if len(given) > 1 else beside / "report.html")
    _check_replaceable(path)

    from collapselab.records.run import Run
    from collapselab.report.pages.profile import profile_page
    from collapselab.report.pages.rendering import write_page
    from collapselab.report.pages.run import run_page
    from collapselab.views.comparison import comparison_page
    from collapselab.views.folders import open_folder, short_names

    opened = dict(zip(short_names(given), map(open_folder, given), strict=True))
    (first, *others) = opened.values()
    if others:
        page = comparison_page(opened)
    elif isinstance(first, Run):
        page = run_page(first)
    else:
        page = profile_page(first.profile, _initial(first), first.made)
    try:
        write_page(path, page)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    note(f"wrote {path}")


def _check_replaceable(path: Path) -> None:
    """Refuse to replace a file of the user; a page is written again at any time.

    Raises:
        InputError: it is no page.
    """
    if path.is_file() and _MARK not in path.read_bytes():
        raise InputError(
            f"{path}: exists and is not a page of a run or of a profile; move it away, or choose another --out"
        )


def _initial(stored: StoredProfile) -> Profile | None:
    """Return the profile that a profile was made against; None, with a warning, if that is no longer there."""
    from collapselab.records.profile import read_profile

    made = stored.made
    if made is None or "against" not in made.options:
        return None
    against = Path(str(made.options["against"]))
    try:
        earlier = read_profile(against)
        # The same command may have written over it, and so may a later one.
        if earlier == stored or (earlier.made is not None and earlier.made.started > made.started):
            raise InputError(f"{against}: holds a later profile")
    except InputError as error:
        note(f"warning: made with --against {against}, which the page no longer shows: {error}")
        return None
    names = {layer.name for layer in stored.profile.layers}
    return earlier.profile if any(layer.name in names for layer in earlier.profile.layers) else None
