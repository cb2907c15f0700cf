"""One measurement of a network in training: its profile, its loss and accuracy, what later steps are compared with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from collapselab.probes import profile
from collapselab.training.building import loss_function
from collapselab.training.evaluation import evaluate

if TYPE_CHECKING:
    from collapselab.training.loop import Trainer


def measure_network(trainer: Trainer, *, writes: bool) -> bool:
    """Measure a network and, in the process that writes, put all of it on disk.

    Rows are written last: with these on disk the step is complete.

    Returns:
        Whether there was something to measure: outputs that are no numbers any more have no features either.
    """
    recipe, folder, step = trainer.recipe, trainer.folder, trainer.step
    plan = recipe.measuring
    data, model, loss = trainer.data, trainer.model, loss_function(recipe)
    kept = trainer.classifier if plan.weak_test_variance else None
    own = {
        "train": evaluate(model, data.train, loss, plan.batch_size),
        "test": evaluate(model, data.test, loss, plan.batch_size, features_of=kept),
    }
    if not all(math.isfinite(evaluation.loss) for evaluation in own.values()):
        return False
    layers = (
        plan.layers
        if isinstance(plan.layers, tuple)
        else None
        if plan.layers == "all"
        else trainer.classifier
    )
    keeps_spectra = plan.spectra and (step == 0 or trainer.ended is not None)
    measured = profile(
        model,
        data.train.batches(plan.batch_size),
        data.test.batches(plan.batch_size),
        layers=layers,
        metrics=plan.metrics,
        spectra=keeps_spectra,
        epsilon=plan.epsilon,
    )
    if not writes:
        return True
    if recipe.keeps_weights(step, is_last=trainer.ended is not None):
        folder.write_weights(step, model.state_dict())
    if own["test"].features is not None:
        folder.write_features(step, own["test"].features)
    numbers = {name: {"loss": split.loss, "accuracy": split.accuracy} for name, split in own.items()}
    folder.append_profile(step, trainer.epoch, measured, spectra=keeps_spectra, of_network=numbers)
    return True
