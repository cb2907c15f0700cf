"""Layers that are not trained: simplex ETFs in the place of collapsed layers (Rangamani et al. 2023, sec. 5.3).

Letters: p inputs, q outputs, c classes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils import parametrize

from collapselab.errors import InputError
from collapselab.probes import Profile
from collapselab.text import listed, number

Fixed = Literal["etf", "identity", "orthogonal"]


def simplex_etf(outputs: int, inputs: int) -> Float[Tensor, "q p"]:
    """Return the canonical simplex equiangular tight frame that maps p >= q inputs to q >= 2 outputs, in float64.

    It is sqrt(q/(q-1)) (I - 11^T/q) P^T, where P holds the first q columns of the p x p identity: the other p - q inputs are
    not read. Rows have norm 1 and cosines -1/(q-1), and add up to 0.
    """
    frame = torch.zeros(outputs, inputs, dtype=torch.float64)
    frame[:, :outputs] = torch.eye(outputs, dtype=torch.float64) - 1 / outputs
    return frame * (outputs / (outputs - 1)) ** 0.5


@torch.no_grad()
def fix_weight(layer: nn.Linear, kind: Fixed) -> None:
    """Replace the weight of a layer, in place, by one that is not trained; its bias is still trained.

    Args:
        layer: with at least as many inputs as outputs.
        kind: `etf` (see `simplex_etf`), `identity` (its first rows), or `orthogonal` (random orthonormal rows, drawn by the
            default generator).
    """
    if kind == "orthogonal":
        nn.init.orthogonal_(layer.weight)
    else:
        outputs, inputs = layer.weight.shape
        layer.weight.copy_(simplex_etf(outputs, inputs) if kind == "etf" else torch.eye(outputs, inputs))
    layer.weight.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class FixedNetwork:
    """A network whose collapsed layers are simplex ETFs.

    Attributes:
        model: the network, ready to be trained on: only the weights of these layers are fixed.
        layers: names of the fixed layers, in order of depth.
        num_saved: number of weights that are neither trained nor, because they are known, need be stored.
        num_parameters: number of all parameters.
    """

    model: nn.Module
    layers: tuple[str, ...]
    num_saved: int
    num_parameters: int

    def __str__(self) -> str:
        noun = "layer is a simplex ETF" if len(self.layers) == 1 else "layers are simplex ETFs"
        share = f"{self.num_saved:,} of {self.num_parameters:,} parameters are not trained"
        return f"{len(self.layers)} {noun} ({listed(self.layers)}); {share}"


def fix_collapsed_layers(model: nn.Module, profile: Profile) -> FixedNetwork:
    """Return a copy of a network whose collapsed layers are simplex ETFs, to be trained further.

    The weights of the layers that read collapsed features, from `profile.first_collapsed_layer` to the classifier, become
    simplex ETFs and are fixed. All else, such as biases and batch norm, is as before and is trained. The classifier reads one
    feature per class, and hidden ETFs nearly pass features on: it reads those that tell the classes apart best at the first
    collapsed layer. (The paper, which trains from random weights, takes the first ones; so does a profile read from a file, which
    has no class means.) Until the copy is trained, its outputs are still those of another network.

    Args:
        model: a network whose collapsed layers are linear; hidden ones have as many outputs as inputs, and the classifier has
            at least as many inputs as classes.
        profile: of this network; its `epsilon` decides which layers are collapsed.

    Raises:
        InputError: no layer is collapsed, or a collapsed layer cannot be a simplex ETF; the message says why.

    Example:
        >>> import torch, collapselab
        >>> from torch import nn
        >>> labels = torch.arange(40) % 4
        >>> batches = [(torch.eye(4)[labels], labels)]
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        >>> fixed = collapselab.fix_collapsed_layers(model, collapselab.profile(model, batches))
        >>> print(fixed)
        2 layers are simplex ETFs (0, 2); 32 of 40 parameters are not trained
    """
    names = _collapsed(profile)
    copied = copy.deepcopy(model)
    modules = dict(copied.named_modules())
    chosen = {
        name: _checked(name, modules, is_last=name == names[-1], num_classes=len(profile.classes))
        for name in names
    }
    _check_unshared(chosen, copied)
    for layer in chosen.values():
        fix_weight(layer, "etf")
    means = profile[names[0]].splits["train"].class_means
    classifier = chosen[names[-1]]
    if means is not None and means.shape[1] == classifier.in_features:
        _read(classifier, _telling_features(means))
    parameters = list(copied.parameters())
    saved = sum(layer.weight.numel() for layer in chosen.values())
    return FixedNetwork(copied, tuple(names), saved, sum(one.numel() for one in parameters))


def _telling_features(class_means: Float[Tensor, "c p"]) -> Int[Tensor, " c"]:
    """Return a feature for each class, all different, that is largest for this class relative to its spread over classes."""
    centred = class_means - class_means.mean(dim=0)
    spread = centred.square().mean(dim=0).sqrt()
    scores = torch.where(spread > 0, centred / spread, 0.0)
    _, features = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    return torch.from_numpy(features)


@torch.no_grad()
def _read(classifier: nn.Linear, features: Int[Tensor, " c"]) -> None:
    """Let a canonical ETF read these features instead of the first ones."""
    frame = classifier.weight[:, : len(features)].clone()
    classifier.weight.zero_()
    classifier.weight[:, features] = frame


def _collapsed(profile: Profile) -> list[str]:
    names = [layer.name for layer in profile.layers]
    if profile.first_collapsed_layer is None:
        share = number(profile.layers[-1].train.get("normalized_within"))
        raise InputError(
            f"profile: no layer is collapsed: the within-class share of the variance at the last one, {names[-1]}, is {share}, "
            f"not below {profile.epsilon:g}; train the network further, or profile it with a larger epsilon"
        )
    return names[names.index(profile.first_collapsed_layer) :]


def _checked(name: str, modules: Mapping[str, nn.Module], *, is_last: bool, num_classes: int) -> nn.Linear:
    """Return a layer that can be a simplex ETF.

    Raises:
        InputError: it cannot.
    """
    layer = modules.get(name)
    if layer is None:
        raise InputError(f"profile: the model has no layer {name!r}; give the profile of this model")
    cannot = f"{name}: collapsed, but cannot be a simplex ETF:"
    if type(layer) is not nn.Linear:
        raise InputError(
            f"{cannot} it is a {type(layer).__name__}; give a model whose collapsed layers are nn.Linear"
        )
    if parametrize.is_parametrized(layer):
        raise InputError(f"{cannot} its weight is parametrized; remove the parametrization")
    outputs, inputs = layer.weight.shape
    if not is_last and outputs != inputs:
        raise InputError(
            f"{cannot} it maps {inputs} features to {outputs}; hidden layers need equal numbers, so give a smaller epsilon to "
            "the profile, or a network of equal widths"
        )
    if is_last and outputs != num_classes:
        raise InputError(
            f"{cannot} it has {outputs} outputs for {num_classes} classes; give one output per class"
        )
    if inputs < outputs or outputs < 2:
        raise InputError(
            f"{cannot} it maps {inputs} features to {outputs} classes; it needs at least one feature per class"
        )
    return layer


def _check_unshared(chosen: Mapping[str, nn.Linear], model: nn.Module) -> None:
    """Refuse weights that another module has too: fixing one would fix the other.

    Raises:
        InputError: naming the layer.
    """
    uses = Counter(id(one) for module in model.modules() for one in module.parameters(recurse=False))
    for name, layer in chosen.items():
        if uses[id(layer.weight)] > 1:
            raise InputError(
                f"{name}: its weight is shared with another layer; give every layer a weight of its own"
            )
