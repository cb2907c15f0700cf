"""Digests of stored files: they tell whether a file is as it was written.

JSON objects have a key `digest`; safetensors files have one in their metadata; files of any other kind begin with a line
that holds it. Files of earlier versions have none and are read without this check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

    # What is written, piece by piece, so that large tensors are not copied.
    Pieces = tuple[bytes | memoryview, ...]

_KEY = "digest"
# Metadata of safetensors files, in which other programs have keys of their own.
_TENSORS_KEY = "collapselab_digest"
_FIRST_LINE = b"collapselab "
# The length of a safetensors header is a multiple of this, as the library writes it.
_ALIGNED = 8
# The library refuses longer ones.
_LONGEST_HEADER = 100_000_000
_BLOCK = 2**20


class Damaged(ValueError):
    """A file is not as it was written."""

    def __init__(self, reason: str = "changed since it was written: its digest does not match") -> None:
        super().__init__(reason)


def digest(*pieces: bytes | memoryview | str) -> str:
    """Return 16 hexadecimal digits of SHA-256 over all pieces."""
    return digest_of(pieces)


def digest_of(pieces: Iterable[bytes | memoryview | str]) -> str:
    """Return the `digest` of pieces that need not be in memory together."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece.encode(errors="backslashreplace") if isinstance(piece, str) else piece)
    return whole.hexdigest()[:16]


# ---------------------------------------------------------------- JSON objects


def seal(values: Mapping[str, Any], place: object = "") -> dict[str, Any]:
    """Return a JSON object with its digest.

    Args:
        values: plain values.
        place: where the object belongs in its file; it is part of the digest, so that objects cannot change places.
    """
    return {**values, _KEY: _digest_of_values(values, place)}


def unseal(values: Any, place: object = "", *, required: bool = False) -> Any:
    """Return a JSON object without its digest; anything else is returned as it is.

    Args:
        values: what was read.
        place: as for `seal`.
        required: whether an object without a digest is damaged.

    Raises:
        Damaged: the digest does not match, or is missing.
    """
    if not isinstance(values, dict):
        return values
    rest = {name: value for name, value in values.items() if name != _KEY}
    if _KEY not in values and required:
        raise Damaged("changed since it was written: its digest is missing")
    if _KEY in values and values[_KEY] != _digest_of_values(rest, place):
        raise Damaged
    return rest


def _digest_of_values(values: Mapping[str, Any], place: object) -> str:
    return digest(str(place), json.dumps(values, sort_keys=True))


# ---------------------------------------------------------------- tensors


def seal_tensors(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Pieces:
    """Return the content of a safetensors file with its digest.

    Args:
        tensors: by name.
        facts: further metadata.
    """
    from safetensors.torch import save

    content = memoryview(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:end]))
    # The library writes metadata in random order; equal tensors are to give equal files.
    header["__metadata__"] = dict(facts)
    held = digest(_without_digest(header), content[end:])
    header["__metadata__"][_TENSORS_KEY] = held
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little"), text, content[end:]


def check_tensors(file: BinaryIO) -> dict[str, str]:
    """Return the metadata of a safetensors file with a digest; none for a file without one.

    Raises:
        Damaged: the digest does not match, or this is no such file.
    """
    try:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        facts = dict(header.get("__metadata__") or {})
    except (RecursionError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"no safetensors file: {error}") from error
    if not any(str(name).startswith(_TENSORS_KEY[:11]) for name in facts):
        return {}
    if facts.get(_TENSORS_KEY) != digest_of(
        chain([_without_digest(header)], iter(lambda: file.read(_BLOCK), b""))
    ):
        raise Damaged
    return facts


def _without_digest(header: Mapping[str, Any]) -> str:
    metadata = {name: text for name, text in header["__metadata__"].items() if name != _TENSORS_KEY}
    return json.dumps({**header, "__metadata__": metadata}, sort_keys=True)


# ---------------------------------------------------------------- any other file


def seal_content(content: bytes | memoryview, facts: str) -> Pieces:
    """Return any content behind a line with its digest.

    Args:
        content: of the file.
        facts: one word, stored beside the digest.
    """
    return _FIRST_LINE + f"{facts} {digest(facts, content)}\n".encode(), content


def unseal_content(content: bytes) -> tuple[memoryview, str | None]:
    """Return the content behind the first line, and the facts in this line; None in a file without it.

    Raises:
        Damaged: the digest does not match.
    """
    line, found, _ = content.partition(b"\n")
    if not line.startswith(_FIRST_LINE):
        return memoryview(content), None
    facts, _, held = line[len(_FIRST_LINE) :].decode(errors="replace").rpartition(" ")
    rest = memoryview(content)[len(line) + len(found) :]
    if held != digest(facts, rest):
        raise Damaged
    return rest, facts
