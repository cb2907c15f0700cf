"""One call of a torch operator, as a dispatch mode sees it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that multiply two tensors and sum over an axis: names of the left and the right factor.
FACTORS = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "_addmm_activation": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "linear": ("input", "weight"),
    "convolution": ("input", "weight"),
    "_convolution": ("input", "weight"),
}


class DispatchMode(TorchDispatchMode):
    """A mode that leaves the compiler of torch, whose import takes seconds, to those who compile.

    torch guards `__torch_dispatch__` against compilation, and imports the compiler for that. Before anything is compiled,
    there is nothing to guard against.
    """

    def __init_subclass__(cls) -> None:
        plain = cls.__torch_dispatch__
        super().__init_subclass__()
        guarded: Any = cls.__torch_dispatch__

        def dispatch(self: Any, *args: Any, **kwargs: Any) -> Any:
            # While the compiler is being imported, this is not there yet.
            can_compile = hasattr(sys.modules.get("torch._dynamo"), "disable")
            return (guarded if can_compile else plain)(self, *args, **kwargs)

        cls.__torch_dispatch__ = dispatch


def decomposed(mode: TorchDispatchMode, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a composite operator returns, with its parts seen by `mode`; NotImplemented for any other.

    In inference mode, composite operators arrive whole.
    """
    is_operator = isinstance(function, torch._ops.OpOverload)
    if not torch.is_inference_mode_enabled() or not is_operator:
        return NotImplemented
    if function.name().rpartition("::")[2] in FACTORS:
        return NotImplemented
    with mode:
        return function.decompose(*args, **kwargs)


@dataclass(frozen=True)
class _Operator:
    """What is known of an operator before it is called."""

    name: str
    is_random: bool
    is_inplace: bool
    names: tuple[str, ...]
    defaults: dict[str, Any]


@lru_cache(maxsize=512)
def _operator(function: Any) -> _Operator:
    schema = function._schema
    return _Operator(
        schema.name.rpartition("::")[2],
        any(str(tag) == "Tag.nondeterministic_seeded" for tag in function.tags),
        schema.is_mutable,
        tuple(argument.name for argument in schema.arguments),
        {
            argument.name: argument.default_value
            for argument in schema.arguments
            if argument.has_default_value()
        },
    )


class Operation:
    """A call of an operator with what it returned.

    Args:
        function: the `OpOverload`.
        args, kwargs: of the call.
        result: what it returned.
    """

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self._operator = _operator(function)
        self.name, self.is_random = self._operator.name, self._operator.is_random
        self.is_inplace = self._operator.is_inplace
        self._args, self._kwargs = args, kwargs
        self.outputs = tensors_among(result)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name, with defaults."""
        given = zip(self._operator.names, self._args, strict=False)
        return self._operator.defaults | dict(given) | self._kwargs

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return tensors_among([*self._args, *self._kwargs.values()])

    @property
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """What a product multiplies; None for any other operator."""
        names = FACTORS.get(self.name)
        return None if names is None else (self.arguments[names[0]], self.arguments[names[1]])

    def dims(self, name: str, ndim: int) -> list[int]:
        """Return an argument that names axes, as indices from the front."""
        value = self.arguments.get(name)
        values = [] if value is None else [value] if isinstance(value, int) else list(value)
        return [dim % ndim for dim in values]


def tensors_among(value: Any) -> list[Tensor]:
    """Return the tensors among the arguments of an operator, or among what it returned."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    for item in value if isinstance(value, list | tuple) else ():
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple):
            found += tensors_among(item)
    return found
