"""Choose the output that holds the class scores, and find the layer that made it.

Every choice has a reason; where none holds, nothing is chosen and a warning says what to give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from collapselab.checks import near_matches
from collapselab.errors import InputError
from collapselab.probes.axes import Axes, Shape
from collapselab.probes.batches import Batch
from collapselab.probes.geometry import Geometry
from collapselab.probes.inputs import Path
from collapselab.probes.journey import Journey, Origin
from collapselab.probes.scores import Scores, ScoresOption, describe

# Names of outputs that are class scores, the surest first; any name that begins with the second is as sure.
_NAMES = ("logits", "logits_", "out", "output", "outputs", "scores", "pred", "prediction")
_NO_SCORES = "returns no class scores of the labels' shape: ncc_agreement is undefined"


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
    path: Path, axes: Axes, tensor: Tensor, journey: Journey | None, labels: Shape, num_labels: int
) -> Candidate | None:
    """Return an output as a candidate, with all that is known of where it comes from; None if it cannot be one."""
    rest = axes.rest(tuple(tensor.shape))
    is_loss = any("loss" in str(key) for key in path)
    if len(rest) > 1 or is_loss or not tensor.is_floating_point() or (rest == () and num_labels > 2):
        return None
    width = 2 if num_labels <= 2 and rest in ((), (1,)) else math.prod(rest)
    rows = axes.rows(tensor, labels, rest)
    assert rows is not None
    origins = frozenset[Origin]() if journey is None else journey.origins(tensor)
    above = [journey.upstream(origin.call) for origin in origins] if journey is not None else []
    behind = frozenset(origin.call for origin in origins if origin.is_mixed)
    behind = behind.union(*(one.calls for one in above))
    depth = max((one.depth for one in above), default=0)
    return Candidate(path, axes, rest, origins, depth, behind, width, rows)


def choose_scores(candidates: list[Candidate], num_labels: int) -> tuple[Candidate | None, str | None]:
    """Return which output decides, and otherwise why none does.

    Of several outputs these rules choose: the name `logits` or a similar one; not an auxiliary head; not what another
    output was computed from; as many scores as classes; of heads of equal width, the deepest.

    Args:
        candidates: outputs with one row per label.
        num_labels: number of classes, as far as it is known.
    """
    found = _without_auxiliary(_best_named(candidates))
    found = [one for one in found if not any(one.makers & other.behind for other in found)]
    wide = [one for one in found if one.width >= num_labels]
    if found and not wide:
        one = found[-1]
        return None, (
            f"{describe(one.path)} has {one.width} values for {num_labels} classes: an embedding, and no class scores; "
            "ncc_agreement is undefined"
        )
    equal = [one for one in wide if one.width == num_labels] or wide
    deepest = _deepest(_distinct(equal))
    if len(deepest) == 1:
        return deepest[0], None
    if not deepest:
        return None, None
    names = ", ".join(describe(one.path) for one in deepest[:4])
    return None, (
        f"outputs {names} could all be class scores, so none decides and ncc_agreement is undefined; choose one with "
        "scores="
    )


def _best_named(found: list[Candidate]) -> list[Candidate]:
    def rank(one: Candidate) -> int:
        names = [str(key) for key in one.path]
        exact = [number for number, name in enumerate(_NAMES) if name in names]
        begins = [1] if any(name.startswith("logits_") for name in names) else []
        return min(exact + begins, default=len(_NAMES))

    best = min(map(rank, found), default=0)
    return [one for one in found if rank(one) == best]


def _without_auxiliary(found: list[Candidate]) -> list[Candidate]:
    main = [one for one in found if not any("aux" in str(key) for key in (*one.path, *one.makers))]
    return main or found


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


def _deepest(found: list[Candidate]) -> list[Candidate]:
    """Of heads of equal width the deepest, as in a list of exits; all where widths or depths do not tell."""
    if len({one.width for one in found}) > 1:
        return found
    depth = max((one.depth for one in found), default=0)
    return [one for one in found if one.depth == depth]


def find_scores(
    geometry: Geometry,
    tensors: dict[Path, Tensor],
    journey: Journey | None,
    batch: Batch,
    wanted: ScoresOption,
    num_labels: int,
) -> tuple[Candidate | None, str | None]:
    """Return the output that holds the class scores, and otherwise why there is none.

    Args:
        geometry: what is known of the axes of outputs.
        tensors: what the model returned for the first batch.
        journey: where these come from.
        batch: the first batch.
        wanted: the option `scores`.
        num_labels: number of classes, as far as it is known.

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
        candidate(path, one, tensors[path], journey, geometry.labels, num_labels)
        for path, one in axes.items()
        if not isinstance(one, str)
    ]
    known = [one for one in found if one is not None]
    if wanted is not None and not known:
        raise InputError(
            f"scores={_shown(wanted)}: a loss, whole numbers or one value for several classes are no class scores; choose "
            "another output, or False for none"
        )
    _check_no_rows_of_bits(batch.labels, tensors, bool(known), batch.place)
    chosen, reason = choose_scores(known, num_labels)
    return chosen, None if chosen is not None else reason or _NO_SCORES


def scores_of(chosen: Candidate, wanted: ScoresOption) -> Scores:
    """Return how the class scores are taken from an output."""
    given = wanted if callable(wanted) else None
    return Scores(chosen.path, chosen.axes, chosen.rest, _threshold(chosen), given)


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


def _threshold(one: Candidate) -> float:
    """Return what a single logit must exceed for class 1: one half if it is a probability."""
    is_probability = any(origin.is_probability for origin in one.origins)
    if not one.origins:
        is_probability = bool(((one.rows >= 0) & (one.rows <= 1)).all())
    return 0.5 if one.rest in ((), (1,)) and is_probability else 0.0


def _check_no_rows_of_bits(labels: Tensor, tensors: dict[Path, Tensor], has_scores: bool, place: str) -> None:
    """Refuse one-hot and multi-label rows, which look like token labels of 0 and 1.

    Raises:
        InputError: labels (n, k) of 0 and 1 where no output has scores for each of them.
    """
    if labels.ndim < 2 or has_scores or not tensors or not bool(((labels == 0) | (labels == 1)).all()):
        return
    if any(bool((labels.sum(axis) == 1).all()) for axis in (1, -1)):
        what, remedy = (
            "one-hot rows",
            "give class numbers, labels.argmax(1), in the loader or with split_batch=",
        )
    else:
        what, remedy = (
            "rows of several labels",
            "give one class number per sample, such as one of the attributes",
        )
    raise InputError(
        f"{place}: labels of shape {tuple(labels.shape)} hold only 0 and 1, and no output of the model has scores for each "
        f"of them: not one row of features per label, but {what}; {remedy}"
    )


# ---------------------------------------------------------------- the classifier


@dataclass(frozen=True)
class Made:
    """What a call of a layer returned.

    Attributes:
        width: number of its channels.
        rows: (n, width) the values, where there are no positions.
    """

    width: int
    rows: Tensor | None


def find_classifier(
    chosen: Candidate | None, made: dict[str, Made], wanted: str | None
) -> tuple[str | None, str | None]:
    """Return the call whose weight made the class scores, and otherwise why there is none.

    Args:
        chosen: the class scores.
        made: what each call of a layer returned.
        wanted: the option `classifier`.

    Raises:
        InputError: the caller named a layer that did not run.
    """
    if wanted is not None:
        if wanted not in made:
            raise InputError(
                f"classifier={wanted!r}: no such layer ran in the forward pass; {near_matches(wanted, list(made))}"
            )
        return wanted, None
    if chosen is None:
        return None, None
    maker = next(iter(chosen.makers), "")
    is_mixed = any(origin.is_mixed for origin in chosen.origins)
    if not is_mixed and len(chosen.makers) == 1 and _keeps_order(made[maker], chosen):
        return maker, None
    if not chosen.origins:
        what = "the class scores cannot be followed back to a layer"
    elif len(chosen.makers) > 1 and not is_mixed:
        what = f"the class scores are computed of several layers ({', '.join(sorted(chosen.makers)[:3])})"
    else:
        what = (
            "the class scores are computed by an operation that is no layer, such as a functional, cosine or fixed head; "
            "what it reads is not measured"
        )
    return None, f"{what}: no layer is the classifier and self_duality is undefined; classifier= names one"


def _keeps_order(made: Made, chosen: Candidate) -> bool:
    """Return whether class scores are what a layer returned, up to a rising function of each class or of each sample.

    A fixed head that is written as products and sums over features is no single operation, but it changes both orders.
    """
    width = chosen.rest[0] if chosen.rest else 1
    if made.width != width:
        return False
    scores = chosen.rows.reshape(-1, width)
    if made.rows is None or made.rows.shape != scores.shape:
        return True
    return any(_rises(made.rows.to(scores), scores, axis) for axis in ((0, 1) if width > 1 else (0,)))


def _rises(values: Tensor, scores: Tensor, axis: int) -> bool:
    steps = scores.gather(axis, values.argsort(axis)).diff(dim=axis)
    size = float(scores.abs().nan_to_num(posinf=0.0).max()) if scores.numel() else 0.0
    return bool((steps >= -100 * torch.finfo(scores.dtype).eps * size).all())
