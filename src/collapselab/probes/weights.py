"""The weight that reads a layer's features, as a matrix whose columns are input channels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from collapselab.probes.select import is_transposed_linear, is_weight_layer


def weight_matrix(module: nn.Module) -> Float[Tensor, "out q"] | None:
    """Rows read features along the input channels; None for a module without such a weight.

    A linear layer's weight is (out, in) as it is. A convolution kernel (out, in, kh, kw) becomes
    (out * kh * kw, in): alignment is along the input-channel axis, as in Rangamani et al. 2023. Of a grouped
    convolution, each row reads the channels of its own group and is zero elsewhere.
    """
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    if is_transposed_linear(module):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().T
    if not isinstance(module, _ConvNd):
        return None
    kernel, groups = module.weight.detach(), module.groups
    if isinstance(module, _ConvTransposeNd):  # (in, out / groups, *size): groups split the first axis
        pieces = [piece.flatten(1).T for piece in kernel.chunk(groups)]
    else:  # (out, in / groups, *size)
        pieces = [piece.movedim(1, -1).flatten(0, -2) for piece in kernel.chunk(groups)]
    return pieces[0] if groups == 1 else torch.block_diag(*pieces)


def reads_channels_first(module: nn.Module, ndim: int) -> bool:
    """Whether the channels of what a module reads are the first axis after the batch, or the last.

    A convolution reads them first, a linear layer last; a block of layers as the first of them does; and what has no
    weight layer of its own (pooling, activations) first where it reads maps.

    Args:
        ndim: axes of what it reads, with the batch.
    """
    first = next((part for part in module.modules() if is_weight_layer(part)), None)
    if first is not None:
        return isinstance(first, _ConvNd)
    return ndim > 3 and not isinstance(module, nn.LayerNorm)
