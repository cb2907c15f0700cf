"""The associative memory of features and one-hot labels at every layer of a network: sec. 6, remark 6.1.

Letters: n samples, p features, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.data import AnySplit
from collapselab.metrics.decision import DecisionRule, network_rule
from collapselab.probes import Profile, capture_inputs, weight_layers
from collapselab.probes.evaluating import evaluating


def memory_of(
    class_means: Float[Tensor, "c p"], counts: Int[Tensor, " c"]
) -> tuple[Float[Tensor, "c p"], Float[Tensor, " p"]]:
    """Return A = Y H^T of one-hot labels Y and features H centred at the mean of the class means, and that mean.

    Row c is n_c (mu_c - mu_G): features are not needed once their class means are known.
    """
    centre = class_means.mean(dim=0)
    return counts[:, None] * (class_means - centre), centre


def recall_rule(class_means: Float[Tensor, "c p"], counts: Int[Tensor, " c"]) -> DecisionRule:
    """Return the rule argmax_c (A (h - mu_G))_c: what the memory recalls for features h."""
    memory, centre = memory_of(class_means, counts)
    return network_rule(memory, -(memory @ centre))


def memory_cosine(self_duality: float) -> float:
    """Return the cosine between the classifier's weight and the memory with rows divided by n_c, both flattened.

    Such a memory is M, and the norm of the difference of two matrices of norm one is the root of 2 - 2 cosine.
    """
    return 1 - self_duality**2 / 2


def recall(model: nn.Module, profile: Profile, split: AnySplit, batch_size: int) -> Mapping[str, float]:
    """Return by layer the share of samples whose class the memory recalls.

    Args:
        model: the network, in which every layer is called once.
        profile: of its train split, which the memory stores: features are flattened.
        split: the samples that are looked up, on the device of the network.
        batch_size: samples per forward pass.
    """
    rules = {
        layer.name: recall_rule(layer.splits["train"].class_means, layer.splits["train"].counts)
        for layer in profile.layers
        if layer.splits["train"].class_means is not None
    }
    modules = {name: module for name, module in weight_layers(model).items() if name in rules}
    found: dict[str, list[Tensor]] = {name: [] for name in modules}

    def receive(name: str, features: Tensor) -> None:
        layer = name.partition("#")[0]  # of batches after the first, calls are numbered
        found[layer].append(rules[layer](features).cpu())

    with evaluating(model), capture_inputs(modules, receive):
        for inputs, _ in split.batches(batch_size):
            model(inputs)
    labels = split.labels.cpu()
    return {name: float((torch.cat(parts) == labels).double().mean()) for name, parts in found.items()}
