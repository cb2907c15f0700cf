"""What a training run is, completely: the same recipe and seed give the same run."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """A network, its data and how it is trained and measured.

    Every value has a meaning of its own; none is derived from another when the run starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(default="digits", description="Data set by name.")
    num_train: int = Field(
        default=1000, ge=2, description="Training samples; the rest of the data set is test."
    )
    width: int = Field(default=256, ge=1, description="Units per hidden layer.")
    depth: int = Field(default=5, ge=1, description="Hidden layers.")
    batch_norm: bool = Field(default=True, description="Batch norm after each hidden layer.")
    learning_rate: float = Field(default=0.05, gt=0, description="Of SGD, at the first step.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(default=5e-3, ge=0, description="L2, on every parameter.")
    batch_size: int = Field(
        default=128, ge=2, description="Samples per step; an epoch's last batch may be smaller."
    )
    steps: int = Field(
        default=4000, ge=1, description="Optimiser steps; the learning rate falls to 0 as a cosine."
    )
    seed: int = Field(default=0, ge=0, description="Of the initial weights and the order of samples.")
    num_threads: int = Field(
        default=1,
        ge=1,
        description="CPU threads: for small networks more gain little, and results differ in rounding.",
    )
    num_measurements: int = Field(
        default=16, ge=2, description="Log-spaced steps to measure at, besides step 0; doubles are dropped."
    )
    save_every: int = Field(
        default=250, ge=1, description="Steps between states from which a killed run goes on."
    )
    epsilon: float = Field(
        default=0.2, gt=0, lt=1, description="A layer is collapsed while normalized_within is below this."
    )

    def measured_steps(self) -> list[int]:
        """Step 0 and log-spaced steps up to the last."""
        ratio = math.log(self.steps) / max(self.num_measurements - 1, 1)
        spaced = {round(math.exp(ratio * index)) for index in range(self.num_measurements)}
        return sorted({0, *spaced, self.steps})

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the step that follows `step` finished ones."""
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
