"""The weight of a layer as a matrix with one column per input channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from collapselab.probes.select import is_transposed_linear, is_weight_layer
from collapselab.probes.tensors import UnreadableError, ordinary


def weight_matrix(module: nn.Module) -> Float[Tensor, "out q"] | None:
    """Return the weight whose rows read input channels; None for a module without such a weight.

    The weight of a linear layer, (out, in), is returned unchanged. A convolution kernel (out, in, kh, kw) becomes
    (out * kh * kw, in): alignment is along the input-channel axis, as in Rangamani et al. 2023. In a grouped
    convolution, each row reads the channels of its own group and is zero elsewhere.

    Raises:
        UnreadableError: a complex or quantised weight, or one that is refused by `collapselab.probes.tensors.ordinary`.
    """
    if isinstance(module, nn.Linear):
        return _real(module.weight)
    if is_transposed_linear(module):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return _real(weight).T
    if not isinstance(module, _ConvNd):
        return None
    kernel, groups = _real(module.weight), module.groups
    if isinstance(module, _ConvTransposeNd):  # (in, out / groups, *size): groups split the first axis
        pieces = [piece.flatten(1).T for piece in kernel.chunk(groups)]
    else:  # (out, in / groups, *size)
        pieces = [piece.movedim(1, -1).flatten(0, -2) for piece in kernel.chunk(groups)]
    return pieces[0] if groups == 1 else torch.block_diag(*pieces)


def _real(weight: Tensor) -> Tensor:
    if weight.is_complex():  # its rows do not read the real and imaginary parts one by one
        raise UnreadableError("complex")
    if (
        not weight.is_floating_point() or weight.itemsize == 1
    ):  # the layer multiplies with another, scaled matrix
        raise UnreadableError(f"quantised ({weight.dtype})")
    return ordinary(weight)


def reads_channels_first(module: nn.Module, ndim: int) -> bool:
    """Return whether the channel axis of what a module reads is the first after the batch, rather than the last.

    It is the first for a convolution and the last for a linear layer. A block of layers follows its first weight layer.
    For a module without weight layers (pooling, activations) it is the first if the module reads maps.

    Args:
        module: the module.
        ndim: number of axes of what it reads, including the batch.
    """
    first = next((part for part in module.modules() if is_weight_layer(part)), None)
    if first is not None:
        return isinstance(first, _ConvNd)
    return ndim > 3 and not isinstance(module, nn.LayerNorm)
