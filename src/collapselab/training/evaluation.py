"""Loss and accuracy of the network itself, and the features of its last layer where they are wanted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from collapselab.data import Split
from collapselab.probes import capture_inputs, weight_layers
from collapselab.probes.capture import evaluating
from collapselab.training.building import Loss


@dataclass(frozen=True)
class Evaluation:
    """A network on one split, in evaluation mode.

    Attributes:
        loss: mean over samples.
        accuracy: share of samples whose largest output is their label's.
        features: (n, p), what the layer reads that was asked for; None where none was.
    """

    loss: float
    accuracy: float
    features: Float[Tensor, "n p"] | None


def layer_features(model: nn.Module, split: Split, layer: str, batch_size: int) -> Float[Tensor, "n p"]:
    """What a weight layer reads of each sample, flattened, on the CPU; labels play no part."""
    caught: list[Tensor] = []
    modules = {layer: weight_layers(model)[layer]}
    with evaluating(model), capture_inputs(modules, lambda _, features: caught.append(features.cpu())):
        for inputs, _ in split.batches(batch_size):
            model(inputs)
    return torch.cat(caught)


def evaluate(
    model: nn.Module, split: Split, loss: Loss, batch_size: int, features_of: str | None = None
) -> Evaluation:
    """One pass over a split. The model is left in the mode in which it was.

    Args:
        model: where the split is.
        split: samples.
        loss: mean loss of outputs and labels.
        batch_size: samples per forward pass.
        features_of: name of a weight layer whose features are returned, on the CPU.
    """
    total = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    caught: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        if features_of is not None:
            layer = {features_of: weight_layers(model)[features_of]}
            stack.enter_context(capture_inputs(layer, lambda _, features: caught.append(features.cpu())))
        for inputs, labels in split.batches(batch_size):
            outputs = model(inputs)
            total += loss(outputs, labels).double() * len(labels)
            correct += (outputs.argmax(dim=1) == labels).sum()
    return Evaluation(
        loss=float(total) / len(split),
        accuracy=float(correct) / len(split),
        features=torch.cat(caught) if caught else None,
    )
