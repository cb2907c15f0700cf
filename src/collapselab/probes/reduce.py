"""Reduce the inputs of a layer to one row per sample: `flatten`, `gap`, `token`, `mean`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from collapselab.errors import InputError

_FORMS = "use flatten, gap, mean, token or token:3 (the fourth token; token:-1 is the last)"


@dataclass(frozen=True)
class Reduction:
    """How features with several axes become one row per sample.

    Features that do not have what a reduction reduces are flattened.

    Attributes:
        kind: `flatten`: all axes. `gap`: mean over the positions of a map or sequence. `mean`: mean over the
            tokens of a sequence, without padding where a mask marks it. `token`: one token of a sequence.
        index: index of the token.
    """

    kind: Literal["flatten", "gap", "token", "mean"] = "flatten"
    index: int = 0

    @classmethod
    def parse(cls, text: str | Reduction) -> Reduction:
        """Return the reduction named `flatten`, `gap`, `mean`, `token`, `token:i` or `token[i]`.

        Raises:
            InputError: any other name.
        """
        if isinstance(text, Reduction):
            return text
        if text in ("flatten", "gap", "mean", "token"):
            return cls(text)
        found = re.fullmatch(r"token(?::(-?\d+)|\[:?(-?\d+)\])", text)
        if not found:
            raise InputError(f"unknown reduction {text!r}; {_FORMS}")
        return cls("token", int(found[1] or found[2]))

    def __str__(self) -> str:
        return f"token:{self.index}" if self.kind == "token" else self.kind

    def reduces(self, shape: tuple[int, ...], *, channels_first: bool) -> bool:
        """Return whether features of this shape (without the batch) are reduced rather than flattened."""
        if len(shape) < 2 or self.kind == "flatten":
            return False
        return self.kind == "gap" or not channels_first

    def __call__(self, features: Tensor, *, channels_first: bool, mask: Tensor | None = None) -> Tensor:
        """Return features (n, …) as rows (n, p).

        Args:
            features: what a layer reads, samples first.
            channels_first: whether the channel axis is 1 (maps) or the last (sequences).
            mask: (n, tokens), true where a token is not padding; only used by `mean`.

        Raises:
            InputError: the sequence has no such token.
        """
        if not self.reduces(tuple(features.shape[1:]), channels_first=channels_first):
            return features.flatten(1)
        if channels_first:
            return features.flatten(2).mean(2)
        tokens = features.flatten(1, -2)
        if self.kind == "token":
            if not -tokens.shape[1] <= self.index < tokens.shape[1]:
                raise InputError(f"reduce: there is no token {self.index} in a sequence of {tokens.shape[1]}")
            return tokens[:, self.index]
        if mask is not None and self.kind == "mean" and mask.shape == tokens.shape[:2]:
            weights = mask.to(tokens.dtype)
            return torch.einsum("ntd,nt->nd", tokens, weights) / weights.sum(1, keepdim=True).clamp_min(1)
        return tokens.mean(1)
