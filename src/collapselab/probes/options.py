"""The options of profiling: the one list that `profile`, `Monitor`, callbacks, the command and runs take theirs from.

To add an option, add a field to `ProfileOptions` and use it where it acts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import Annotated, Any, TypedDict, TypeVar, cast, get_args, get_type_hints

import torch
from torch import Tensor

from collapselab.checks import check_names
from collapselab.choices import AutoScatter, Weighting
from collapselab.errors import InputError, one_line
from collapselab.metrics import BY_NAME
from collapselab.passes import ProgressCallback
from collapselab.probes.batches import SplitBatch
from collapselab.probes.channels import ChannelAxis, parse_channel_axis
from collapselab.probes.padding import TokenMaskOption, parse_token_mask
from collapselab.probes.reduce import Reduction
from collapselab.probes.samples import BatchAxis
from collapselab.probes.scores import ScoresOption
from collapselab.probes.select import Layers
from collapselab.statistics import SCATTERS, WEIGHTINGS

Function = TypeVar("Function", bound=Callable[..., Any] | type)
ClassCounts = Tensor | Sequence[int] | Mapping[int, int] | None


@dataclass(frozen=True)
class Option:
    """One option of profiling.

    Attributes:
        default: value where the option is not given.
        text: what it does, for docstrings and the help of the command.
        check: returns the value, normalised; raises InputError for one that is not allowed.
        decides_numbers: whether results depend on it.
    """

    default: Any
    text: str
    check: Callable[[Any], Any] = lambda value: value
    decides_numbers: bool = True


def _reduce(value: Any) -> str | Reduction:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _epsilon(value: Any) -> float:
    if not _is_number(value) or not 0 < value < 1:
        raise InputError(f"epsilon={value!r}: give a share of variance between 0 and 1")
    return value


def _class_counts(value: Any) -> Tensor | dict[int, int] | None:
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


def _metrics(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, Iterable) or getattr(value, "ndim", None) == 0:
        raise InputError(f"metrics: give names of metrics, not a {type(value).__name__}")
    names = (value,) if isinstance(value, str) else tuple(value)  # an iterator can be read once
    for name in names:
        _check_text(name, "metrics")
    check_names(names, BY_NAME, "metric")
    return names


def _batch_axis(value: Any) -> Any:
    axes = value.values() if isinstance(value, Mapping) else [value]
    if all(
        axis is None or (isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0) for axis in axes
    ):
        return value
    raise InputError(
        f"batch_axis={value!r}: give the number of an axis (0 is the first), or one for each input by its name, such as "
        '{"input_ids": None}'
    )


def _scores(value: Any) -> Any:
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


def _classifier(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"classifier: give the name of a layer, not a {type(value).__name__}")


def _shift_labels(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    raise InputError(f"shift_labels={value!r}: give True, False, or None to let the model decide")


def _ignore_index(value: Any) -> Any:
    if value is None or _is_whole(value):
        return value if value is None else index(value)
    raise InputError(f"ignore_index={value!r}: give a whole number, the label of padding")


def _sketch_size(value: Any) -> int:
    if _is_whole(value) and index(value) >= 1:
        return index(value)
    raise InputError(f"sketch_size={value!r}: a sketch has a whole number of columns, at least one")


def _seed(value: Any) -> int:
    if _is_whole(value):
        return index(value)
    raise InputError(f"seed={value!r}: give a whole number of at most 64 bits")


def _spectra(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InputError(f"spectra={value!r}: give True or False")


def _function(name: str) -> Callable[[Any], Any]:
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


class MeasuringOptions(TypedDict, total=False):
    """Options of `collapselab.profile` that it takes by keyword only, each with its default and its check."""

    reduce: Annotated[
        str | Reduction,
        Option(
            "flatten",
            "how features with several axes become one row per sample: `flatten`, `gap` (mean over positions), `mean` "
            "(over tokens), `token` or `token:i`, `token:last` (the last that is not padding), `token:cls`.",
            _reduce,
        ),
    ]
    channel_axis: Annotated[
        ChannelAxis | str,
        Option(
            None,
            "axis of channels of what layers without weight read, such as 1 or -1, or axes by name or glob; default: "
            "that of the layer which made the features.",
            parse_channel_axis,
        ),
    ]
    token_mask: Annotated[
        TokenMaskOption,
        Option(
            None,
            "input that marks tokens which are not padding, by name; `~NAME`: that marks padding; a function of the inputs; "
            "False: none. By default masks of usual names are read.",
            parse_token_mask,
        ),
    ]
    scatter: Annotated[
        AutoScatter,
        Option(
            "auto",
            "which part of the within-class scatter is stored. `auto`: all of it up to 1024 features (4096 at the "
            "classifier) and 1 GiB in total, a sketch beyond; or `full`, `per_class`, `sketch` or `trace` for every "
            "layer.",
            _one_of(("auto", *SCATTERS), "scatter"),
        ),
    ]
    weighting: Annotated[
        Weighting,
        Option(
            "balanced",
            "weighting of the covariances. `balanced` needs the class counts beforehand: from the data set of the "
            "loader, if they can be read there, or from `class_counts`; otherwise unbalanced data are weighted by "
            "`sample`, with a warning.",
            _one_of(WEIGHTINGS, "weighting"),
        ),
    ]
    epsilon: Annotated[
        float, Option(0.2, "a layer is collapsed if `normalized_within` is below this threshold.", _epsilon)
    ]
    class_counts: Annotated[
        ClassCounts,
        Option(
            None,
            "samples of each label in the whole train split: (K,) for labels 0 … K-1, or a mapping such as a `Counter`.",
            _class_counts,
        ),
    ]
    metrics: Annotated[
        Iterable[str] | None,
        Option(
            None,
            "names of metrics; default all but `weak_test_variance`, which needs the test features in memory.",
            _metrics,
        ),
    ]
    spectra: Annotated[
        bool, Option(False, "also return the eigenvalues of covariances that are stored whole.", _spectra)
    ]
    sketch_size: Annotated[int, Option(32, "number of columns of a sketch.", _sketch_size)]
    seed: Annotated[int, Option(0, "seed for sketches.", _seed)]
    batch_axis: Annotated[
        BatchAxis,
        Option(
            None,
            "the axis of the model's inputs that holds samples. By default it is found by running a part of the first "
            "batch. A mapping says it by the name or position of an input; None: it holds no samples.",
            _batch_axis,
        ),
    ]
    scores: Annotated[
        ScoresOption,
        Option(
            None,
            "the output that holds the class scores: its name, its position, or a function of what the model returns; "
            "False: there is none.",
            _scores,
        ),
    ]
    classifier: Annotated[
        str | None,
        Option(None, "name of the layer that computes the class scores, if it is not found.", _classifier),
    ]
    shift_labels: Annotated[
        bool | None,
        Option(
            None,
            "whether the label of a token is the next token. By default it is where a causal language model of "
            "`transformers` is given its input tokens as labels.",
            _shift_labels,
        ),
    ]
    ignore_index: Annotated[
        int | None,
        Option(None, "labels of this value are padding, as those equal to -100 always are.", _ignore_index),
    ]
    split_batch: Annotated[
        SplitBatch | None,
        Option(
            None,
            "function from a batch, as the loader yields it, to (inputs, labels), for batches of any other form.",
            _function("split_batch"),
        ),
    ]
    progress: Annotated[
        ProgressCallback | None,
        Option(
            None,
            "called with what is being done, samples done and samples in total (0 where unknown).",
            _function("progress"),
            decides_numbers=False,
        ),
    ]


class ProfileOptions(MeasuringOptions, total=False):
    """All options of `collapselab.profile`; `layers` may be given by position."""

    layers: Annotated[
        Layers,
        Option(
            None,
            "None for every linear and convolution layer; names and globs, as a list or separated by commas, after `!` to "
            "leave layers out; or a predicate of name and module.",
        ),
    ]


# Every option by name, in the order of the list above.
OPTIONS: dict[str, Option] = {
    name: next(part for part in get_args(hint) if isinstance(part, Option))
    for name, hint in get_type_hints(ProfileOptions, include_extras=True).items()
}


def check_known(options: Mapping[str, Any], kind: type) -> None:
    """Refuse keywords that a typed dictionary does not have.

    Raises:
        InputError: naming the first unknown one, with near matches.
    """
    check_names(list(options), kind.__annotations__, "option")


def complete_options(options: ProfileOptions) -> ProfileOptions:
    """Return the options with every default filled in, checked and normalised.

    Raises:
        InputError: an unknown option, or a value that is not allowed.
    """
    check_known(options, ProfileOptions)
    given = cast(dict[str, Any], options)
    return cast(
        ProfileOptions,
        {name: option.check(given.get(name, option.default)) for name, option in OPTIONS.items()},
    )


def plain_options(options: ProfileOptions) -> dict[str, Any]:
    """Return every option that decides the numbers, defaults included, as values that JSON can hold."""
    given = cast(dict[str, Any], options)
    return {
        name: _plain(given.get(name, option.default))
        for name, option in OPTIONS.items()
        if option.decides_numbers
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if callable(value) and not isinstance(value, Reduction):
        # A predicate or split_batch, recorded by its name.
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def document_options(target: Function) -> Function:
    """Append the list of options to the docstring of a function or class that takes them."""
    if target.__doc__:  # Python removes docstrings on request
        lines = [
            textwrap.fill(f"{name}: {option.text}", 110, initial_indent=" " * 8, subsequent_indent=" " * 12)
            for name, option in OPTIONS.items()
        ]
        target.__doc__ = "\n".join([f"{target.__doc__.rstrip()}\n\n    Options:", *lines, "    "])
    return target
