"""verdicts.json: a list of judged claims."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapselab.digests import seal
from collapselab.errors import InputError
from collapselab.records.judgement import Judgement
from collapselab.records.stored import SCHEMA, parsed, unsealed, what_is_wrong
from collapselab.storage import read_bytes, replace_text
from collapselab.text import flat

_JUDGED_BEFORE = "Judged by an earlier version, with another rule."


def read_verdicts(path: Path) -> list[Judgement]:
    """Read judged claims; the evidence of schema 1 becomes notes.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        values = parsed(read_bytes(path))
        if not isinstance(values, list):
            raise ValueError("not a list")
        return [
            _judgement(unsealed(value, f"{number} of {len(values)}"))
            for number, value in enumerate(values, 1)
        ]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a list of verdicts ({what_is_wrong(error)}); remove it and judge again"
        ) from error


def write_verdicts(path: Path, judgements: Sequence[Judgement]) -> None:
    """Replace the file.

    Raises:
        OSError: the file cannot be written.
    """
    values = [
        seal(judgement.model_dump(mode="json") | {"schema": SCHEMA}, f"{number} of {len(judgements)}")
        for number, judgement in enumerate(judgements, 1)
    ]
    replace_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def _judgement(values: Any) -> Judgement:
    if not isinstance(values, dict):
        raise ValueError("an entry is not a JSON object")
    return Judgement.model_validate(values if "schema" in values else judgement_from_schema_1(values))


def judgement_from_schema_1(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a verdict of schema 1 in the present form."""
    evidence = [f"{path}: {value}" for path, value in flat(values.get("evidence", {}), ", ") if path]
    same = {name: values.get(name) for name in ("id", "paper", "where", "statement", "verdict")}
    return same | {"schema": SCHEMA, "notes": [_JUDGED_BEFORE, *evidence]}
