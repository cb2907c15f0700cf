"""Run one forward pass of a batch; exceptions of the model are reported in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from collapselab.errors import InputError
from collapselab.probes.batches import Batch
from collapselab.probes.capture import Taps
from collapselab.user_code import described, is_out_of_memory, own_working_directory


def run_model(model: nn.Module, batch: Batch, taps: Taps) -> Any:
    """Return what the model returns for a batch, with open taps.

    Raises:
        InputError: the model raised, or tried to end the process, with split, batch, shape of the inputs, and the line
            of the user's file; its exception is the cause. Errors that are not the model's pass unchanged: of the taps,
            for want of memory, and any InputError.
    """
    taps.begin()
    try:
        with own_working_directory():
            return batch.run(model)
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError) or error is taps.failure or is_out_of_memory(error):
            raise
        kind = type(error).__name__
        raise InputError(
            f"{batch.place}: the model ({type(model).__name__}) raised {kind} on inputs of shape "
            f"{_shapes(batch.inputs)}: {described(error).removeprefix(f'{kind}: ')}; check that the model takes such inputs"
        ) from error


def _shapes(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape))
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {_shapes(value)}" for name, value in inputs.items())
    if isinstance(inputs, list | tuple):
        return " and ".join(_shapes(value) for value in inputs)
    return type(inputs).__name__
