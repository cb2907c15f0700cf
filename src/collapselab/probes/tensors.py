"""Tensors of every kind as ordinary ones: gathered from processes, dense, real. Others are refused by their name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# A batch of sparse features that takes more memory than this when dense is refused.
_MAX_DENSE_BYTES = 2**31


class UnreadableError(Exception):
    """A tensor that has no rows of numbers; the message names its kind."""


def ordinary(tensor: Tensor | PackedSequence) -> Tensor:
    """Return a dense tensor with the same values, detached; an ordinary one is not copied.

    The parts of a distributed tensor (`DTensor`) are gathered, so that every process that has one of them must call this.
    The rows of a packed sequence are its tokens, in packed order.

    Raises:
        UnreadableError: masked and nested tensors, those inside `torch.func.vmap`, sparse ones that are too large.
    """
    if isinstance(tensor, PackedSequence):
        return ordinary(tensor.data)
    if _is_ordinary(tensor):
        return tensor.detach() if tensor.requires_grad else tensor
    whole: Any = tensor.detach()
    if hasattr(whole, "full_tensor"):
        whole = whole.full_tensor()
    if type(whole).__name__ == "AsyncCollectiveTensor":
        whole = whole.wait()
    kind = _unreadable_kind(whole)
    if kind is not None:
        raise UnreadableError(kind)
    if whole.is_quantized:
        return whole.dequantize()
    if whole.layout != torch.strided:
        return whole.to_dense()
    if whole.is_floating_point() and whole.itemsize == 1:  # almost no operation takes these
        return whole.float()
    return whole if type(whole) is Tensor else whole.as_subclass(Tensor)


def _is_ordinary(tensor: Tensor) -> bool:
    """Return whether a tensor is of none of the kinds below, as almost every one is."""
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.itemsize > 1
        and not (tensor.is_nested or tensor.is_meta or tensor.is_quantized)
        and not is_functorch_wrapped_tensor(tensor)
    )


def _unreadable_kind(tensor: Tensor) -> str | None:
    if hasattr(tensor, "get_mask"):
        return "a masked tensor; fill or drop what is masked before this layer"
    if tensor.is_nested:
        return "a nested tensor; pad it to one length before this layer"
    if is_functorch_wrapped_tensor(tensor):
        return "a tensor inside a torch.func transform; call the layer outside of it"
    if is_traceable_wrapper_subclass(tensor):
        return f"a {type(tensor).__name__}, which is not known here"
    if tensor.is_meta:
        return "a tensor on the meta device, which stores no data"
    if tensor.layout != torch.strided and tensor.numel() * tensor.itemsize > _MAX_DENSE_BYTES:
        size = tensor.numel() * tensor.itemsize / 2**30
        return f"a sparse tensor that would take {size:.0f} GiB when dense; give smaller batches"
    return None
