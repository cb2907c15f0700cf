"""Loss and accuracy of a network, and features of one of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.data import AnySplit
from collapselab.data.split_batches import SplitBatches
from collapselab.distributed import gathered_over_ranks, joined_over_ranks, rank_and_world, run_together
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
    """Evaluate a model in one pass over a split, which several processes share; its mode is restored.

    All processes return the result of one, up to rounding in the model: sums are added in the order of batches.

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
    batches = split.batches(batch_size, *rank_and_world())
    sums = run_together(lambda: _sums(model, batches, loss, features_of, num_classes))
    by_batch = dict(pair for part in gathered_over_ranks(sums.by_batch()) for pair in part)
    total, correct = 0.0, 0
    for number in sorted(by_batch):
        total, correct = total + by_batch[number][0], correct + by_batch[number][1]
    features = torch.cat(sums.features) if sums.features else None
    if features_of is not None and batches.is_share:
        parts = zip(batches.numbers, sums.features, strict=True)
        features = joined_over_ranks({number * batch_size: part for number, part in parts}, len(split))
    return Evaluation(loss=total / len(split), accuracy=correct / len(split), features=features)


@dataclass
class _Sums:
    """Sums over the batches of one process.

    Attributes:
        numbers: of the batches.
        losses, correct: sum over samples of each batch, on the device: reading them waits.
        features: of each batch, on the CPU.
    """

    numbers: Sequence[int]
    losses: list[Float[Tensor, ""]] = field(default_factory=list)
    correct: list[Int[Tensor, ""]] = field(default_factory=list)
    features: list[Float[Tensor, "b p"]] = field(default_factory=list)

    def by_batch(self) -> list[tuple[int, tuple[float, int]]]:
        """Return sum of losses and number of correct decisions by number of batch."""
        losses, correct = (torch.stack(part).tolist() if part else [] for part in (self.losses, self.correct))
        return list(zip(self.numbers, zip(losses, correct, strict=True), strict=True))


def _sums(
    model: nn.Module, batches: SplitBatches, loss: Loss, features_of: str | None, num_classes: int
) -> _Sums:
    sums, class_scores = _Sums(batches.numbers), ClassScores(num_classes)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        if features_of is not None:
            layer = {features_of: weight_layers(model)[features_of]}
            receive = capture_inputs(layer, lambda _, features: sums.features.append(features.cpu()))
            stack.enter_context(receive)
        for inputs, labels in batches:
            outputs = class_scores(model, inputs, labels)
            sums.losses.append(loss(outputs, labels).double() * len(labels))
            sums.correct.append((outputs.argmax(dim=1) == labels).sum())
    return sums
