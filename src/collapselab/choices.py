"""Fixed choices of arguments, as types. Nothing heavy is imported: the command line shows them in its help at once."""

from __future__ import annotations

from typing import Literal

Weighting = Literal["balanced", "sample"]
Scatter = Literal["full", "trace", "sketch", "per_class"]
AutoScatter = Literal["auto", Scatter]
Standardize = Literal["channel", "pixel", "none"]
Scale = Literal["smoke", "cpu", "paper"]
