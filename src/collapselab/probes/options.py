"""The options of profiling: the one list that `profile`, `Monitor`, callbacks, the command and runs take theirs from.

To add an option, add a field to `ProfileOptions` and use it where it acts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, TypeVar, cast, get_args, get_type_hints

import torch
from torch import Tensor

from collapselab.choices import AutoScatter, Weighting
from collapselab.errors import InputError
from collapselab.names import check_names
from collapselab.passes import ProgressCallback
from collapselab.probes import option_checks as checks
from collapselab.probes.batches import SplitBatch
from collapselab.probes.channels import ChannelAxis, parse_channel_axis
from collapselab.probes.padding import TokenMaskOption, parse_token_mask
from collapselab.probes.reduce import Reduction
from collapselab.probes.samples import BatchAxis
from collapselab.probes.scores import ScoresOption
from collapselab.probes.select import Layers

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


class MeasuringOptions(TypedDict, total=False):
    """Options of `collapselab.profile` that it takes by keyword only, each with its default and its check."""

    reduce: Annotated[
        str | Reduction,
        Option(
            "auto",
            "how features with several axes become one row per sample: `auto` (of a sequence the token that the head of the "
            "network reads, or else the mean of the tokens; of a feature map with more than 4096 features the mean over "
            "positions; anything else is flattened), `flatten`, `gap` (mean over positions), `mean` "
            "(mean over tokens), `token` (the first token), `token:i` (token i), `token:last` (the last that is not padding), "
            "`token:cls` (the class token).",
            checks.reduction,
        ),
    ]
    channel_axis: Annotated[
        ChannelAxis | str,
        Option(
            None,
            "channel axis of the input of layers without weight: one number for all (1 or -1), or a mapping from name or "
            "glob to axis; default: the channel axis of the preceding layer.",
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
            "what to store of the within-class scatter: `full` (the p x p matrix), `per_class` (one for each class), "
            "`sketch` (its product with random directions), `trace` (a number), or `auto`: as much as the metrics need. "
            "`auto` is `full` up to 1024 features (4096 at the classifier) and 1 GiB in total, otherwise `sketch`.",
            checks.scatter,
        ),
    ]
    weighting: Annotated[
        Weighting,
        Option(
            "balanced",
            "weighting of the covariances. `balanced` needs the class counts beforehand: from the data set of the "
            "loader, if they can be read there, or from `class_counts`; otherwise unbalanced data are weighted by "
            "`sample`, with a warning.",
            checks.weighting,
        ),
    ]
    epsilon: Annotated[
        float,
        Option(0.2, "a layer is collapsed if `normalized_within` is below this threshold.", checks.epsilon),
    ]
    class_counts: Annotated[
        ClassCounts,
        Option(
            None,
            "samples of each label in the whole train split: (K,) for labels 0 … K-1, or a mapping such as a `Counter`.",
            checks.class_counts,
        ),
    ]
    metrics: Annotated[
        Iterable[str] | None,
        Option(
            None,
            "names of metrics; default all but `weak_test_variance`, which needs the test features in memory.",
            checks.metrics,
        ),
    ]
    spectra: Annotated[
        bool,
        Option(False, "also return the eigenvalues of covariances that are stored whole.", checks.spectra),
    ]
    sketch_size: Annotated[int, Option(32, "number of columns of a sketch.", checks.sketch_size)]
    seed: Annotated[int, Option(0, "seed for sketches.", checks.seed)]
    batch_axis: Annotated[
        BatchAxis,
        Option(
            None,
            "the axis of the model's inputs that holds samples. By default it is found by running a part of the first "
            "batch. A mapping gives the axis of each input, by name or position; None means that the input holds no samples.",
            checks.batch_axis,
        ),
    ]
    scores: Annotated[
        ScoresOption,
        Option(
            None,
            "the output that holds the class scores: its name, its position, or a function of what the model returns; "
            "False: there is none.",
            checks.scores,
        ),
    ]
    classifier: Annotated[
        str | None,
        Option(
            None, "name of the layer that computes the class scores, if it is not found.", checks.classifier
        ),
    ]
    shift_labels: Annotated[
        bool | None,
        Option(
            None,
            "whether the label of a token is the next token. Default: True if a causal language model of `transformers` "
            "is given labels in the shape of its `input_ids` that are not next tokens already, else False.",
            checks.shift_labels,
        ),
    ]
    ignore_index: Annotated[
        int | None,
        Option(
            None, "labels of this value are padding, as those equal to -100 always are.", checks.ignore_index
        ),
    ]
    split_batch: Annotated[
        SplitBatch | None,
        Option(
            None,
            "function from a batch, as the loader yields it, to (inputs, labels), for batches of any other form.",
            checks.function_named("split_batch"),
        ),
    ]
    stats_device: Annotated[
        torch.device | str | None,
        Option(
            None,
            "device on which statistics are stored and computed, such as `cpu` where a GPU has no room for them; default: "
            "that of the features. Features of every batch are then copied there.",
            checks.stats_device,
            decides_numbers=False,
        ),
    ]
    progress: Annotated[
        ProgressCallback | None,
        Option(
            None,
            "called with what is being done, samples done and samples in total (0 where unknown).",
            checks.function_named("progress"),
            decides_numbers=False,
        ),
    ]


class ProfileOptions(MeasuringOptions, total=False):
    """All options of `collapselab.profile`; `layers` may be given by position."""

    layers: Annotated[
        Layers,
        Option(
            None,
            "None for every linear and convolution layer; `last` for the classifier, or the deepest layer; names and globs, as a list or separated by commas, after `!` to "
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
    if "test" in options:  # as `measure` calls test data
        raise InputError("unknown option 'test'; did you mean 'test_loader'?")
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
