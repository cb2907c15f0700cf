"""Find the layer that made the class scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from collapselab.errors import InputError
from collapselab.names import near_matches
from collapselab.probes.candidates import Candidate, module_of
from collapselab.probes.rising import is_rising


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
    maker = _only_maker(chosen, made)
    is_mixed = any(origin.is_mixed for origin in chosen.origins)
    if not is_mixed and maker is not None and _is_made_by(made[maker], chosen):
        return maker, None
    if not chosen.origins:
        what = "the class scores cannot be followed back to a layer"
    elif maker is not None and not is_mixed and any(origin.is_rescaled for origin in chosen.origins):
        what = f"the class scores are those of {maker} with another scale for each class"
    elif len(chosen.makers) > 1 and not is_mixed:
        what = f"the class scores are computed of several layers ({', '.join(sorted(chosen.makers)[:3])})"
    else:
        what = (
            "the class scores are computed by an operation that is no layer, such as a functional, cosine or fixed head; "
            "what it reads is not measured"
        )
    return None, f"{what}: no layer is the classifier and self_duality is undefined; classifier= names one"


def _only_maker(chosen: Candidate, made: dict[str, Made]) -> str | None:
    """Return the one layer that class scores are made of: the first call of those that returned the same."""
    calls = sorted(chosen.makers, key=list(made).index)
    if len(calls) == 1:
        return calls[0]
    if len({module_of(call) for call in calls}) != 1:
        return None
    first, *others = (made[call].rows for call in calls)
    is_same = first is not None and all(other is not None and torch.equal(first, other) for other in others)
    return calls[0] if is_same else None


def _is_made_by(made: Made, chosen: Candidate) -> bool:
    """Return whether class scores are what a layer returned, up to one rising function and offsets."""
    width = chosen.rest[0] if chosen.rest else 1
    if made.width != width:
        return False
    is_rescaled = any(origin.is_rescaled for origin in chosen.origins)
    scores = chosen.rows.reshape(-1, width)
    if made.rows is None or made.rows.shape != scores.shape:
        return not is_rescaled
    return is_rising(made.rows.to(scores), scores, may_differ=is_rescaled)
