"""The matrix of a layer that is an affine function of its input, found by asking it: for adapters, gains and the like.

Letters: n rows, L positions along an axis of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from collapselab.probes.products import LayerCall

# Rows that are worked on at once, and output channels of convolutions.
_ROWS, _OUTPUTS = 1024, 64

Function = Callable[[Tensor], Tensor]


def affine_matrix(module: nn.Module, layer: nn.Module, call: LayerCall) -> Float[Tensor, "out q"] | None:
    """Return the matrix of a module, one column per input channel; None if the module is no affine function.

    It is found in a float64 copy of the module if there can be one, and checked on what the module has read.

    Args:
        module: a linear layer or convolution, or a module around one.
        layer: the linear layer or convolution.
        call: a call of the module.
    """
    if call.features is None or isinstance(layer, _ConvTransposeNd):
        return None
    for dtype in (torch.float64, call.features.dtype):
        try:
            asked = copy.deepcopy(module).to(dtype) if dtype == torch.float64 else module
            features = call.features.to(dtype)
            if isinstance(layer, _ConvNd):
                return _by_gradients(asked.forward, layer, features)
            return _by_unit_vectors(asked.forward, features.flatten(0, -2)[:_ROWS])
        except Exception:  # a module that cannot be copied, or computes in its own dtype only
            continue
    return None


def _by_unit_vectors(function: Function, features: Float[Tensor, "n in"]) -> Tensor | None:
    """Return W of x -> W x + b, or None if `function` differs from it on `features` by more than rounding."""
    bias = function(torch.zeros_like(features[:1]))
    units = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    matrix = torch.cat([function(rows) - bias for rows in units.split(_ROWS)]).T
    return matrix if _agree(function(features) - bias, features @ matrix.T, bias) else None


def _by_gradients(function: Function, layer: _ConvNd, features: Tensor) -> Tensor | None:
    """Return the kernel of an affine function of maps that is the same at every position, (out * positions, in).

    Each output at the middle of a map is a linear form of the input; its gradient is the kernel. Rows for positions
    outside of the kernel are left out.
    """
    bias = function(torch.zeros_like(features[:2]))
    # The minus tells where a function is linear for one sign only.
    one, other = features[:1] / 2, -features[-1:]
    sums = function(one + other) - bias[:1], function(one) + function(other) - 2 * bias[:1]
    if not _agree(*sums, bias):
        return None
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    size = [3 * span + 2 * step for span, step in zip(spans, layer.stride, strict=True)]
    origin = features.new_zeros(_OUTPUTS, features.shape[1], *size)
    num_outputs = bias.shape[1]
    rows = []
    for start in range(0, num_outputs, _OUTPUTS):
        here, beside = (
            _gradients(function, origin, range(start, min(start + _OUTPUTS, num_outputs)), shift)
            for shift in (0, 1)
        )
        if not _agree(here.flatten(2).sum(2), beside.flatten(2).sum(2), bias):
            return None
        rows.append(here.movedim(1, -1).flatten(0, -2))
    matrix = torch.cat(rows)
    return matrix[matrix.any(1)]


def _gradients(function: Function, origin: Tensor, outputs: range, shift: int) -> Tensor:
    """Return the gradient of each output channel at one position, near the middle, (outputs, in, L, …)."""
    with torch.enable_grad():
        inputs = origin[: len(outputs)].clone().requires_grad_()
        maps = function(inputs)
        middle = tuple(
            length // 2 + (shift if axis == 0 else 0) for axis, length in enumerate(maps.shape[2:])
        )
        chosen = maps[(torch.arange(len(outputs)), torch.tensor(outputs), *middle)]
        return torch.autograd.grad(chosen.sum(), inputs)[0]


def _agree(one: Tensor, other: Tensor, bias: Tensor) -> bool:
    """Return whether two results differ by rounding only; `bias` was subtracted from at least one of them."""
    allowed = 1000 * torch.finfo(one.dtype).eps * (one.norm() + bias.norm() + torch.finfo(one.dtype).tiny)
    return bool((one - other).norm() <= allowed)
