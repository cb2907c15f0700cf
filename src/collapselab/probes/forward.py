"""Run one forward pass of a batch; exceptions of the model are reported in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes.batches import Batch
from collapselab.probes.capture import Taps
from collapselab.user_code import described, is_out_of_memory, own_working_directory

# Models that take gradients in `forward` without switching them on, as found when they were planned.
_WITH_GRADIENTS: WeakSet[nn.Module] = WeakSet()


def run_model(model: nn.Module, batch: Batch, taps: Taps, *, may_repeat: bool = False) -> Any:
    """Return what the model returns for a batch, with open taps; without gradients, unless the model needs them.

    Args:
        model: what is run, within `uncompiled`.
        batch: its inputs.
        taps: open.
        may_repeat: whether to run a model again, with gradients, if it turns out to need them. What the taps receive
            is then received twice.

    Raises:
        InputError: the model raised, or tried to end the process, with split, batch, shape of the inputs, and the line
            of the user's file; its exception is the cause. Errors that are not the model's pass unchanged: of the taps,
            for want of memory, and any InputError.
    """
    taps.begin(tuple(batch.labels.shape))
    try:
        with own_working_directory(), torch.set_grad_enabled(model in _WITH_GRADIENTS):
            return batch.run(model)
    except (Exception, SystemExit) as error:
        if may_repeat and "does not require grad" in str(error) and model not in _WITH_GRADIENTS:
            _WITH_GRADIENTS.add(model)
            return run_model(model, batch, taps)
        if isinstance(error, InputError) or error is taps.failure or is_out_of_memory(error):
            raise
        raise InputError(
            f"{batch.place}: {described(error)} (the model, {type(model).__name__}, was given {_shapes(batch.inputs)}); check "
            "that the model takes such inputs"
        ) from error


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what `torch.compile` has compiled as ordinary Python, so that hooks are called; nothing is recompiled."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _shapes(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return "(nested)" if inputs.is_nested else str(tuple(inputs.shape))
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {_shapes(value)}" for name, value in inputs.items())
    if isinstance(inputs, list | tuple):
        return " and ".join(_shapes(value) for value in inputs)
    return type(inputs).__name__
