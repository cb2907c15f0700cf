"""Calls of collapselab are checked while tests run: types, and sizes that one name in shapes stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from collapselab.records.profile import StoredProfile
from collapselab.training import parse_duration

checked = jaxtyping.jaxtyped(typechecker=beartype)


@checked
def product(x: Float[Tensor, "n d"], y: Float[Tensor, "d k"]) -> Float[Tensor, "n k"]:
    return x @ y if x.shape[0] < 5 else (x @ y).T


@checked
def number(text: str) -> int:
    found: Any = {"three": 3}.get(text)
    return found


class Maker:
    """A method's own class is no type yet when the method is defined."""

    @classmethod
    @checked
    def make(cls) -> Maker:
        return Maker()


def test_what_fits_goes_through() -> None:
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    assert number("three") == 3
    assert isinstance(Maker.make(), Maker)
    assert number.__annotations__ == {"text": "str", "return": "int"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: product(torch.ones(2, 3), torch.ones(4, 4)),
        lambda: product(torch.ones(6, 3), torch.ones(3, 4)),
        lambda: product(torch.ones(2, 3).int(), torch.ones(3, 4)),
        lambda: number(3),  # pyright: ignore[reportArgumentType]
        lambda: number("none"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: parse_duration(3),  # pyright: ignore[reportArgumentType]
        lambda: StoredProfile("profile"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_functions_and_records_of_the_package_are_checked(call: Callable[[], Any]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
