"""Evaluate a model and leave it as it was, bit for bit."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from collapselab.distributed import resharding
from collapselab.errors import InputError, without_middle
from collapselab.probes.snapshot import Snapshot
from collapselab.randomness import preserved_random_states
from collapselab.text import listed

_MOST_CHARACTERS = 160
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients; on exit, also after an error, the model is as it was.

    Restored are parameters, buffers and all other tensors that its modules hold (in place, so that optimisers keep their
    references), gradients, modes, attributes and containers, extra states, its own random generators and the shared
    ones: see `Snapshot`. Modules that do something in `train()` and `eval()`, such as merging weights, have these
    called. The first time that a model has changed its own state, a warning says what.

    Raises:
        InputError: a layer has no weights before its first forward pass.
    """
    # Script modules show their tensors by these methods only.
    tensors = (*model.named_parameters(), *model.named_buffers())
    _refuse_lazy(model, tensors)
    with preserved_random_states():
        state = Snapshot([("", model), *tensors])
        training = model.training
        try:
            for parameter in model.parameters():
                parameter.grad = None  # a backward pass in forward must not add to it
            model.eval()
            with resharding(model), torch.no_grad():
                yield
        finally:
            try:
                model.train(training)
            finally:
                changed, lost = state.restore()
    _warn(model, changed, lost)


def _refuse_lazy(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    lazy = next((name for name, tensor in tensors if is_lazy(tensor)), None)
    if lazy is not None:
        raise InputError(
            f"{lazy} of {type(model).__name__} has no values before the first forward pass (a lazily built layer); run "
            "the model on one batch before measuring"
        )


def _warn(model: nn.Module, changed: list[str], lost: list[str]) -> None:
    if lost:
        warnings.warn(
            f"{type(model).__name__} changed {without_middle(listed(lost), _MOST_CHARACTERS)} while it was measured, which could not be restored (weights: "
            "there was no memory for a copy); training goes on with other values",
            stacklevel=5,
        )
    elif changed and model not in _warned:
        _warned.add(model)
        warnings.warn(
            f"{type(model).__name__} changes its own state in evaluation mode ({without_middle(listed(changed), _MOST_CHARACTERS)}); it is restored after "
            "each measurement, but changes from batch to batch in between",
            stacklevel=5,
        )
