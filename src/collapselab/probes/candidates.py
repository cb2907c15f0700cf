"""Choose the output that holds the class scores.

Every choice has a reason; where none holds, nothing is chosen and a warning says what to give.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from collapselab.errors import InputError
from collapselab.probes.axes import Axes, Shape
from collapselab.probes.batches import Batch
from collapselab.probes.geometry import Geometry
from collapselab.probes.inputs import Path
from collapselab.probes.journey import Journey, Origin
from collapselab.probes.labels import check_no_rows_of_bits
from collapselab.probes.scores import Scores, ScoresOption, describe

# Names of outputs that are class scores, the surest first; any name with the word `logits` is as sure as the second.
_NAMES = ("logits", "logits_", "out", "output", "outputs", "scores", "pred", "prediction")
_LOGITS = re.compile(r"(^|_)logits(_|$)")
_EXIT = re.compile(r"(^|_)(exit|stage)s?_?\d*(_|$)")
# Parts of the path of an auxiliary head.
_AUXILIARY = re.compile(
    r"aux(iliary)?_?\d*|aux(iliary)?_(logits|head|heads|classifier|out|output)_?\d*|AuxLogits"
)
_NO_SCORES = "returns no class scores of the labels' shape: ncc_agreement is undefined"


@dataclass(frozen=True)
class Classes:
    """What is known of the labels before they are read.

    Attributes:
        number: the number that all labels lie below.
        labels: distinct labels, ascending.
        are_all: whether these are all, and not those of the first batch.
    """

    number: int = 0
    labels: tuple[int, ...] = ()
    are_all: bool = False

    def outlier(self, width: int) -> int | None:
        """Return the only label that is not below `width`, if there is exactly one beside two or more others."""
        outside = [label for label in self.labels if label >= width]
        return outside[0] if len(outside) == 1 and len(self.labels) > 2 else None

    @property
    def span(self) -> int:
        """Number of classes from the first label to the last."""
        return self.number - (self.labels[0] if self.labels else 0)

    def numbered_by(self, width: int) -> str | None:
        """Return what makes of the labels those of `width` class scores; None if nothing simple does."""
        if not self.labels or len(self.labels) != width or self.number <= width:
            return None
        if self.span == width:
            return f"subtract {self.labels[0]} from the labels"
        return f"number the classes 0 … {width - 1}" if self.are_all else None


@dataclass(frozen=True)
class Candidate:
    """An output that has one row per label.

    Attributes:
        origins: the layers that it comes from.
        depth: number of weight layers in a row up to it.
        behind: every layer upstream of it, without those that made it directly.
        width: number of classes that it has scores for.
        rows: (labels, …) what it holds for each label of the first batch.
    """

    path: Path
    axes: Axes
    rest: Shape
    origins: frozenset[Origin]
    depth: int
    behind: frozenset[str]
    width: int
    rows: Tensor

    @property
    def makers(self) -> frozenset[str]:
        """The layers of which it is made without another product in between."""
        mixed = {origin.call for origin in self.origins if origin.is_mixed}
        return frozenset(origin.call for origin in self.origins) - mixed

    @property
    def origins_without_squashing(self) -> frozenset[tuple[str, bool]]:
        return frozenset((origin.call, origin.is_mixed) for origin in self.origins)


def candidate(
    path: Path, axes: Axes, tensor: Tensor, journey: Journey | None, labels: Shape, classes: Classes
) -> Candidate | None:
    """Return an output as a candidate, with all that is known of where it comes from; None if it cannot be one."""
    rest = axes.rest(tuple(tensor.shape))
    is_loss = any("loss" in str(key) for key in path)
    is_pair = classes.number <= 2 or classes.numbered_by(2) is not None
    if len(rest) > 1 or is_loss or not tensor.is_floating_point() or (rest == () and not is_pair):
        return None
    width = 2 if is_pair and rest in ((), (1,)) else math.prod(rest)
    rows = axes.rows(tensor, labels, rest)
    assert rows is not None
    origins = frozenset[Origin]() if journey is None else journey.origins(tensor)
    above = [journey.upstream(origin.call) for origin in origins] if journey is not None else []
    behind = frozenset(origin.call for origin in origins if origin.is_mixed)
    behind = behind.union(*(one.calls for one in above))
    depth = max((one.depth for one in above), default=0)
    return Candidate(path, axes, rest, origins, depth, behind, width, rows)


def choose_scores(
    candidates: list[Candidate], classes: Classes, *, is_sure: bool = True
) -> tuple[Candidate | None, str | None]:
    """Return which output decides, and otherwise why none does.

    Of several outputs these rules choose: not an auxiliary head; as many scores as classes; the name `logits` or a
    similar one; not what another output was computed from; of exits of equal width, the deepest.

    Args:
        candidates: outputs with one row per label.
        classes: as far as they are known.
        is_sure: whether there can be no other classes.
    """
    num_labels = classes.number
    found = _of_two_classes(_without_auxiliary(candidates))
    found, is_doubtful = _as_wide_and_named(found, num_labels, is_sure)
    if not is_doubtful:
        found = [one for one in found if not any(one.makers & other.behind for other in found)]
    wide = [one for one in found if one.width >= num_labels]
    if found and not wide:
        return None, _too_narrow(found[-1], classes)
    equal = [one for one in wide if one.width == num_labels and not is_doubtful] or wide
    left = _deepest_exit(_distinct(equal))
    if len(left) == 1:
        return left[0], None
    if not left:
        return None, None
    names = ", ".join(describe(one.path) for one in left[:4])
    return None, (
        f"outputs {names} could all be class scores, so none decides and ncc_agreement is undefined; choose one with "
        "scores="
    )


def _too_narrow(one: Candidate, classes: Classes) -> str:
    remedy = classes.numbered_by(one.width)
    if remedy is None:
        return (
            f"{describe(one.path)} has {one.width} values for {classes.number} classes: an embedding, and no class scores; "
            "ncc_agreement is undefined"
        )
    return (
        f"{describe(one.path)} has {'two classes' if one.rest in ((), (1,)) else f'{one.width} values'}, but labels go from "
        f"{classes.labels[0]} to {classes.labels[-1]}: ncc_agreement is undefined; {remedy} if these are class scores"
    )


def _as_wide_and_named(
    found: list[Candidate], num_labels: int, is_sure: bool
) -> tuple[list[Candidate], bool]:
    """Return the outputs that are as wide as there are classes, or else the best named, and whether both could be meant.

    What such an output was computed from is never meant. What was computed of it may be a wider head above a neck.
    """
    exact = [one for one in found if one.width == num_labels]
    best = _best_named(found)
    others = [
        one
        for one in best
        if one.width > num_labels and not any(one.makers & other.behind for other in exact)
    ]
    if not exact or not others:
        return _best_named(exact) if exact else best, False
    if is_sure and not any(one.makers & other.behind for one in exact for other in others):
        return _best_named(exact), False
    return exact + others, True


def _of_two_classes(found: list[Candidate]) -> list[Candidate]:
    """Drop single values, such as a confidence, beside two scores that they were not computed from."""
    single = [one for one in found if one.rest in ((), (1,))]
    pairs = [
        one for one in found if one.rest == (2,) and not any(one.makers & other.behind for other in single)
    ]
    is_named = min(map(_rank, single), default=0) <= 1 < min(map(_rank, pairs), default=2)
    return found if not pairs or is_named else [one for one in found if one not in single]


def _rank(one: Candidate) -> int:
    names = [str(key) for key in one.path]
    exact = [number for number, name in enumerate(_NAMES) if name in names]
    words = [1] if any(_LOGITS.search(name) for name in names) else []
    return min(exact + words, default=len(_NAMES))


def _best_named(found: list[Candidate]) -> list[Candidate]:
    best = min(map(_rank, found), default=0)
    return [one for one in found if _rank(one) == best]


def _without_auxiliary(found: list[Candidate]) -> list[Candidate]:
    def is_auxiliary(one: Candidate) -> bool:
        parts = [str(key) for key in one.path]
        parts += [part for call in one.makers for part in module_of(call).split(".")]
        return any(_AUXILIARY.fullmatch(part) for part in parts)

    return [one for one in found if not is_auxiliary(one)] or found


def module_of(call: str) -> str:
    """Return the name of the module of a call: `fc` for `fc#2`."""
    return call.split("#")[0]


def _distinct(found: list[Candidate]) -> list[Candidate]:
    """Drop what decides as another output does because it is made of it: a softmax, a transposed matrix."""
    kept: list[Candidate] = []
    for one in sorted(found, key=lambda one: one.axes.axes):
        if not any(_is_same(one, other) for other in kept):
            kept.append(one)
    return kept


def _is_same(one: Candidate, other: Candidate) -> bool:
    if one.rows.shape != other.rows.shape:
        return False
    if one.makers and one.origins_without_squashing == other.origins_without_squashing:
        order = 0 if one.rows.shape[1:] in ((), (1,)) else -1
        return torch.equal(one.rows.argsort(order), other.rows.argsort(order))
    return torch.equal(one.rows, other.rows)


def _deepest_exit(found: list[Candidate]) -> list[Candidate]:
    """Return the deepest of several exits of equal width; all outputs if they are not known to be exits.

    Two heads side by side, such as for classes and for domains, are no exits, whatever lies below them.
    """
    is_list = len(found) > 2 and all(one.path and isinstance(one.path[-1], int) for one in found)
    is_list = is_list and len({one.path[:-1] for one in found}) == 1
    is_named = all(any(_EXIT.search(str(key)) for key in one.path) for one in found)
    if len({one.width for one in found}) > 1 or not (is_list or is_named):
        return found
    depth = max((one.depth for one in found), default=0)
    return [one for one in found if one.depth == depth]


def find_scores(
    geometry: Geometry,
    tensors: dict[Path, Tensor],
    journey: Journey | None,
    batch: Batch,
    wanted: ScoresOption,
    classes: Classes,
) -> tuple[Candidate | None, str | None]:
    """Return the output that holds the class scores, and otherwise why there is none.

    Args:
        geometry: what is known of the axes of outputs.
        tensors: what the model returned for the first batch.
        journey: where these come from.
        batch: the first batch.
        wanted: the option `scores`.
        classes: as far as they are known.

    Raises:
        InputError: the caller named an output that is not there or does not fit; labels are one-hot rows.
    """
    if wanted is False:
        return None, "scores=False: ncc_agreement is undefined"
    axes = {path: geometry.of_output(path) for path in tensors}
    if wanted is not None:
        path = _given_output(axes, tensors, wanted)
        axes, tensors = {path: axes[path]}, {path: tensors[path]}
    found = [
        candidate(path, one, tensors[path], journey, geometry.labels, classes)
        for path, one in axes.items()
        if not isinstance(one, str)
    ]
    known = [one for one in found if one is not None]
    if wanted is not None and not known:
        raise InputError(
            f"scores={_shown(wanted)}: a loss, whole numbers or one value for several classes are no class scores; choose "
            "another output, or False for none"
        )
    check_no_rows_of_bits(batch.labels, tensors, bool(known), batch.place)
    _check_outlier(known, classes, batch)
    chosen, reason = choose_scores(known, classes, is_sure=_shows_all(batch.counted_labels, classes.number))
    return chosen, None if chosen is not None else reason or _NO_SCORES


def _check_outlier(candidates: list[Candidate], classes: Classes, batch: Batch) -> None:
    """Refuse labels of tokens or pixels one of which no output has a score for: often it marks padding.

    Raises:
        InputError: with the label.
    """
    width = max((one.width for one in candidates), default=0)
    label = classes.outlier(width) if batch.labels.ndim > 1 else None
    if label is not None:
        raise InputError(
            f"{batch.place}: label {label} is outside the {width} class scores of the model, and all others are inside; "
            f"give ignore_index={label} if it marks padding, or scores=False if the outputs are no class scores"
        )


def _shows_all(labels: Tensor, num_labels: int) -> bool:
    """Return whether there are likely no more classes: a batch of sorted data shows only the first ones."""
    labels = labels.flatten()
    is_sorted = bool((labels.diff() >= 0).all())
    return len(labels) > 0 and (num_labels > int(labels.max()) + 1 or not is_sorted)


def scores_of(chosen: Candidate, wanted: ScoresOption) -> Scores:
    """Return how the class scores are taken from an output."""
    given = wanted if callable(wanted) else None
    return Scores(chosen.path, chosen.axes, chosen.rest, _are_probabilities(chosen), given)


def _given_output(found: dict[Path, Axes | str], tensors: dict[Path, Tensor], wanted: ScoresOption) -> Path:
    """Return the output that the caller named."""
    if isinstance(wanted, int) and wanted < 0:  # counted from the end
        numbers = [path[0] for path in tensors if path and isinstance(path[0], int)]
        wanted = max(numbers) + 1 + wanted if numbers else wanted
    path = () if callable(wanted) else next((path for path in tensors if _is_named(path, wanted)), None)
    if path is None:
        if list(tensors) == [()]:
            raise InputError(
                f"scores={wanted!r}: the model returns one output without a name; leave scores= out, or give a function"
            )
        names = ", ".join(describe(one) for one in list(tensors)[:6]) or "no tensor"
        raise InputError(f"scores={wanted!r}: the model returns {names}; give one of these, or a function")
    axes = found[path]
    if isinstance(axes, str) or len(axes.rest(tuple(tensors[path].shape))) > 1:
        raise InputError(
            f"scores={_shown(wanted)}: has shape {tuple(tensors[path].shape)}, not one row of class scores per label; choose "
            "another output"
        )
    return path


def _shown(wanted: ScoresOption) -> str:
    return getattr(wanted, "__name__", repr(wanted))


def _is_named(path: Path, wanted: ScoresOption) -> bool:
    if isinstance(wanted, int):
        return path[:1] == (wanted,) or (not path and wanted in (0, -1))
    return describe(path) == wanted or path[-1:] == (wanted,)


def _are_probabilities(one: Candidate) -> bool:
    """Return whether scores are probabilities: those that went through a softmax or sigmoid, or look like it."""
    is_one = one.rest in ((), (1,))
    if is_one and one.origins:
        return any(origin.is_probability for origin in one.origins)
    rows = one.rows.double()
    adds_up = is_one or bool(((rows.sum(-1) - 1).abs() < 1e-2).all())
    return adds_up and bool(((rows >= 0) & (rows <= 1)).all())


def scores_among(outputs: dict[Path, Tensor], num_rows: int, num_classes: int) -> Path | None:
    """Return which output of a network holds the class scores, by its name and width; None if none is sure to.

    Args:
        outputs: tensors that the network returned, by their path.
        num_rows: number of samples.
        num_classes: number of classes; all of them have a score.
    """
    classes = Classes(num_classes)
    rows = Axes((0,), "none", num_label_axes=1, ndim=2)
    found = [
        candidate(path, rows, tensor, None, (num_rows,), classes)
        for path, tensor in outputs.items()
        if tensor.ndim == 2 and len(tensor) == num_rows and tensor.shape[1] >= num_classes
    ]
    chosen, _ = choose_scores([one for one in found if one is not None], classes)
    return None if chosen is None else chosen.path
