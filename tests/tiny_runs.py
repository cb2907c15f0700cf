"""A run small enough to be repeated many times, and a reason to stop it."""

from collapselab.data.recipe import DataSpec, Sample
from collapselab.records.recipe import Checkpoints, Measuring, ModelSpec, Optimizer, Recipe
from collapselab.training import Stopper

FEW = ("normalized_within", "train_variance", "strong_test_variance")


def tiny(**changes: object) -> Recipe:
    """Dropout, so that random numbers of the network matter; a state on disk after every step."""
    values = {
        "model": ModelSpec(name="mlp", options={"width": 8, "depth": 2, "dropout": 0.2}),
        "data": DataSpec(train=Sample(method="first", count=60), test=Sample(method="first", count=80)),
        "optimizer": Optimizer(learning_rate=0.05, weight_decay=5e-3),
        "steps": 30,
        "num_threads": 1,
        "measuring": Measuring(count=5, metrics=FEW, spectra=False),
        "checkpoints": Checkpoints(at="measured", save_every=0),
    }
    return Recipe.model_validate(values | changes)


class StopAt(Stopper):
    """Says stop when asked for the n-th time."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    @property
    def reason(self) -> str | None:
        self._left -= 1
        return "out of time" if self._left < 0 else None
