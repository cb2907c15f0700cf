"""Forward hooks that hand over what a layer reads, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


def weight_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of `model` by name, in the order in which they are registered.

    Raises:
        ValueError: the model has none.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer to measure")
    return layers


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's own mode is put back on the way out."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def capture_inputs(
    layers: Mapping[str, nn.Module], receive: Callable[[str, Float[Tensor, "n p"]], None]
) -> Iterator[None]:
    """While open, `receive(name, features)` gets what each layer reads, flattened per sample.

    The hooks are removed on the way out, also when the forward pass raises.
    """
    handles = []

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            receive(name, inputs[0].detach().flatten(1))

        return hook

    try:
        for name, module in layers.items():
            handles.append(module.register_forward_pre_hook(hook_of(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
