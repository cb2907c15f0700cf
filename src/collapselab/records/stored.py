"""Base of everything stored as JSON: immutable models with a schema number, and functions that read and write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from collapselab.errors import InputError, one_line
from collapselab.storage import replace_text

SCHEMA = 2


class Stored(BaseModel):
    """Immutable model; unknown fields are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


_Model = TypeVar("_Model", bound="Versioned")


class Versioned(Stored):
    """A stored model with the number of its schema. Files without a number are schema 1.

    Attributes:
        schema_: of the file that was read. Files are always written in the present schema.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")

    @classmethod
    def from_stored(cls: type[_Model], values: object) -> _Model:
        """Validate what a file holds, after converting schema 1 to the present one.

        Raises:
            ValueError: not an object of this kind, or written by a newer version.
        """
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        schema = values.get("schema", 1)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise ValueError(f"schema {schema} was written by a newer version; upgrade collapselab")
        if schema == 1:
            values = cls._from_schema_1(dict(values))
        return cls.model_validate(values | {"schema": schema})

    @classmethod
    def _from_schema_1(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a schema 1 file in the present form."""
        return values

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values, ready for JSON."""
        return self.model_dump(mode="json") | {"schema": SCHEMA}


def what_is_wrong(error: Exception) -> str:
    """Describe why stored values were rejected, in one line: the first wrong field and the reason."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        return one_line(f"{field}: {message}" if field else message)
    return one_line(error)


def read_model(path: Path, model: type[_Model], what: str, remedy: str) -> _Model:
    """Read a JSON file into its model.

    Args:
        what: the kind of file, for the error: `a run record`.
        remedy: what to do about another file: `choose another out=`.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        return model.from_stored(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not {what} ({what_is_wrong(error)}); {remedy}") from error


def write_model(path: Path, model: Versioned) -> None:
    """Replace a JSON file.

    Raises:
        OSError: the file cannot be written.
        ValueError: a number is NaN or infinite.
    """
    replace_text(path, json.dumps(model.to_json(), indent=2, allow_nan=False) + "\n")


# ---------------------------------------------------------------- one object per line


def read_lines(path: Path, model: type[_Model]) -> list[_Model]:
    """Read a file of one JSON object per line; a last line without its line break is left out.

    Raises:
        InputError: a line is damaged.
    """
    if not path.exists():
        return []
    rows = []
    # Text behind the last line break was being written when the process was killed.
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            rows.append(model.from_stored(json.loads(line)))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: damaged ({what_is_wrong(error)}); restore the file, or remove {path.parent}"
            ) from error
    return rows


def append_lines(path: Path, rows: Iterable[Versioned]) -> None:
    """Append rows; they are on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def replace_lines(path: Path, rows: Iterable[Versioned]) -> None:
    """Replace the whole file by these rows."""
    replace_text(path, _lines(rows))


def _lines(rows: Iterable[Versioned]) -> str:
    return "".join(json.dumps(row.to_json(), allow_nan=False) + "\n" for row in rows)
