"""Types for arguments with fixed choices.

Nothing heavy is imported, so that the help of the command line appears immediately.
"""

from __future__ import annotations

from typing import Literal

Weighting = Literal["balanced", "sample"]
Scatter = Literal["full", "trace", "sketch", "per_class"]
AutoScatter = Literal["auto", Scatter]
Standardize = Literal["channel", "pixel", "none"]
Scale = Literal["smoke", "cpu", "paper"]
EngineName = Literal["local", "ray"]
