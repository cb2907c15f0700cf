"""Base of everything stored as JSON: immutable models with a schema number, and functions that read and write them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from collapselab.digests import Damaged, seal, unseal
from collapselab.errors import InputError, one_line
from collapselab.storage import append_bytes, read_bytes, replace_bytes, replace_text

SCHEMA = 3
# From this schema on, everything has a digest.
_WITH_DIGESTS = 3
# The key of the run that a line belongs to.
_RUN = "run"


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
        if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
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
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)


def parsed(content: bytes) -> Any:
    """Return the JSON value in `content`.

    Raises:
        ValueError: no JSON.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def unsealed(values: Any, place: object = "") -> Any:
    """Return a JSON object without its digest, which objects of the present schema have.

    Args:
        values: what was read.
        place: of the object in its file; see `collapselab.digests.seal`.

    Raises:
        Damaged: the digest does not match, or is missing.
    """
    schema = values.get("schema", 1) if isinstance(values, dict) else 1
    return unseal(values, place, required=isinstance(schema, int) and _WITH_DIGESTS <= schema <= SCHEMA)


def read_model(path: Path, model: type[_Model], what: str, remedy: str) -> _Model:
    """Read a JSON file into its model.

    Args:
        what: the kind of file, for the error: `a run record`.
        remedy: what to do about another file: `choose another out=`.

    Raises:
        InputError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        return model.from_stored(unsealed(parsed(read_bytes(path))))
    except Damaged as error:
        raise InputError(f"{path}: {error}; restore it, or {remedy}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not {what} ({what_is_wrong(error)}); {remedy}") from error


def write_model(path: Path, model: Versioned) -> None:
    """Replace a JSON file.

    Raises:
        WriteError: the file cannot be written.
        ValueError: a number is NaN or infinite.
    """
    replace_text(path, json.dumps(seal(model.to_json()), indent=2, allow_nan=False) + "\n")


# ---------------------------------------------------------------- one object per line


def read_lines(path: Path, model: type[_Model], run: str | None = None) -> list[_Model]:
    """Read a file of one JSON object per line; a last line without its line break is left out.

    Args:
        path: of the file, which need not exist.
        model: of each line.
        run: the run that lines with a digest must be of; None for any.

    Raises:
        InputError: a line is damaged, or is of another run.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path).split(b"\n")[:-1], 1):
        try:
            values = unsealed(parsed(line), number)
            held = values.pop(_RUN, run) if isinstance(values, dict) else run
            if run is not None and held != run:
                raise Damaged("a row of another run")
            rows.append(model.from_stored(values))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: damaged ({what_is_wrong(error)}); restore the file, or remove {path.parent}"
            ) from error
    return rows


def append_lines(path: Path, rows: Iterable[Versioned], run: str = "") -> None:
    """Append rows; they are on disk when this returns.

    Raises:
        WriteError: they cannot be written. The rows before them remain.
    """
    before = _whole_lines(path)
    append_bytes(path, _lines(rows, run, before.count(b"\n") + 1), len(before))


def replace_lines(path: Path, rows: Iterable[Versioned], run: str = "") -> None:
    """Replace the whole file by these rows.

    Raises:
        WriteError: the file cannot be written.
    """
    replace_bytes(path, _lines(rows, run, 1))


def _whole_lines(path: Path) -> bytes:
    """Return the content of a file up to its last line break: the rest was being written when the process was killed."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error.strerror)}); restore it") from error
    return content[: content.rfind(b"\n") + 1]


def _lines(rows: Iterable[Versioned], run: str, first: int) -> bytes:
    sealed = (
        seal(row.to_json() | ({_RUN: run} if run else {}), number) for number, row in enumerate(rows, first)
    )
    return "".join(json.dumps(values, allow_nan=False) + "\n" for values in sealed).encode()
