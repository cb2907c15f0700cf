"""The multi-layer perceptron of the papers: hidden layers of equal width, batch norm, ReLU."""

from __future__ import annotations

import itertools

from jaxtyping import Float
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.models.fixed_layers import Fixed, fix_weight
from collapselab.models.limits import check_options, check_parameters


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, each a linear layer, batch norm and ReLU; then a linear classifier.

    Weight layers are `layers.0` … `layers.{depth}`, the last one the classifier.

    Args:
        num_inputs: number of inputs per sample; samples with several axes are flattened.
        num_classes: number of outputs.
        width: units per hidden layer.
        depth: number of hidden layers.
        batch_norm: whether each hidden layer is normalised over the batch.
        dropout: probability with which hidden units are zeroed in training.
        trained: number of weight layers that are trained, from the first on; default all `depth` + 1. The weights of the others
            are fixed; all but the first can be.
        fixed: what they are: `etf` (canonical simplex equiangular tight frames), `identity` or `orthogonal` (random).

    Raises:
        InputError: a size, probability or name out of range, more classes than units, or more weights than memory.
    """

    def __init__(
        self,
        num_inputs: int,
        num_classes: int,
        *,
        width: int,
        depth: int,
        batch_norm: bool = True,
        dropout: float = 0.0,
        trained: int | None = None,
        fixed: Fixed = "etf",
    ) -> None:
        super().__init__()
        trained = depth + 1 if trained is None else trained
        check_options(
            "mlp", {"width": width, "depth": depth, "dropout": dropout, "trained": trained, "fixed": fixed}
        )
        if trained <= depth and num_classes > width:
            raise InputError(
                f"mlp: {num_classes} classes, but fixed layers of {width} units; give at least as many units"
            )
        check_parameters("mlp", (num_inputs + num_classes + width * max(depth - 1, 0)) * width)
        self.dropout = dropout
        sizes = [num_inputs] + [width] * depth
        # Batch norm would cancel a bias before it.
        hidden = [nn.Linear(a, b, bias=not batch_norm) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList([*hidden, nn.Linear(sizes[-1], num_classes)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(width) if batch_norm else nn.Identity() for _ in hidden])
        # After all are drawn, so that the initial weights of trained layers do not depend on which others are fixed.
        for layer in self.layers[trained:]:
            assert isinstance(layer, nn.Linear)
            fix_weight(layer, fixed)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        features = inputs.flatten(1)
        for index, norm in enumerate(self.norms):
            features = norm(self.layers[index](features)).relu()
            if self.dropout:
                features = nn.functional.dropout(features, self.dropout, self.training)
        return self.layers[len(self.norms)](features)
