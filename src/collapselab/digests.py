"""Digests of stored files: they tell whether a file is as it was written.

JSON objects have a key `digest`; safetensors files have one in their metadata; files of any other kind begin with a line
that holds it. Files of earlier versions have none and are read without this check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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


class Damaged(ValueError):
    """A file is not as it was written."""

    def __init__(self, reason: str = "changed since it was written: its digest does not match") -> None:
        super().__init__(reason)


def digest(*pieces: bytes | memoryview | str) -> str:
    """Return 16 hexadecimal digits of SHA-256 over all pieces."""
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
    header, data = _split(content)
    # The library writes metadata in random order; equal tensors are to give equal files.
    header["__metadata__"] = dict(facts)
    header["__metadata__"][_TENSORS_KEY] = _digest_of_tensors(header, data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little"), text, data


def unseal_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, and its metadata; these are empty in files without a digest.

    Raises:
        Damaged: the digest does not match, or this is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header, data = _split(memoryview(content))
        facts = dict(header.get("__metadata__") or {})
        held = facts.get(_TENSORS_KEY)
        if held is not None and held != _digest_of_tensors(header, data):
            raise Damaged
        # Metadata of this package without its digest are damaged, too: their key is.
        if held is None and any(_TENSORS_KEY[:11] in str(name) for name in facts):
            raise Damaged
        return load(content), {} if held is None else facts
    except (SafetensorError, RecursionError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise error if isinstance(error, Damaged) else Damaged(f"no safetensors file: {error}") from error


def _split(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a safetensors file, and its data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(bytes(content[8:end])), content[end:]


def _digest_of_tensors(header: Mapping[str, Any], data: memoryview) -> str:
    metadata = {name: text for name, text in header["__metadata__"].items() if name != _TENSORS_KEY}
    return digest(json.dumps({**header, "__metadata__": metadata}, sort_keys=True), data)


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
