"""The checks of the options of profiling: each returns the value, normalised, or says in one line what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import index
from typing import Any

import torch
from torch import Tensor

from collapselab.errors import InputError, one_line
from collapselab.metrics import check_metrics
from collapselab.names import check_names
from collapselab.probes.reduce import Reduction
from collapselab.statistics import SCATTERS, WEIGHTINGS


def reduction(value: Any) -> str | Reduction:
    if not isinstance(value, Reduction):
        _check_text(value, "reduce")
    Reduction.parse(value)
    return value


def _check_text(value: Any, option: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{option}: give a name, not a {type(value).__name__}")


def _one_of(names: Iterable[str], option: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        _check_text(value, option)
        check_names([value], tuple(names), option)
        return value

    return check


scatter, weighting = _one_of(("auto", *SCATTERS), "scatter"), _one_of(WEIGHTINGS, "weighting")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def epsilon(value: Any) -> float:
    if not _is_number(value) or not 0 < value < 1:
        raise InputError(f"epsilon={value!r}: give a share of variance between 0 and 1")
    return value


def class_counts(value: Any) -> Tensor | dict[int, int] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        with suppress(TypeError):
            by_label = dict(sorted((index(label), index(count)) for label, count in value.items()))
            numbers = (*by_label, *by_label.values())
            if len(by_label) > 1 and min(numbers) >= 0 and max(numbers) < 2**63:
                return by_label
        raise InputError("class_counts: give the whole number of samples of each label, of at least two")
    try:
        counts = torch.as_tensor(value).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"class_counts: {one_line(error)}; give one whole number per label, or a mapping from labels to numbers"
        ) from error
    if counts.ndim != 1 or counts.is_floating_point() or len(counts) < 2 or bool((counts < 0).any()):
        raise InputError(
            f"class_counts: give one whole number per label, not {counts.dtype} of shape {tuple(counts.shape)}"
        )
    return counts.long()


def metrics(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, Iterable) or getattr(value, "ndim", None) == 0:
        raise InputError(f"metrics: give names of metrics, not a {type(value).__name__}")
    names = (value,) if isinstance(value, str) else tuple(value)  # an iterator can be read once
    for name in names:
        _check_text(name, "metrics")
    check_metrics(names)
    return names


def batch_axis(value: Any) -> Any:
    axes = value.values() if isinstance(value, Mapping) else [value]
    if all(
        axis is None or (isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0) for axis in axes
    ):
        return value
    raise InputError(
        f"batch_axis={value!r}: give the number of an axis (0 is the first), or one for each input by its name, such as "
        '{"input_ids": None}'
    )


def scores(value: Any) -> Any:
    if (
        value is None
        or value is False
        or callable(value)
        or (isinstance(value, str | int) and value is not True)
    ):
        return value
    raise InputError(
        f"scores={value!r}: give the name or number of an output, a function of the output, or False"
    )


def classifier(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"classifier: give the name of a layer, not a {type(value).__name__}")


def shift_labels(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    raise InputError(f"shift_labels={value!r}: give True, False, or None to let the model decide")


def ignore_index(value: Any) -> Any:
    if value is None or _is_whole(value):
        return value if value is None else index(value)
    raise InputError(f"ignore_index={value!r}: give a whole number, the label of padding")


def sketch_size(value: Any) -> int:
    if _is_whole(value) and index(value) >= 1:
        return index(value)
    raise InputError(f"sketch_size={value!r}: a sketch has a whole number of columns, at least one")


def seed(value: Any) -> int:
    if _is_whole(value):
        return index(value)
    raise InputError(f"seed={value!r}: give a whole number of at most 64 bits")


def spectra(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InputError(f"spectra={value!r}: give True or False")


def stats_device(value: Any) -> torch.device | None:
    if value is None:
        return None
    try:
        device = torch.device(value)
        torch.empty(0, dtype=torch.float64, device=device)
    # Which of these torch raises depends on the value, the kind of device and how torch was built.
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        given = ascii(value)[:40] if isinstance(value, str | torch.device) else type(value).__name__
        raise InputError(
            f"stats_device={given}: {one_line(error)[:100]}; give a device with float64, such as 'cpu' or 'cuda:0'"
        ) from error
    if device.type == "meta":
        raise InputError("stats_device='meta': the meta device stores no data; use cpu or cuda")
    return device


def function_named(name: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None or callable(value):
            return value
        raise InputError(f"{name}: give a function, not a {type(value).__name__}")

    return check


def _is_whole(value: Any) -> bool:
    """Return whether a value is a whole number of at most 64 bits."""
    with suppress(TypeError):
        return not isinstance(value, bool | Tensor) and -(2**63) <= index(value) < 2**63
    return False
