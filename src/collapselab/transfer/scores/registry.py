"""Every score of transferability by name: what it computes, where it comes from, what it costs and needs.

The table of scores in the documentation is generated from here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

from collapselab.errors import InputError
from collapselab.features import measure
from collapselab.metrics import METRICS, Metric
from collapselab.names import check_names
from collapselab.transfer.scores.coding_rate import transrate
from collapselab.transfer.scores.evidence import logme
from collapselab.transfer.scores.h_score import h_score, shrunk_h_score
from collapselab.transfer.scores.leep import leep
from collapselab.transfer.scores.ncti import NCTIParts, ncti_parts

Need = Literal["features", "source probabilities"]
Direction = Literal["larger", "smaller", "neither"]


@dataclass(frozen=True)
class ScoreInputs:
    """What scores are computed from: the target data, seen through one pretrained model.

    Attributes:
        features: (n, p), in any container that `collapselab.measure` takes.
        labels: (n,), target labels.
        source_probabilities: (n, z), the softmax output of the source classifier; None without one.
    """

    features: Any
    labels: Any
    source_probabilities: Any = None

    @cached_property
    def ncti_parts(self) -> NCTIParts:
        return ncti_parts(self.features, self.labels)


@dataclass(frozen=True)
class Score:
    """One score of transferability, computed on the target data.

    Attributes:
        name: name in tables, files and options.
        function: returns the value for `ScoreInputs`, or raises InputError where it is undefined.
        formula: in the notation of the metric catalogue.
        source: paper.
        direction: which values predict the better transfer: `larger`, `smaller` or `neither`.
        cost: in words; n samples, p features, C classes.
        needs: which inputs it reads besides labels.
        note: what a reader must know to use it.
    """

    name: str
    function: Callable[[ScoreInputs], float]
    formula: str
    source: str
    direction: Direction
    cost: str
    needs: Need = "features"
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The value of one score.

    Attributes:
        value: None where it is undefined; `warnings` then says why.
        seconds: time that it took.
        warnings: everything unusual.
    """

    value: float | None
    seconds: float
    warnings: tuple[str, ...] = ()


_DECOMPOSITION = "eigenvectors of the smaller of F Fᵀ and Fᵀ F, O(n p min(n, p))"
_PRODUCT = "one covariance, O(n p²), and its eigenvectors, O(p³)"
_SUMS = "class means and traces, O(n p)"
_NCTI = "Wang et al. 2023, published code"
# How warnings end that do not concern the value.
_NO_EFFECT = "its value is not affected"
_PREDICTS: dict[str, Direction] = {"falls": "smaller", "rises": "larger", "neither": "neither"}


def _metric(name: str, inputs: ScoreInputs) -> float:
    """Return a metric of neural collapse of the target data; its warnings are raised as Python warnings.

    Raises:
        InputError: it is undefined.
    """
    measured = measure(inputs.features, inputs.labels, metrics=[name])
    value = measured.splits["train"][name]
    reasons = [text.removeprefix("train: ") for text in measured.warnings if not text.endswith(_NO_EFFECT)]
    if value is None:
        own = [text for text in reasons if name in text] or reasons or ["no value"]
        raise InputError(f"{name}: undefined on these features ({own[0]})")
    for text in reasons:
        warnings.warn(text, stacklevel=2)
    return float(value)


def _of_metric(metric: Metric, direction: Direction, note: str = "") -> Score:
    cost = _PRODUCT if "covariance" in metric.needs else _SUMS
    cost = "two passes over the features, O(n p C)" if "second pass" in metric.needs else cost
    return Score(
        metric.name, partial(_metric, metric.name), metric.formula, metric.source, direction, cost, note=note
    )


_TRACE_NOTE = "Depends on the unit of the features."
_NC1_METRICS = tuple(metric for metric in METRICS if metric.family.startswith("NC1"))
_NCC = next(metric for metric in METRICS if metric.name == "ncc_accuracy")

SCORES: tuple[Score, ...] = (
    Score(
        "logme", lambda inputs: logme(inputs.features, inputs.labels),
        "mean over classes of max over α, β of (1/n) ln N(y_c; 0, F Fᵀ/α + I/β)", "You et al. 2021, 2022", "larger",
        _DECOMPOSITION, note="y_c is the one-hot column of class c. Features are not centred. The unit of the features does not matter.",
    ),
    Score(
        "h_score", lambda inputs: h_score(inputs.features, inputs.labels), "Tr(Σ_T⁺ Σ_B), sample weighting",
        "Bao et al. 2019", "larger", _DECOMPOSITION,
        note="Equal to min(p, C−1) (1 − vci) with sample weighting. If Σ_T has rank n − 1, it is min(p, C−1) for almost any features.",
    ),
    Score(
        "shrunk_h_score", lambda inputs: shrunk_h_score(inputs.features, inputs.labels),
        "(1 − a) Tr(Σ_a⁻¹ Σ_B), Σ_a = (1 − a) Σ_T + a (Tr Σ_T / p) I, a by Ledoit and Wolf", "Ibrahim et al. 2021",
        "larger", _DECOMPOSITION, note="Does not saturate if n is at most p.",
    ),
    Score(
        "transrate", lambda inputs: transrate(inputs.features, inputs.labels),
        "R(Z) − Σ_c (n_c/n) R(Z_c), R(Z) = ½ ln det(I + Zᵀ Z / (n ε)), ε = 1e-4", "Huang et al. 2022", "larger",
        "O(n p min(n, p)) and a determinant per class",
        note="Z are the features minus their mean. Depends on the unit of the features and on p: compare models of one family.",
    ),
    Score(
        "leep", lambda inputs: leep(_probabilities(inputs), inputs.labels),
        "(1/n) Σ_i ln Σ_z P(y_i | z) θ(x_i)_z", "Nguyen et al. 2020, eq. 2", "larger", "O(n z), z source classes",
        "source probabilities", note="θ(x)_z is the probability that the source classifier gives to its class z.",
    ),
    Score(
        "ncti_seli", lambda inputs: inputs.ncti_parts.seli, "‖discriminant features‖_*", _NCTI, "larger", _DECOMPOSITION,
        note="One of three parts of NCTI, which compares several models: see `ncti`. Depends on the unit of the features.",
    ),
    Score(
        "ncti_ncc", lambda inputs: inputs.ncti_parts.ncc, "(1/n) Σ_i P(y_i | h_i), by linear discriminant analysis",
        _NCTI, "larger", "none beyond ncti_seli", note="One of three parts of NCTI.",
    ),
    Score(
        "ncti_vc", lambda inputs: inputs.ncti_parts.vc, "ln Σ_c ‖posteriors of class c‖_*", _NCTI, "smaller",
        "none beyond ncti_seli", note="One of three parts of NCTI. It is also small if all posteriors are nearly uniform.",
    ),
    _of_metric(_NCC, "larger", "Training accuracy of the nearest class mean: the samples that give the means are classified."),
    *(
        _of_metric(metric, _PREDICTS[metric.direction], _TRACE_NOTE if metric.name.endswith("_trace") else "")
        for metric in _NC1_METRICS
    ),
)  # fmt: skip

BY_NAME: dict[str, Score] = {score.name: score for score in SCORES}


def select(names: Iterable[str] | None) -> tuple[Score, ...]:
    """Return the scores of the given names, in the order of the registry; all without names.

    Raises:
        InputError: an unknown name, with near matches.
    """
    if names is None:
        return SCORES
    wanted = [names] if isinstance(names, str) else list(names)
    check_names(wanted, BY_NAME, "score", "All names: docs/scores.md")
    return tuple(score for score in SCORES if score.name in wanted)


def evaluate(inputs: ScoreInputs, names: Iterable[str] | None = None) -> dict[str, Evaluation]:
    """Return value, time and warnings of each score by name.

    Without `names`, these are all scores for which the inputs are there. A score that is undefined has no value, and a
    warning that says why.

    Raises:
        InputError: an unknown name.
    """
    chosen = select(names)
    if names is None and inputs.source_probabilities is None:
        chosen = tuple(score for score in chosen if score.needs != "source probabilities")
    return {score.name: _evaluated(score, inputs) for score in chosen}


def _evaluated(score: Score, inputs: ScoreInputs) -> Evaluation:
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            value, reason = score.function(inputs), None
        except InputError as error:
            value, reason = None, str(error)
    texts = [str(warning.message) for warning in raised] + ([reason] if reason else [])
    return Evaluation(value, time.perf_counter() - start, tuple(dict.fromkeys(texts)))


def _probabilities(inputs: ScoreInputs) -> Any:
    if inputs.source_probabilities is None:
        raise InputError(
            "leep: there are no source probabilities; give the softmax output of the source classifier"
        )
    return inputs.source_probabilities
