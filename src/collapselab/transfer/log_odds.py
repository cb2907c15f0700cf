"""Accuracies of several tasks in one number: mean log odds (Kornblith et al. 2019; Xu and Liu 2023, eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from collapselab.errors import InputError

# All of them, because run-time checks of annotations accept neither whole numbers nor those of numpy as `float`.
Number = int | float | np.integer[Any] | np.floating[Any]
ByTask = Mapping[str, Number] | Iterable[Number]


def mean_log_odds(accuracies: ByTask, *, num_samples: Number | ByTask | None = None) -> float:
    """Return the mean over tasks of ln(a / (1 - a)).

    Args:
        accuracies: fractions between 0 and 1, by task or in the order of the tasks.
        num_samples: number n of test samples, of every task or by task. If it is given, accuracies are clipped to
            [1/(2n), 1 - 1/(2n)]; without it, an accuracy of 0 or 1 is an error, since its log odds are infinite.

    Raises:
        InputError: no accuracy; one that is outside (0, 1), with the name of its task; a number of samples is missing, or
            there are more of them than accuracies.

    Example:
        >>> round(mean_log_odds({"pets": 0.9, "cars": 0.5}), 4)
        1.0986
    """
    odds = [_log_odds(value, task, samples) for task, value, samples in _tasks(accuracies, num_samples)]
    return math.fsum(odds) / len(odds)


def mean_log_odds_gain(
    accuracies: ByTask, pretrain_accuracy: Number, *, num_samples: Number | ByTask | None = None
) -> float:
    """Return `mean_log_odds(accuracies)` minus the log odds of the accuracy on the pretraining task.

    Args:
        accuracies, num_samples: as in `mean_log_odds`.
        pretrain_accuracy: test accuracy on the pretraining task, a fraction between 0 and 1; it is not clipped.

    Raises:
        InputError: as `mean_log_odds`.

    Example:
        >>> round(mean_log_odds_gain({"pets": 0.9, "cars": 0.5}, pretrain_accuracy=0.75), 4)
        0.0
    """
    return mean_log_odds(accuracies, num_samples=num_samples) - _log_odds(
        pretrain_accuracy, "the pretraining task", None
    )


def _tasks(
    accuracies: ByTask, num_samples: Number | ByTask | None
) -> Iterator[tuple[str, Number, Number | None]]:
    """Yield name, accuracy and number of samples of each task.

    Raises:
        InputError: no tasks, tasks without a number of samples, or more numbers in order than tasks.
    """
    by_task = _named(accuracies)
    if not by_task:
        raise InputError("accuracies are empty; give the accuracy of at least one task")
    if num_samples is None or isinstance(num_samples, int | float | np.number):
        sizes: dict[str, Number | None] = dict.fromkeys(by_task, num_samples)
    else:
        sizes = dict(_named(num_samples))
        if not isinstance(num_samples, Mapping) and len(sizes) > len(by_task):
            raise InputError(
                f"num_samples has {len(sizes)} numbers, accuracies {len(by_task)}; give one for each, in the same order"
            )
    for task, value in by_task.items():
        if task not in sizes:
            raise InputError(f"num_samples lacks {task}; give the number of test samples of every task")
        yield task, value, sizes[task]


def _named(values: ByTask) -> dict[str, Number]:
    if isinstance(values, Mapping):
        return {str(task): value for task, value in values.items()}
    return {f"task {number}": value for number, value in enumerate(values)}


def _log_odds(value: Number, task: str, num_samples: Number | None) -> float:
    if not 0 <= value <= 1:  # NaN too
        percent = "; give a fraction, not a percentage" if 1 < value <= 100 else ""
        raise InputError(f"the accuracy of {task} is {value}{percent or '; give a fraction between 0 and 1'}")
    if num_samples is not None:
        if not num_samples >= 1:
            raise InputError(f"num_samples of {task} is {num_samples}; give a number from 1")
        edge = 1 / (2 * float(num_samples))
        value = min(max(value, edge), 1 - edge)
    if not 0 < value < 1:
        raise InputError(
            f"the accuracy of {task} is {value}, whose log odds are infinite; give num_samples= to clip it to "
            "1/(2n) from 0 and 1"
        )
    return math.log(value) - math.log1p(-value)
