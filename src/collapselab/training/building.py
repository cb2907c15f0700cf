"""The samples, the network, the loss and the optimiser of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from collapselab.data import DataSplits
from collapselab.data.memory import load_splits
from collapselab.errors import InputError
from collapselab.models import open_model
from collapselab.models.checkpoints import load_state, read_checkpoint
from collapselab.models.opening import required_channels, required_image_size
from collapselab.models.states import fitted
from collapselab.probes import weight_layers
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder, check_checkpoint
from collapselab.user_code import user_code


@runtime_checkable  # for the type checks of the tests
class SampleForm(Protocol):
    """What a network is built for; `DataSplits` are one."""

    @property
    def num_classes(self) -> int: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        ...


Loss = Callable[[Tensor, Tensor], Tensor]


def load_data(
    recipe: Recipe, copies: Mapping[str, Path] | None = None, workers: int | None = None
) -> DataSplits:
    """Load the samples that a recipe trains and tests on, in the form that its network takes.

    Args:
        copies: paths of named data sets on this machine.
        workers: processes that decode images which do not fit in memory; see `load_splits`.

    Raises:
        InputError: there are no such data, or fewer samples than requested.
    """
    return load_splits(
        recipe.data,
        recipe.seed,
        channels=required_channels(recipe.model.name),
        image_size=required_image_size(recipe.model.name, recipe.model.options),
        copies=copies,
        workers=workers,
    )


def build_model(recipe: Recipe, data: SampleForm, folder: Path | None = None) -> nn.Module:
    """Build the network of a recipe with its initial weights, which depend only on the seed and its checkpoint.

    Args:
        data: what it is trained on; only the form matters here.
        folder: of the run; a relative checkpoint path starts there.

    Raises:
        InputError: a name or option is unknown, or the checkpoint does not fit.
    """
    model = open_model(
        recipe.model.name,
        num_classes=data.num_classes,
        input_shape=data.input_shape,
        seed=recipe.seed,
        options=recipe.model.options,
    )
    if recipe.start is not None:
        path = (folder or Path()) / recipe.start.checkpoint
        check_checkpoint(path)
        state = fitted(model, read_checkpoint(path), path)
        if recipe.start.new_classifier:
            own = {
                name: value
                for name, value in model.state_dict().items()
                if name.startswith(f"{classifier_name(model)}.")
            }
            state = {name: value for name, value in state.items() if name not in own} | own
        load_state(model, state, path)
    return model


def trained_model(recipe: Recipe, folder: RunFolder, step: int | None = None) -> nn.Module:
    """Build the network of a finished run, with its weights at a step, by default the last.

    Raises:
        InputError: there are no weights of this step, or they are damaged.
    """
    record = folder.read_run()
    assert record is not None, "the run is finished"
    assert record.data is not None
    model = build_model(recipe, record.data, folder.path)
    step = record.steps if step is None else step
    load_state(model, folder.read_weights(step), folder.weights_path(step))
    return model


def classifier_name(model: nn.Module) -> str:
    """Return the name of the weight layer registered last: the classifier, in every network that can be named."""
    return list(weight_layers(model))[-1]


def loss_function(recipe: Recipe) -> Loss:
    """Return the mean loss as a function of outputs (n, C) and labels (n,), or, for cross-entropy, shares of classes (n, C)."""
    temperature, smoothing = recipe.temperature, recipe.label_smoothing

    def cross_entropy(outputs: Float[Tensor, "n c"], labels: Tensor) -> Float[Tensor, ""]:
        # Dividing by one would cost a pass over the outputs.
        scaled = outputs if temperature == 1 else outputs / temperature
        if labels.ndim == 2:  # a network may have more scores than there are classes
            labels = nn.functional.pad(labels, (0, outputs.shape[1] - labels.shape[1]))
        return nn.functional.cross_entropy(scaled, labels, label_smoothing=smoothing)

    def mean_square(outputs: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        targets = nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return nn.functional.mse_loss(outputs / temperature, targets)

    return mean_square if recipe.loss == "mse" else cross_entropy


def make_optimizer(recipe: Recipe, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe, fused where the device allows: one pass over the parameters per step.

    Raises:
        InputError: there is nothing to optimise, or the settings contradict each other.
    """
    settings = recipe.optimizer
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"the model ({type(model).__name__}) has no parameters that are trained; give one whose parameters require grad"
        )
    fused = device.type in ("cpu", "cuda")
    parameters = model.parameters() if settings.decayed == "all" else _decayed_and_others(model)
    if settings.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )
    if settings.nesterov and not settings.momentum:
        raise InputError("optimizer: nesterov needs momentum; set momentum above 0, or nesterov to false")
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def _decayed_and_others(model: nn.Module) -> list[dict[str, Any]]:
    """Return two groups of parameters, the second without weight decay: timm's `param_groups_weight_decay`.

    Vectors are norms' and biases; networks of timm name others, such as position embeddings, in `no_weight_decay`.

    Raises:
        InputError: `no_weight_decay` of the network fails.
    """
    with user_code("optimizer.decayed: no_weight_decay of the model", "return a set of parameter names"):
        excluded = set(getattr(model, "no_weight_decay", set)())
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        groups[parameter.ndim <= 1 or name.endswith(".bias") or name in excluded].append(parameter)
    parts = [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]
