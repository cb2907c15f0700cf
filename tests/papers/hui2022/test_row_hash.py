"""The hash of rows against the same arithmetic in Python's whole numbers."""

from __future__ import annotations

import pytest
import torch

from collapselab.data import load_digits
from collapselab.papers.hui2022 import row_hash

MASK = 2**64 - 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def _stream(length: int, salt: int) -> list[int]:
    return [_mix((salt + (i + 1) * 0x9E3779B97F4A7C15) & MASK) for i in range(length)]


def test_stream_is_splitmix64() -> None:
    # The published first outputs of SplitMix64 for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [value & MASK for value in row_hash.stream(3, torch.tensor(1234567)).tolist()] == expected
    assert _stream(3, 1234567) == expected


def test_hash_against_python_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_hash, "_WORDS_AT_ONCE", 10)
    inputs = load_digits().test.inputs[:9, :13]
    salt = -987654321987654321
    found = row_hash.hash_rows(row_hash.as_words(inputs), torch.tensor(salt))
    for row, value in zip(inputs.numpy(), found.tolist(), strict=True):
        data = row.tobytes() + bytes(4)
        words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
        parts = [_mix((w + key) & MASK) for w, key in zip(words, _stream(len(words), salt), strict=True)]
        assert value & MASK == _mix((sum(parts) + salt) & MASK)
