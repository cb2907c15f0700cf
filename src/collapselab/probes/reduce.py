"""Reduce the inputs of a layer to one row per sample: `flatten`, `gap`, `token`, `mean`.

Letters: n samples, t tokens, p features of a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from collapselab.distributed import largest_over_ranks
from collapselab.errors import InputError
from collapselab.probes.notes import Notes
from collapselab.probes.padding import Padding, last_position

# `auto` reduces a feature map with more features than this: about as many as a covariance is stored for.
MAX_FLAT_MAP = 4096

_FORMS = (
    "use auto, flatten, gap, mean, token, token:3 (the fourth token), token:-1 (the last position), token:last (the last "
    "that is not padding) or token:cls (the class token)"
)


@dataclass(frozen=True)
class Reduction:
    """How features with several axes become one row per sample.

    Features that do not have what a reduction reduces are flattened.

    Attributes:
        kind: `flatten`: all axes. `gap`: mean over the positions of a map or sequence. `mean`: mean over the
            tokens of a sequence, without padding where it is marked. `token`: one token of a sequence. `auto`: for
            sequences `of_sequences`, for maps of more than `MAX_FLAT_MAP` features `gap`, else `flatten`.
        index: index of the token; `last` for the last that is not padding, `cls` for the class token.
        padding: tells where tokens are padding; None before a model is known.
        class_token: index of the class token and the number of tokens in sequences that have it (None where unknown).
        of_sequences: what `auto` does with sequences: the token that the head of the network reads, or `mean`.
        notes: what was unusual in the batches so far: keys of `warnings`, and `empty` (see `check`).
    """

    kind: Literal["flatten", "gap", "token", "mean", "auto"] = "flatten"
    index: int | Literal["last", "cls"] = 0
    padding: Padding | None = field(default=None, compare=False, repr=False)
    class_token: tuple[int, int | None] = field(default=(0, None), compare=False)
    of_sequences: Reduction | None = field(default=None, compare=False)
    notes: Notes = field(default_factory=Notes, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str | Reduction) -> Reduction:
        """Return the reduction named `auto`, `flatten`, `gap`, `mean`, `token`, `token:i`, `token[i]`, `token:last`, `token:cls`.

        Raises:
            InputError: any other name.
        """
        if isinstance(text, Reduction):
            return text
        if text in ("auto", "flatten", "gap", "token", "mean"):
            return cls(text)
        if text in ("token:last", "token:cls"):
            return cls("token", "last" if text == "token:last" else "cls")
        found = re.fullmatch(r"token(?::(-?\d+)|\[:?(-?\d+)\])", text)
        if not found:
            raise InputError(f"unknown reduction {text!r}; {_FORMS}")
        return cls("token", int(found[1] or found[2]))

    def __str__(self) -> str:
        return f"token:{self.index}" if self.kind == "token" else self.kind

    def at(self, shape: tuple[int, ...], channel_axis: int) -> Reduction:
        """Return what is done with features of one sample of this shape: what `auto` chooses, or this reduction itself.

        Args:
            channel_axis: axis of channels, counted from the last: -1 for sequences.
        """
        if self.kind != "auto" or len(shape) < 2:
            return self
        if len(shape) > 2 or channel_axis != -1:
            return _GAP if torch.Size(shape).numel() > MAX_FLAT_MAP else _FLATTEN
        chosen = self.of_sequences or _MEAN
        # A sequence of another length need not have the token that the head reads.
        return _mean_of(chosen) if chosen.kind == "token" and chosen.class_token[1] != shape[0] else chosen

    def reduces(
        self, shape: tuple[int, ...], channel_axis: int, mask: Bool[Tensor, "n t"] | None = None
    ) -> bool:
        """Return whether features are reduced rather than flattened.

        Args:
            shape: of the features of one sample.
            channel_axis: axis of channels, counted from the last: -1 for sequences.
            mask: true where a token is not padding.
        """
        if len(shape) < 2 or self.kind == "flatten":
            return False
        if self.kind == "auto":
            return self.at(shape, channel_axis).reduces(shape, channel_axis, mask)
        if self.kind == "gap":
            return -len(shape) <= channel_axis
        tokens = int(torch.Size(shape[:-1]).numel())
        if self.index == "last" and mask is not None and mask.shape[1] != tokens:
            return False
        if self.index == "cls" and self.class_token[1] not in (None, tokens):
            return False
        return channel_axis == -1

    def __call__(
        self, features: Tensor, *, channel_axis: int | None, mask: Bool[Tensor, "n t"] | None = None
    ) -> Tensor:
        """Return features (n, …) as rows (n, p). Means are float32, or float64 for float64 features.

        Args:
            features: what a layer reads, samples first.
            channel_axis: axis of channels, counted from the last; None to flatten them.
            mask: true where a token is not padding; None where all count.

        Raises:
            InputError: the sequence has no such token, or nothing but padding.
        """
        if channel_axis is None or features.ndim < 3:
            return features if features.ndim == 2 else features.flatten(1)
        if self.kind == "auto":
            chosen = self.at(tuple(features.shape[1:]), channel_axis)
            return chosen(features, channel_axis=channel_axis, mask=mask)
        # Half precision overflows, and has too few digits for a sum of many positions.
        is_wide = features.dtype in (torch.float32, torch.float64)
        wide = features.dtype if is_wide else torch.promote_types(features.dtype, torch.float32)
        if self.kind == "gap":
            positions = [dim for dim in range(1, features.ndim) if dim != features.ndim + channel_axis]
            return features.mean(positions, dtype=wide)
        tokens = features.flatten(1, -2)
        if self.kind == "token":
            return tokens[torch.arange(len(tokens), device=tokens.device), self._positions(tokens, mask)]
        if mask is None or mask.shape != tokens.shape[:2]:
            return tokens.mean(1, dtype=wide)
        # Not a matrix product: autocast and TF32 would round it.
        total = tokens.masked_fill(~mask[:, :, None], 0).sum(1, dtype=wide)
        return total / self._lengths(mask)[:, None]

    def _positions(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the index of the token of each sample, (n,)."""
        count = tokens.shape[1]
        if self.index == "last" and mask is not None:
            if mask.shape[1] != count:
                raise InputError(
                    f"reduce: the mask of padding has {mask.shape[1]} positions for {count} tokens"
                )
            self._lengths(mask)
            return last_position(mask)
        index = {"last": -1, "cls": self.class_token[0]}.get(str(self.index), self.index)
        assert isinstance(index, int)
        if not -count <= index < count:
            raise InputError(f"reduce: there is no token {index} in a sequence of {count}")
        if mask is not None and mask.shape == tokens.shape[:2]:
            self.notes.add("position", ~mask[:, index].all())
        return torch.full((len(tokens),), index, device=tokens.device)

    def _lengths(self, mask: Tensor) -> Tensor:
        lengths = mask.sum(1)
        self.notes.add("empty", (lengths == 0).any())
        self._refuse_empty()
        return lengths.clamp_min(1)

    def check(self) -> None:
        """Check what was noted of all batches so far; on an accelerator, this waits for it.

        Raises:
            InputError: a sample had no token that is not padding.
        """
        self.notes.settle()
        self._refuse_empty()

    def _refuse_empty(self) -> None:
        if "empty" in self.notes.known:
            raise InputError(
                f"reduce={str(self)!r}: a sample has no token that is not padding; leave such samples out, or say what the "
                "mask marks: token_mask="
            )

    def warnings(self) -> list[str]:
        """Return what was unusual in the batches of all processes; every process must call it."""
        self.notes.settle()
        texts = [] if self.padding is None else self.padding.warnings(str(self.of_sequences or self))
        if largest_over_ranks(int("position" in self.notes.known)):
            texts.append(
                f"{self.of_sequences or self} is padding in some samples; use token:last for the last token that is not"
            )
        return texts

    def mask_of(self, inputs: Any) -> Bool[Tensor, "n t"] | None:
        """Return where tokens are not padding; None where nothing tells, or the reduction does not ask.

        Args:
            inputs: what the model is called with.
        """
        asks = self.padding is not None and self.kind in ("mean", "token", "auto")
        return self.padding.kept(inputs) if asks and self.padding is not None else None


_FLATTEN, _GAP, _MEAN = Reduction("flatten"), Reduction("gap"), Reduction("mean")


def _mean_of(reduction: Reduction) -> Reduction:
    return replace(reduction, kind="mean", index=0)
