"""Variances of Hui et al. about a reference."""

from __future__ import annotations

import torch
from families import random_case

from collapselab.metrics.generalization import Reference
from helpers import assert_close
from oracles import spread


def test_spread_of_a_reference() -> None:
    centres = random_case([1, 1, 1, 1], 6).features
    assert_close(
        Reference(torch.as_tensor(centres)).spread, spread(centres), rel=1e-14, why="a sum of 24 squares"
    )
