"""Loss and accuracy of a network, and features of one of its layers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.data import AnySplit
from collapselab.probes import capture_inputs, weight_layers
from collapselab.probes.evaluating import evaluating
from collapselab.training.building import Loss
from collapselab.training.outputs import ClassScores
from collapselab.user_code import user_code


@dataclass(frozen=True)
class Evaluation:
    """What a network does on one split, in evaluation mode.

    Attributes:
        loss: mean over samples.
        accuracy: share of samples whose largest output is that of their label.
        features: (n, p), what the requested layer reads; None where none was requested.
    """

    loss: float
    accuracy: float
    features: Float[Tensor, "n p"] | None


def layer_features(model: nn.Module, split: AnySplit, layer: str, batch_size: int) -> Float[Tensor, "n p"]:
    """Return what a weight layer reads of each sample, flattened, on the CPU."""
    caught: list[Tensor] = []
    modules = {layer: weight_layers(model)[layer]}
    with evaluating(model), capture_inputs(modules, lambda _, features: caught.append(features.cpu())):
        for inputs, _ in split.batches(batch_size):
            with user_code(f"features of {layer}", "check the model"):
                model(inputs)
    return torch.cat(caught)


def predictions(model: nn.Module, split: AnySplit, batch_size: int) -> Int[Tensor, " n"]:
    """Return the class with the largest output of each sample, in evaluation mode, on the CPU."""
    with evaluating(model):
        return torch.cat([model(inputs).argmax(dim=1).cpu() for inputs, _ in split.batches(batch_size)])


def evaluate(
    model: nn.Module,
    split: AnySplit,
    loss: Loss,
    batch_size: int,
    features_of: str | None = None,
    num_classes: int | None = None,
) -> Evaluation:
    """Evaluate a model in one pass over a split; its mode is restored.

    Args:
        model: on the device of the split.
        split: samples.
        loss: mean loss of outputs and labels.
        batch_size: samples per forward pass.
        features_of: name of a weight layer whose features are returned too, on the CPU.
        num_classes: number of classes; default: those of the split.

    Raises:
        InputError: the model fails, or returns no class scores.
    """
    if num_classes is None:
        num_classes = int(split.labels.max()) + 1
    class_scores = ClassScores(num_classes)
    total = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    caught: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        if features_of is not None:
            layer = {features_of: weight_layers(model)[features_of]}
            stack.enter_context(capture_inputs(layer, lambda _, features: caught.append(features.cpu())))
        for inputs, labels in split.batches(batch_size):
            outputs = class_scores(model, inputs, labels)
            total += loss(outputs, labels).double() * len(labels)
            correct += (outputs.argmax(dim=1) == labels).sum()
    return Evaluation(
        loss=float(total) / len(split),
        accuracy=float(correct) / len(split),
        features=torch.cat(caught) if caught else None,
    )
