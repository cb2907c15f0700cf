"""Numbers, durations and nested values as text: one formatter for tables, charts, pages, verdicts and messages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MISSING = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: int | float | None, digits: int = 3, missing: str = "undefined") -> str:
    """Format a number for a reader: `digits` significant digits, whole numbers in full.

    Args:
        value: None, NaN and infinity are `missing`.
        digits: significant digits; beyond 1e-3 … 1e5 the number is written with an exponent.
        missing: text for an undefined value.
    """
    if value is None or not math.isfinite(value):
        return missing
    value = float(value)
    if value.is_integer() and abs(value) < 1e6:
        return f"{value:.0f}"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{digits}g}"
        return f"{float(text):.0f}" if "e" in text else text
    return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")


def cell(value: Any) -> str:
    """Format a value for a cell of a table: text as it is, yes or no, a number with four digits, `MISSING` for None and NaN.

    Example:
        >>> [cell(value) for value in ("mlp", True, 20_000.0, 0.123456, float("nan"))]
        ['mlp', 'yes', '20000', '0.1235', '–']
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if value is None or math.isnan(value):
        return MISSING
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def power(value: int | float) -> str:
    """Format a positive number beside an axis: in full where a reader takes that in at a glance, else as a power of ten.

    Example:
        >>> power(20_000), power(3e-7)
        ('20,000', '3×10⁻⁷')
    """
    if 1e-3 <= value < 1e6:
        return f"{value:,.6g}"
    decade = math.floor(math.log10(value) + 1e-9)
    times, power = value / 10.0**decade, f"10{str(decade).translate(_SUPERSCRIPTS)}"
    return power if abs(times - 1) < 1e-6 else f"{times:.3g}×{power}"


def percent(value: int | float | None, missing: str = "undefined") -> str:
    """Format a share of one as a percentage with one decimal, none for whole ones."""
    return missing if value is None or not math.isfinite(value) else f"{value:.1%}".replace(".0%", "%")


def duration(seconds: float) -> str:
    """Format a duration as precisely as an estimate of it deserves: `40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: `1 run`, `2,000 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[object], most: int = 4) -> str:
    """List the first names: `a, b, c, d and 3 more`.

    Args:
        names: in the order in which they are shown.
        most: the number that are shown.
    """
    shown = list(map(str, names))
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def words(name: object) -> str:
    """An identifier as words: underscores become spaces."""
    return str(name).replace("_", " ")


def flat(values: Any, separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested mappings with its path; an empty mapping and a list are leaves.

    Example:
        >>> list(flat({"model": {"name": "mlp", "options": {}}, "steps": 10}))
        [('model.name', 'mlp'), ('model.options', {}), ('steps', 10)]
    """
    yield from _flat(values, "", separator)


def _flat(values: Any, path: str, separator: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, Mapping) or not values:
        yield path, values
        return
    for name, value in values.items():
        yield from _flat(value, f"{path}{separator}{name}" if path else str(name), separator)


# ---------------------------------------------------------------- warnings

# Where a warning comes from, as in `train conv1, test conv1 and 4 more: …`.
_PLACES = re.compile(r"((?:train|test)(?: [^:]*)?): (.*)", re.DOTALL)
_MORE = re.compile(r" and (\d+) more$")
_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")
_MOST_PLACES = 3


def grouped(warnings: Iterable[str]) -> list[str]:
    """Merge warnings that differ only in their places and numbers: the first, with the places of the others.

    A single place stands at the beginning, several places at the end.

    Example:
        >>> grouped(["train a: 3 of 9 are 0", "train b, test b: 4 of 9 are 0", "train a, test a: c is 0"])
        ['train a: 3 of 9 are 0. Similar: train b, test b', 'c is 0. Where: train a, test a']
    """
    groups: dict[str, list[re.Match[str] | str]] = {}
    for warning in warnings:
        found = _PLACES.fullmatch(warning)
        groups.setdefault(_NUMBER.sub("#", found[2]) if found else warning, []).append(found or warning)
    return [_merged(*group) for group in groups.values()]


def _merged(first: re.Match[str] | str, *others: re.Match[str] | str) -> str:
    text = first if isinstance(first, str) else first[0]
    if not isinstance(first, str) and ", " in first[1]:
        text = f"{first[2]}. Where: {first[1]}"
    heads = [other[1] for other in others if not isinstance(other, str)]
    if not heads:
        return text
    listed = [place for head in heads for place in _MORE.sub("", head).split(", ")]
    more = len(listed[_MOST_PLACES:]) + sum(int(found[1]) for found in map(_MORE.search, heads) if found)
    rest = f" and {more} more" if more else ""
    return f"{text}. Similar: {', '.join(listed[:_MOST_PLACES])}{rest}"
