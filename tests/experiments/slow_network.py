"""A network that takes its time: runs can be killed half-way, also on a fast machine."""

from __future__ import annotations

import os
import time

from torch import Tensor, nn

SECONDS = "COLLAPSELAB_TEST_SECONDS_PER_STEP"


class Slow(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            time.sleep(float(os.environ.get(SECONDS, "0")))
        return features


def network(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), Slow(), nn.Linear(8, num_classes))
