"""The runs of figure 5: networks trained on super-classes, and fine-tuned to classes from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from collapselab.data.recipe import DataSpec
from collapselab.experiments.recipes import Changes, Job, Jobs, balanced, checkpoint_of, digits, first
from collapselab.papers.hui2022 import common
from collapselab.papers.hui2022.arms import variant
from collapselab.papers.hui2022.common import MLP, ODD_EVEN, images, recipe
from collapselab.records.recipe import Checkpoints, Option, StartFrom

# "We search over 0.0005 to 0.25": six values, evenly spaced on a logarithmic scale.
SWEEP = (0.0005, 0.0017, 0.006, 0.021, 0.072, 0.25)
CONTROL = "control"
_TEN = tuple((digit,) for digit in range(10))
_OBJECTS = ("airplane", "automobile", "ship", "truck")
_ANIMALS = ("bird", "cat", "frog", "horse")
LEFT_OPEN = (
    f"The batch size is {common.BATCH_SIZE}, as in sec. 3.2; the penalty of the linear probe is chosen from {common.PENALTIES} values. "
    f"{common.LEFT_OPEN} {common.STANDARDIZE_NOTE} MNIST samples are the first ones for pre-training and the "
    "following ones for fine-tuning, the same for every seed."
)


@dataclass(frozen=True)
class Half:
    """One panel of the figure: a network, the super-classes it is trained on, the classes it is fine-tuned to."""

    model: str
    options: dict[str, Option]
    super_classes: DataSpec
    classes: DataSpec
    learning_rate: float | None = None


def _task(data: DataSpec, groups: Sequence[tuple[int | str, ...]]) -> DataSpec:
    return data.model_copy(update={"groups": tuple(groups)})


MNIST = Half(
    "mlp",
    MLP,
    _task(images("mnist", train=first(1000), test=first(200)), ODD_EVEN),
    _task(images("mnist", train=first(500, skip=1000), test=first(100, skip=200)), _TEN),
)
CIFAR = Half(
    "resnet18",
    {},
    _task(images("cifar10", train=balanced(20_000), test=balanced(4000)), (_OBJECTS, _ANIMALS)),
    _task(
        images("cifar10", train=balanced(10_000, skip=20_000), test=balanced(2000, skip=4000)),
        [(name,) for name in _OBJECTS + _ANIMALS],
    ),
)
# For few cores: a quarter of the width, and all other test digits.
MNIST_CPU = replace(
    MNIST,
    options=MLP | {"width": 256},
    classes=_task(images("mnist", train=first(500, skip=1000), test=first(1800, skip=200)), _TEN),
    learning_rate=0.01,
)
DIGITS = Half(
    "mlp",
    MLP | {"width": 32},
    _task(digits(300, 200), ODD_EVEN),
    _task(DataSpec(name="digits", train=first(200, skip=300), test=first(200, skip=200)), _TEN),
    learning_rate=0.05,
)


def transfer_jobs(
    seed: int,
    changes: Changes,
    halves: Sequence[Half] = (MNIST, CIFAR),
    checkpoints: tuple[int, ...] = (1000, 3000, 10_000, 30_000, 60_000, 100_000),
    tuning: int = 100_000,
    sweep: Sequence[float] = SWEEP,
) -> list[Job]:
    """Return the runs of both halves: each pre-training, then its fine-tunings.

    Args:
        seed: of all runs.
        changes: to all recipes.
        halves: panels of the figure.
        checkpoints: steps of pre-training from which fine-tuning starts; the last one ends it.
        tuning: steps of each fine-tuning.
        sweep: learning rates of fine-tuning.
    """
    jobs = [
        job
        for half in halves
        for job in (
            _pretraining(half, seed, checkpoints),
            *(_fine_tuning(half, seed, tuning, step, rate) for step in checkpoints for rate in sweep),
        )
    ]
    return [replace(job, recipe=job.recipe.with_changes(changes)) for job in jobs]


def with_control(
    jobs: Jobs, half: Half, decays: Sequence[float], step: int, tuning: int, sweep: Sequence[float]
) -> Jobs:
    """Add runs that tell collapse from training time: equally long pre-training with several weight decays.

    Networks have batch norm, as in the papyan arm. Weight decay of fine-tuning is 0, so that only the checkpoints differ.

    Args:
        jobs: of both arms.
        half: panel of the figure.
        decays: weight decays of pre-training, the smallest first.
        step: number of steps of pre-training, and the only checkpoint.
        tuning, sweep: as in `transfer_jobs`.
    """
    half = replace(half, options={**half.options, "batch_norm": True})

    def all_jobs(seed: int, changes: Changes) -> list[Job]:
        one = partial(transfer_jobs, halves=(half,), checkpoints=(step,), tuning=tuning, sweep=sweep)
        control = [_of_control(job, decay) for decay in decays for job in one(seed, changes)]
        return [*jobs(seed, changes), *control]

    return all_jobs


def _of_control(job: Job, decay: float) -> Job:
    changes = {} if job.after else {"optimizer.weight_decay": decay}
    return variant(job, f"{CONTROL}-{decay:g}", {"arm": CONTROL, "weight_decay": decay}, changes)


def _pretraining(half: Half, seed: int, checkpoints: tuple[int, ...]) -> Job:
    trained = recipe(
        half.model,
        half.super_classes,
        seed,
        steps=checkpoints[-1],
        learning_rate=half.learning_rate,
        options=half.options,
        count=16,
        checkpoints=Checkpoints(at=checkpoints),
    )
    name = half.classes.name
    return Job(f"{name}-pretraining", trained, {"kind": "pretraining", "dataset": name, "model": half.model})


def _fine_tuning(half: Half, seed: int, steps: int, checkpoint: int, rate: float) -> Job:
    name, data = half.classes.name, half.classes
    start = StartFrom(checkpoint=checkpoint_of(f"{name}-pretraining", seed, checkpoint))
    tuned = recipe(
        half.model,
        data,
        seed,
        steps=steps,
        learning_rate=rate,
        options=half.options,
        count=2,
        checkpoints=Checkpoints(),  # to compare networks sample by sample
    ).model_copy(update={"start": start})
    labels = {"kind": "fine_tuning", "dataset": name, "model": half.model, "pretrain_step": checkpoint}
    labels["learning_rate"] = rate
    return Job(f"{name}-from-{checkpoint}-lr-{rate:g}", tuned, labels, after=f"{name}-pretraining")
