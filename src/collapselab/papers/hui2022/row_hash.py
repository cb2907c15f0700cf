"""Rows of tensors as 64-bit numbers that look random, the same on every device: what a memorising network needs.

Integer arithmetic modulo 2^64 is the same everywhere; torch's int64 wraps as unsigned numbers do. Mixing is the
finaliser of SplitMix64 (Steele, Lea, Flood 2014).

Letters: n samples, w words of eight bytes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor

_WORDS_AT_ONCE = 2**22


def _signed(number: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return number - 2**64 if number >= 2**63 else number


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def as_words(inputs: Shaped[Tensor, "n ..."]) -> Int64[Tensor, "n w"]:
    """The bytes of each sample, filled up with zeros to whole words: equal rows are equal samples, bit by bit."""
    rows = inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None]
    rows = rows.contiguous().view(torch.uint8)
    words = torch.zeros(len(rows), -(-rows.shape[1] // 8), dtype=torch.int64, device=inputs.device)
    words.view(torch.uint8)[:, : rows.shape[1]] = rows
    return words


def hash_rows(words: Int64[Tensor, "n w"], salt: Int64[Tensor, ""]) -> Int64[Tensor, " n"]:
    """One number per row that depends on every bit of it, on where the bit is, and on the salt."""
    keys = stream(words.shape[1], salt)
    step = max(1, _WORDS_AT_ONCE // max(1, words.shape[1]))
    parts = [mix(block + keys).sum(1) for block in words.split(step)]
    return mix(torch.cat(parts) + salt)


def uniforms(hashes: Int64[Tensor, " n"], number: int) -> Float[Tensor, "n k"]:
    """`number` values in [0, 1) that follow from each hash, float32."""
    bits = mix(hashes[:, None] + stream(number, hashes.new_zeros(())))
    return _shifted(bits, 40).float() * 2.0**-24


def choices(hashes: Int64[Tensor, " n"], number: int) -> Int64[Tensor, " n"]:
    """One of 0 … `number` - 1 that follows from each hash."""
    return _shifted(mix(hashes + _GOLDEN), 11) % number


def stream(length: int, salt: Int64[Tensor, ""]) -> Int64[Tensor, " k"]:
    """`length` numbers that follow from the salt: the generator SplitMix64 started from it."""
    places = torch.arange(1, length + 1, dtype=torch.int64, device=salt.device)
    return mix(salt + places * _GOLDEN)


def mix(numbers: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A bijection of 64-bit numbers after which every bit depends on all."""
    numbers = (numbers ^ _shifted(numbers, 30)) * _FIRST
    numbers = (numbers ^ _shifted(numbers, 27)) * _SECOND
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shifted right as unsigned numbers: torch repeats the sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
