"""What a profile must say, from features taken out by hooks of this file: numpy, float64, whole data at once.

Letters: n samples, p features, c classes, q channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.float64]


def run(
    model: nn.Module, inputs: dict[str, Tensor] | Tensor, names: list[str]
) -> tuple[dict[str, Array], Array]:
    """Return what the first call of each module reads, and the class scores."""
    found: dict[str, Array] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            found.setdefault(name, tensor.double().numpy().copy())

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_pre_hook(keep(name), with_kwargs=True) for name in names]
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for handle in handles:
        handle.remove()
    scores = output if isinstance(output, Tensor) else output.logits
    return found, scores.double().numpy()


def place_of(module: nn.Module, told: str) -> str:
    """Return `maps` where channels are the second axis, `tokens` where they are the last."""
    return told or ("maps" if hasattr(module, "kernel_size") else "tokens")


def rows_of(features: Array, place: str, how: str, mask: npt.NDArray[np.bool_] | None) -> Array:
    """Return (n, p), as the definition of a reduction says."""
    if features.ndim == 2 or how == "flatten" or (place == "maps" and how != "gap"):
        return features.reshape(len(features), -1)
    last = np.moveaxis(features, 1, -1) if place == "maps" else features
    tokens = last.reshape(len(last), -1, last.shape[-1])
    if how == "token":
        return tokens[:, 0]
    if how == "mean" and mask is not None and mask.shape[1] == tokens.shape[1]:
        return np.stack([one[kept].mean(axis=0) for one, kept in zip(tokens, mask, strict=True)])
    return tokens.mean(axis=1)


def class_means(rows: Array, labels: npt.NDArray[np.int64]) -> Array:
    return np.stack([rows[labels == c].mean(axis=0) for c in np.unique(labels)])


def within_share(rows: Array, labels: npt.NDArray[np.int64]) -> float:
    """Tr Sigma_W / Tr Sigma_T, every class with the same weight."""
    means = class_means(rows, labels)
    within = np.mean([((rows[labels == c] - mean) ** 2).sum(axis=1).mean() for c, mean in enumerate(means)])
    return float(within / (within + ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()))


def nearest_class(rows: Array, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    means = class_means(rows, labels)
    return np.stack([((rows - mean) ** 2).sum(axis=1) for mean in means]).argmin(axis=0)


def weight_rows(module: nn.Module) -> Array | None:
    """Return the weight that multiplies the input, one column per channel; None for a module without one."""
    parameter = getattr(module, "weight", None)
    if not isinstance(parameter, Tensor) or "Norm" in type(module).__name__:
        return None
    weight = parameter.detach().double().numpy()
    if type(module).__name__ == "StdConv2d":
        flat = weight.reshape(len(weight), -1)
        flat = (flat - flat.mean(axis=1, keepdims=True)) / np.sqrt(flat.var(axis=1, keepdims=True) + 1e-8)
        weight = flat.reshape(weight.shape)
    if weight.ndim == 2:
        return weight.T if type(module).__name__ == "Conv1D" else weight
    groups = int(module.groups)  # pyright: ignore[reportArgumentType] a convolution has groups
    out, each = weight.shape[:2]
    dense = np.zeros((out, each * groups, *weight.shape[2:]))
    for row in range(out):
        first = row // (out // groups) * each
        dense[row, first : first + each] = weight[row]
    return np.moveaxis(dense, 1, -1).reshape(-1, each * groups)


def alignment(rows: Array, labels: npt.NDArray[np.int64], weight: Array, *, channels_first: bool) -> float:
    """Mean cosine of the principal angles between the centred class means and the leading rows of the weight.

    Where features are channels at several positions, (q, positions) or (positions, q), the means of every position
    span a subspace of the channels.
    """
    means = class_means(rows, labels)
    means = means - means.mean(axis=0)
    q = weight.shape[1]
    if channels_first and means.shape[1] != q:
        means = means.reshape(len(means), q, -1).swapaxes(1, 2)
    bases = []
    for matrix in (means.reshape(-1, q), weight):
        _, values, right = np.linalg.svd(matrix, full_matrices=False)
        bases.append(right[values > 1e-12 * values[0]])
    k = min(len(class_means(rows, labels)) - 1, *(len(basis) for basis in bases))
    return float(np.linalg.svd(bases[0][:k] @ bases[1][:k].T, compute_uv=False).clip(0, 1).mean())


def self_duality(rows: Array, labels: npt.NDArray[np.int64], weight: Array) -> float:
    means = class_means(rows, labels)
    means = means - means.mean(axis=0)
    return float(np.linalg.norm(weight / np.linalg.norm(weight) - means / np.linalg.norm(means)))
