"""Which tokens are padding, and which is the class token, as a model's configuration and its head tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Bool
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes.following import Follower
from collapselab.probes.notes import Notes
from collapselab.probes.padding import Padding, TokenMaskOption
from collapselab.probes.reduce import Reduction
from collapselab.text import listed

# Names of the parameter that a vision transformer prepends to its patches (timm, torchvision, transformers, CLIP).
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls_embedding")


def with_padding(reduction: Reduction, model: nn.Module, wanted: TokenMaskOption) -> Reduction:
    """Return the reduction with what a model and the caller say of padding, and without notes of other measurements."""
    is_needed = reduction.kind == "mean" or reduction.index == "last"
    return replace(reduction, padding=Padding(model, wanted, is_needed=is_needed), notes=Notes())


def resolved(reduction: Reduction, follower: Follower, model: nn.Module) -> Reduction:
    """Return a reduction that knows the class token; `auto` then knows what to do with sequences.

    Raises:
        InputError: see `class_token`.
    """
    reduction = replace(reduction, class_token=class_token(reduction, follower, model))
    if reduction.kind != "auto":
        return reduction
    selected = follower.selected
    if selected is None:
        return replace(reduction, of_sequences=replace(reduction, kind="mean"))
    token = replace(reduction, kind="token", index=selected[0], class_token=selected)
    return replace(reduction, of_sequences=token)


def class_token(reduction: Reduction, follower: Follower, model: nn.Module) -> tuple[int, int | None]:
    """Return the index of the class token, and the number of tokens of sequences that have it; None where unknown.

    It is the token that the network's own head takes from a sequence; the first for a network that prepends a
    parameter but averages in its head.

    Raises:
        InputError: the network has none.
    """
    if reduction.index != "cls":
        return reduction.class_token
    if follower.selected is not None:
        return follower.selected
    if any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in model.named_parameters()):
        return 0, None
    raise InputError(
        f"reduce='token:cls': no head of {type(model).__name__} takes one token of a sequence, and no parameter is "
        "named cls_token; name the token (token:0, token:-1), or use token:last or mean"
    )


def reduction_warnings(
    reduction: Reduction,
    shapes: Mapping[str, tuple[int, ...]],
    flat: Sequence[str],
    mask: Bool[Tensor, "n t"] | None,
) -> list[str]:
    """Return what a reduction cannot do for some layers.

    Args:
        reduction: how features become rows.
        shapes: of what layers read, without the batch.
        flat: names of layers whose features have several axes and are flattened.
        mask: true where a token is not padding.
    """

    def other(names: Sequence[str], tokens: int | None) -> list[str]:
        return [
            name
            for name in names
            if tokens is not None and len(shapes[name]) == 2 and shapes[name][0] != tokens
        ]

    length = None if mask is None else mask.shape[1]
    if reduction.index == "cls":
        names, text = (
            other(flat, reduction.class_token[1]),
            "does not have the class token: its features are flattened",
        )
    elif reduction.index == "last":
        names, text = (
            other(flat, length),
            f"does not read the {length} tokens of the mask: its features are flattened",
        )
    elif "mean" in (reduction.kind, reduction.of_sequences and reduction.of_sequences.kind):
        sequences = [name for name, shape in shapes.items() if len(shape) == 2 and name not in flat]
        names, text = (
            other(sequences, length),
            f"does not read the {length} tokens of the mask: all count in its mean",
        )
    else:
        return []
    return [f"{listed(names)}: {text}"] if names else []
