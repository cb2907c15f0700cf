"""The weight that a layer multiplies its input with, as a matrix with one column per input channel."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from collapselab.errors import InputError
from collapselab.probes.affine import affine_matrix
from collapselab.probes.axes import on_host
from collapselab.probes.products import LayerCall
from collapselab.probes.select import is_transposed_linear, is_weight_layer, weight_layer_in
from collapselab.probes.tensors import UnreadableError, ordinary

_PLAIN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_UNKNOWN = (
    "{what}: alignment, self_duality and the spectrum of the weight are undefined, as its parameters are not what "
    "multiplies the features"
)


def weight_matrix(module: nn.Module) -> Float[Tensor, "out q"] | None:
    """Return the weight whose rows read input channels; None for a module without such a weight.

    The weight of a linear layer, (out, in), is returned unchanged. A convolution kernel (out, in, kh, kw) becomes
    (out * kh * kw, in): alignment is along the input-channel axis, as in Rangamani et al. 2023. In a grouped
    convolution, each row reads the channels of its own group and is zero elsewhere.

    Raises:
        UnreadableError: a complex or quantised weight, or one that is refused by `collapselab.probes.tensors.ordinary`.
    """
    if not is_weight_layer(module):
        return None
    weight = module.weight
    assert isinstance(weight, Tensor)
    return _as_matrix(module, _real(weight))


def _as_matrix(layer: nn.Module, weight: Tensor) -> Float[Tensor, "out q"]:
    """Return a weight, stored as the layer stores its own, with rows that read input channels."""
    if not isinstance(layer, _ConvNd):
        return weight.T if is_transposed_linear(layer) else weight
    groups = layer.groups
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, *size): groups split the first axis
        pieces = [piece.flatten(1).T for piece in weight.chunk(groups)]
    else:  # (out, in / groups, *size)
        pieces = [piece.movedim(1, -1).flatten(0, -2) for piece in weight.chunk(groups)]
    return pieces[0] if groups == 1 else torch.block_diag(*pieces)


def _real(weight: Tensor) -> Tensor:
    if weight.is_complex():  # its rows do not read the real and imaginary parts one by one
        raise UnreadableError("complex")
    # With a quantised weight, the layer multiplies with another, scaled matrix.
    if not weight.is_floating_point() or weight.itemsize == 1:
        raise UnreadableError(f"quantised ({weight.dtype})")
    return ordinary(weight)


def effective_weight(
    module: nn.Module, call: LayerCall | None
) -> tuple[Float[Tensor, "out q"] | None, str | None]:
    """Return the weight that a layer multiplies its input with, and why it is unknown.

    Layers that standardise, normalise, quantise, mask or adapt their weight in `forward` multiply with another matrix
    than their parameter. It is, in this order: the only weight that multiplied the unchanged input in a forward pass;
    the matrix of the layer as an affine function, where it is one (a low-rank adapter beside a linear layer); the only
    weight that multiplied the input up to a factor of each sample (a cosine classifier normalises it, too).

    Args:
        module: the layer.
        call: what happened in a forward pass; None if it could not be followed.

    Returns:
        The matrix, None where it is unknown or the module has none; and a warning where it is unknown.

    Raises:
        UnreadableError: see `weight_matrix`.
    """
    layer = weight_layer_in(module)
    if layer is None:
        return None, None
    if isinstance(layer.weight, Tensor) and layer.weight.is_complex():
        raise UnreadableError("complex")
    if call is None or not call.weights or any(_is_freed(weight) for _, weight, _ in call.weights):
        is_plain = layer is module and any(type(layer).forward is kind.forward for kind in _PLAIN)
        return (weight_matrix(layer), None) if is_plain else (None, _unknown("no product was seen inside it"))
    if any(weight.is_complex() for _, weight, _ in call.weights):
        raise UnreadableError("complex")
    if call.is_random:
        return None, _unknown("its weight is drawn at random in every forward pass")
    only = _only_factor(layer, call)
    if only is not None and call.is_exact:
        return only, None
    found = affine_matrix(module, layer, call)
    if found is None and only is not None and not call.reads_input:
        return None, _unknown("it changes its input before it multiplies it")
    found = only if found is None else found
    return (found, None) if found is not None else (None, _unknown("it is not one product with a weight"))


def check_finite_weights(weights: Mapping[str, Tensor]) -> None:
    """Check weights by the name of their layer, with one read-back for all that are finite.

    Raises:
        InputError: NaN or infinite values, with the first layer that has them.
    """
    sums = on_host([weight.sum() for weight in weights.values()])
    for (name, weight), total in zip(weights.items(), sums, strict=True):
        count = 0 if math.isfinite(float(total)) else int((~torch.isfinite(weight)).sum())
        if count:
            raise InputError(f"the weight of {name} has {count} NaN or infinite values; give a trained model")


def _unknown(what: str) -> str:
    return _UNKNOWN.format(what=what)


def _is_freed(weight: Tensor) -> bool:
    """Return whether the memory of a weight is gone, as that of a sharded one is after its layer has run."""
    try:
        last = sum(stride * (size - 1) for size, stride in zip(weight.shape, weight.stride(), strict=True))
        needed = (int(weight.storage_offset()) + int(last) + 1) * weight.element_size()
        return weight.numel() > 0 and weight.untyped_storage().nbytes() < needed
    except (RuntimeError, NotImplementedError):  # a tensor without strides or memory, such as a sparse one
        return True


def _only_factor(layer: nn.Module, call: LayerCall) -> Float[Tensor, "out q"] | None:
    """Return the only weight that multiplied data as a matrix; None if there were several, or it is no such weight."""
    if len(call.weights) != 1:
        return None
    ((name, factor, is_left),) = call.weights
    own = getattr(layer, "weight", None)
    # A quantised weight only codes for the matrix that the layer multiplies with.
    own = own.detach() if isinstance(own, Tensor) and own.is_floating_point() and own.itemsize > 1 else None
    if name.endswith("convolution"):
        if not isinstance(layer, _ConvNd) or own is None or own.shape != factor.shape:
            return None
        return _as_matrix(layer, _in_full_precision(factor, own))
    if isinstance(layer, _ConvNd):
        return None
    if factor.ndim == 3 and (len(factor) == 1 or factor.stride(0) == 0):  # one matrix for all samples
        factor = factor[0]
    if factor.ndim != 2:
        return None
    matrix = factor if name == "linear" or is_left else factor.T
    if own is None:
        return matrix
    own = _as_matrix(layer, own)
    return _in_full_precision(matrix, own) if own.shape == matrix.shape else None


def _in_full_precision(factor: Tensor, own: Tensor) -> Tensor:
    """Return a layer's own weight if the factor is that weight in the dtype of autocast, else the factor."""
    return own if _is_same_view(own, factor) or torch.equal(own.to(factor.dtype), factor) else factor


def _is_same_view(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors show the same memory in the same way, so that no value need be compared."""
    same_form = (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
    same_place = int(one.storage_offset()) == int(other.storage_offset())
    return same_form and same_place and one.untyped_storage()._cdata == other.untyped_storage()._cdata
