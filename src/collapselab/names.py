"""Names that users give: whether they are known, and what was meant. Needs no torch, so that a misspelt name is told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from collapselab.errors import InputError

_MOST_KNOWN = 12


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return `did you mean …?` for a misspelt `name`, or the first known names if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [other for other in known if name and name in other and other not in near][:3]
    if near:
        return "did you mean " + " or ".join(repr(match) for match in near[:4]) + "?"
    more = f", … ({len(known)} in all)" if len(known) > _MOST_KNOWN else ""
    return "known: " + ", ".join(known[:_MOST_KNOWN]) + more


def check_names(names: Sequence[str], known: Iterable[str], what: str, listed: str = "") -> None:
    """Refuse names that are not known.

    Args:
        names: names to check.
        known: names that are allowed.
        what: what is named, for the message.
        listed: a sentence about where all names are listed, for the message.

    Raises:
        InputError: naming the first unknown one, with near matches.
    """
    known = set(known)
    for name in names:
        if name not in known:
            hint = near_matches(name, known)
            where = f"{'' if hint.endswith('?') else '.'} {listed}" if listed else ""
            raise InputError(f"unknown {what} {name!r}; {hint}{where}")
