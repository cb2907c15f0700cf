"""Hostile names and values, the same ones in every run, and what is asserted about every message."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import collapselab
from collapselab import InputError
from collapselab.transfer import linear_probe as typed_linear_probe

TIMES = int(os.environ.get("COLLAPSELAB_ATTACK", "1"))
SEED = 20220216

# The tests check annotations at run time; users pass anything.
measure: Any = inspect.unwrap(collapselab.measure)
profile: Any = inspect.unwrap(collapselab.profile)
linear_probe: Any = inspect.unwrap(typed_linear_probe)

PIECES = (
    "\x1b[31m", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b1m", "\r", "\n", "\t", "\x00", "\x08\x08", "\x7f", "\u202e",
    "\u2066", "\u2069", "\u200b", "\u200d", "\ufeff", "\u2028", "\x85", "\ud800", "\udce9", "\u00ad", "\U000e0041",
    "<script>alert(1)</script>", "</script>", "<img src=x onerror=1>", "&lt;", '"', "'", "`", "[bold red]", "[/]", "{0}",
    "{name!r}", "%s", "%n", "$(id)", "; rm", "| cat", "..", "~", "*", "[1]", "::", "name=value", "--set x=1", "(", ")",
    "é", "中文", "👩‍👩‍👧", "العربية", "à" * 20, "\u0301" * 30, "x" * 300, "word " * 80, "", " ",
)  # fmt: skip


def names(count: int, salt: int, allowed: Callable[[str], bool] = lambda name: True) -> Iterator[str]:
    """Yield hostile names, the same ones in every run."""
    rng = np.random.default_rng((SEED, salt))
    while count:
        name = "".join(PIECES[i] for i in rng.integers(0, len(PIECES), rng.integers(1, 4)))
        if allowed(name):
            count -= 1
            yield name


def is_file_name(name: str) -> bool:
    return 0 < len(os.fsencode(name)) < 200 if is_encodable(name) else False


def is_encodable(name: str) -> bool:
    if not name.strip(" .") or "/" in name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def assert_shown(text: str) -> None:
    """Whatever is shown is valid UTF-8 without characters that a terminal or browser would obey."""
    text.encode("utf-8")
    wrong = {char for char in text if not char.isprintable() and char not in "\n\u00a0"}
    assert not wrong, ascii(wrong)


def assert_line(line: str) -> None:
    assert_shown(line)
    assert "\n" not in line
    assert 0 < len(line) <= 300, (len(line), line)


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> str | None:
    """Call; return the message if it was refused. Any other exception is a failure."""
    try:
        call(*arguments, **options)
    except InputError as error:
        assert_line(str(error))
        return str(error)
    return None


def kept(function: Callable[..., object], found: list[Any]) -> Callable[..., None]:
    """Return the function as one that appends its result to a list."""
    return lambda *arguments, **options: found.append(function(*arguments, **options))


LABELS = torch.arange(24) % 3
INPUTS = torch.randn(24, 4, generator=torch.manual_seed(1)) + LABELS[:, None]


def model_named(names_of_layers: list[str]) -> nn.Module:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in names_of_layers})
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers.values():
                x = x + layer(x).tanh()
            return self.head(x)

    torch.manual_seed(SEED)
    return Chain()
