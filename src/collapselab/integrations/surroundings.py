"""Run the forward passes of a network as a trainer runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import nn

from collapselab.probes.select import unwrapped


@contextmanager
def forward_within(model: nn.Module, context: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run each forward pass of a model in a context of its own, such as autocast, while this one is open.

    Of a compiled or wrapped model it is the model inside, which `profile` runs.
    """
    model = unwrapped(model)
    entered: list[ExitStack] = []

    def enter(_module: nn.Module, _args: Any) -> None:
        stack = ExitStack()
        stack.enter_context(context())
        entered.append(stack)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        entered.pop().close()

    handles = (
        model.register_forward_pre_hook(enter, prepend=True),
        model.register_forward_hook(leave, always_call=True),  # after an error too
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        while entered:
            entered.pop().close()
