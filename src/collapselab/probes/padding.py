"""Which tokens of a batch are padding: an input marks them, or they are the padding token of the model.

Letters: n samples, t tokens.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from collapselab.distributed import is_same_over_ranks, largest_over_ranks
from collapselab.errors import InputError, one_line
from collapselab.probes.inputs import Choice, Path, leaves
from collapselab.probes.notes import Notes

# An input by name, which marks tokens, or padding after `~`; a function of the inputs; False for none.
TokenMaskOption = str | Callable[[Any], Tensor] | bool | None
Mask = Bool[Tensor, "n t"]

_TOKENS = "attention_mask"
# The mask of a decoder, or of what it attends to, is not that of the input.
_PADDING = re.compile(r"(?!tgt|target|memory|decoder).*(^|_)pad(ding)?_mask")
_LENGTHS = re.compile(r"(.*_)?len(gth)?s?")
# Inputs of zeros and ones that are known to be something else.
_OTHER = re.compile(r".*(ids|types?|segments?|head_mask|special_tokens_mask|global_attention_mask|labels)")
_REMEDY = 'token_mask="{0}" says that it marks tokens, "~{0}" that it marks padding'


@dataclass(frozen=True)
class _Marks:
    """The input that marks tokens (its entries other than zero), or padding."""

    name: str
    is_padding: bool

    def kept(self, value: Tensor) -> Mask:
        kept = value == 0 if self.is_padding else value != 0
        # A mask with negative values is added to attention scores.
        return torch.where((value < 0).any(), value >= 0, kept) if value.is_floating_point() else kept


class Padding:
    """Where the batches of a model have padding.

    The first batch with a mask decides how it is read. A mask of known name is read by the convention of this name
    (`attention_mask` marks tokens, as in `transformers`; `key_padding_mask` and its kin mark padding, as in torch), unless
    that leaves samples without tokens, or takes different values for padding, and the opposite does not.

    Args:
        model: its configuration (`transformers`), or else its first embedding that has one, names the padding token.
        wanted: the option `token_mask`.
        is_needed: whether a reduction depends on the mask.

    Attributes:
        is_needed: as given; it can be set later.
        pad_token_id: token number that is padding, for batches without a mask; None where there is none.
        sample_axes: the axis of inputs that holds samples, where it is known; the first of any other.
    """

    def __init__(self, model: nn.Module, wanted: TokenMaskOption = None, *, is_needed: bool = False) -> None:
        self._wanted, self.is_needed = wanted, is_needed
        self._marks: _Marks | None = None
        self._notes: dict[str, None] = {}
        self._seen = Notes()
        self._has_looked = False
        self.pad_token_id = _pad_token_id(model)
        self.sample_axes: Choice = {}
        try:
            self._arguments = tuple(inspect.signature(model.forward).parameters)
        except (TypeError, ValueError):
            self._arguments = ()

    def kept(self, inputs: Any) -> Mask | None:
        """Return where tokens are not padding; None where nothing tells.

        Args:
            inputs: what the model is called with.

        Raises:
            InputError: the option names no input, or its function fails.
        """
        if isinstance(self._wanted, bool):
            return None
        if callable(self._wanted):
            return _called(self._wanted, inputs)
        named = self._named(inputs)
        mask = self._by_mask(named)
        by_id = self._by_id(named) if self._wanted is None else None
        if mask is None or by_id is None:
            return by_id if mask is None else mask
        if mask.shape == by_id.shape:
            self._seen.add("disagree", (last_position(mask) != last_position(by_id)).any())
        return mask

    def warnings(self, reduction: str) -> list[str]:
        """Return what was assumed in any process; every process must call it.

        Args:
            reduction: name of the reduction.

        Raises:
            InputError: the first masks of the processes were read differently.
        """
        if not is_same_over_ranks(repr(self._marks)) and largest_over_ranks(int(self.is_needed)):
            raise InputError(
                "the masks of the processes are read differently; say what they mark with token_mask="
            )
        name = "the mask" if self._marks is None else self._marks.name
        texts = [f"{reduction}: {note}" for note in self._notes if self.is_needed]
        self._seen.settle()
        if largest_over_ranks(int("disagree" in self._seen.known and reduction == "token:last")):
            texts.append(
                f"token:last follows {name}; the padding token {self.pad_token_id} of the model's configuration would mark "
                "other tokens as the last"
            )
        return texts

    def _named(self, inputs: Any) -> dict[str, Tensor]:
        """Return all tensors by name, samples along the first axis: sequences may come with time first."""
        found: dict[str, Tensor] = {}
        for path, value in leaves(inputs):
            if isinstance(value, Tensor) and not value.is_nested:
                is_turned = self.sample_axes.get(path) == 1
                name = self._name(path, is_call=type(inputs) is tuple)
                found[name] = _without_single_axes(value.transpose(0, 1) if is_turned else value)
        mask = getattr(inputs, _TOKENS, None)
        return found or ({_TOKENS: mask} if isinstance(mask, Tensor) else {})

    def _name(self, path: Path, *, is_call: bool) -> str:
        """Return the key of an input, the parameter of the model that it is, or its place: `0`, `pair.1`."""
        if is_call and isinstance(path[0], int) and path[0] < len(self._arguments):
            path = (self._arguments[path[0]], *path[1:])
        return path[-1] if path and isinstance(path[-1], str) else ".".join(map(str, path))

    def _by_mask(self, named: dict[str, Tensor]) -> Mask | None:
        name = self._name_of_mask(named)
        if name is None:
            self._note_unknown(named)
            return None
        value = named[name]
        if self._marks is None or self._marks.name != name:
            self._marks = self._read(name, value, named)
        return self._marks.kept(value)

    def _name_of_mask(self, named: dict[str, Tensor]) -> str | None:
        if isinstance(self._wanted, str):
            name = self._wanted.removeprefix("~")
            if not _is_matrix(named.get(name)):
                known = ", ".join(named)
                raise InputError(
                    f"token_mask={self._wanted!r}: no input of shape (n, tokens) has this name; the inputs are {known}"
                )
            return name
        if _is_matrix(named.get(_TOKENS)):
            return _TOKENS
        return next(
            (key for key, value in named.items() if _PADDING.fullmatch(key) and _is_matrix(value)), None
        )

    def _read(self, name: str, value: Tensor, named: dict[str, Tensor]) -> _Marks:
        """Return how a mask is read, and note what is assumed."""
        if isinstance(self._wanted, str):
            return _Marks(name, self._wanted.startswith("~"))
        usual = _Marks(name, name != _TOKENS)
        is_additive = value.is_floating_point() and bool((value < 0).any())
        if is_additive or (name == _TOKENS and value.dtype != torch.bool):
            return usual
        opposite = _Marks(name, not usual.is_padding)
        tokens = next(
            (one for key, one in named.items() if key != name and _has_tokens(one, value.shape)), None
        )
        evidence = {one: _evidence(one.kept(value), tokens) for one in (usual, opposite)}
        chosen = opposite if evidence[opposite] > evidence[usual] else usual
        if evidence[usual] <= evidence[opposite]:
            what = "padding" if chosen.is_padding else "a token"
            self._notes[f"true in {name} is taken as {what}; {_REMEDY.format(name)}"] = None
        return chosen

    def _note_unknown(self, named: dict[str, Tensor]) -> None:
        """Note inputs of the first batch that may say what is padding."""
        if self._has_looked:
            return
        self._has_looked = True
        shapes = [value.shape[:2] for value in named.values() if value.ndim > 1]
        for name, value in named.items():
            if value.is_complex() or _OTHER.fullmatch(name):
                continue
            if name == _TOKENS or _PADDING.fullmatch(name):
                remedy = "token_mask= a function of the inputs that returns (n, tokens), true for tokens"
            elif _LENGTHS.fullmatch(name) and value.ndim == 1 and not value.is_floating_point():
                remedy = "token_mask= a function of the inputs, such as lambda inputs: torch.arange(t) < lengths[:, None]"
            elif (
                value.ndim == 2
                and shapes.count(value.shape) > 1
                and bool(((value == 0) | (value == 1)).all())
            ):
                remedy = _REMEDY.format(name)
            else:
                continue
            self._notes[
                f"whether the input {name} tells padding is not known, and it is not used; {remedy}"
            ] = None

    def _by_id(self, named: dict[str, Tensor]) -> Mask | None:
        keys = ("input_ids", *self._arguments[:1], "", "0")  # else the first argument
        ids = next((named[key] for key in keys if key in named), None)
        if (
            not isinstance(ids, Tensor)
            or ids.ndim != 2
            or ids.is_floating_point()
            or self.pad_token_id is None
        ):
            return None
        return trimmed(ids != self.pad_token_id)


def _pad_token_id(model: nn.Module) -> int | None:
    number = getattr(getattr(model, "config", None), "pad_token_id", None)
    if isinstance(number, int):
        return number
    embeddings = (part for part in model.modules() if isinstance(part, nn.Embedding))
    return next((part.padding_idx for part in embeddings if part.padding_idx is not None), None)


def _without_single_axes(value: Tensor) -> Tensor:
    """Return a mask (n, 1, 1, t) or (n, t, 1), as it is multiplied with attention or tokens, as (n, t)."""
    if value.ndim > 2 and value.numel() == value.shape[0] * max(value.shape[1:]):
        return value.reshape(len(value), -1)
    return value


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and not value.is_complex()


def _has_tokens(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape[:2] == shape and value.dtype != torch.bool


def _evidence(kept: Mask, tokens: Tensor | None) -> tuple[bool, bool]:
    """Return whether a mask leaves every sample a token, and whether what it takes for padding is all the same."""
    is_whole = bool(kept.any(1).all())
    if tokens is None:
        return is_whole, True
    padding = tokens[~kept.to(tokens.device)]
    return is_whole, bool((padding == padding[:1]).all())


def _called(function: Callable[[Any], Any], inputs: Any) -> Mask:
    try:
        mask = function(inputs)
    except Exception as error:
        raise InputError(
            f"token_mask=: the function raised {type(error).__name__} ({one_line(error)}) for the inputs of a batch"
        ) from error
    if not _is_matrix(mask):
        raise InputError(
            "token_mask=: let the function return (n, tokens), true where a token is not padding"
        )
    return mask != 0


def last_position(mask: Mask) -> Tensor:
    """Return the last position of each sample that is true, (n,): of padding on either side."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


def trimmed(mask: Mask) -> Mask:
    """Return a mask that is false only before the first and after the last token that `mask` keeps.

    A padding token between two others is text: often the end of a sentence is also the padding.
    """
    begun = mask.long().cumsum(1) > 0
    unfinished = mask.long().flip(1).cumsum(1).flip(1) > 0
    return begun & unfinished


def parse_token_mask(value: Any) -> Any:
    """Return the option `token_mask`.

    Raises:
        InputError: anything but a name, a function or False.
    """
    if value is None or value is False or callable(value) or (isinstance(value, str) and value.strip("~")):
        return value
    raise InputError(
        f"token_mask={value!r}: give the name of the input that marks tokens, ~NAME for one that marks padding, or False"
    )
