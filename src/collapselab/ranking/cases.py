"""Scores of every model on one data set, and the measured accuracy after transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from collapselab.errors import InputError
from collapselab.passes import ProgressCallback
from collapselab.ranking.candidates import Candidate, Network, StoredFeatures
from collapselab.ranking.extraction import Extraction, Features, Labels, Target, limited
from collapselab.transfer import linear_probe
from collapselab.transfer.samples import Samples, hold_out, read_samples
from collapselab.transfer.scores import BY_NAME, Evaluation, NCTIParts, ScoreInputs, evaluate, ncti

NCTI_PARTS = ("ncti_seli", "ncti_ncc", "ncti_vc")
# One per decade: the rest of the grid changes accuracies by less than their error.
_PENALTIES = 13
_TEST_SHARE = 0.2

Scored = dict[str, Evaluation]


@dataclass
class Case:
    """One model on one data set: scores on all samples and on two halves of them, and the measured accuracy."""

    model: str
    shape: tuple[int, int, int]
    scored: list[Scored]
    accuracy: float | None = None
    num_test: int | None = None
    from_cache: bool = False
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def values(self, which: int = 0) -> dict[str, float | None]:
        return {name: found.value for name, found in self.scored[which].items()}


@dataclass(frozen=True)
class Options:
    """What is computed of every model.

    Attributes:
        names: of scores in the registry, and `ncti`.
        by: the leading score.
        probe: whether the accuracy after transfer is measured.
        stability: whether scores are computed on two halves too.
        limit: largest number of samples of features in files.
        seed: for samples, halves and splits.
    """

    names: tuple[str, ...]
    by: str
    probe: bool
    stability: bool
    limit: int
    seed: int


def score_candidates(
    candidates: Sequence[Candidate],
    dataset: str,
    extraction: Extraction,
    options: Options,
    report: ProgressCallback,
) -> list[Case]:
    """Score every model on a data set, one after the other: features of one are in memory at a time.

    Raises:
        InputError: as `Extraction.target`; labels of features that differ; no model has a value of the leading score.
    """
    cases: list[Case] = []
    classes: dict[int, int] | None = None
    for number, candidate in enumerate(candidates, start=1):
        target = extraction.target(candidate, dataset, with_test=options.probe)
        if isinstance(candidate, StoredFeatures):
            found = _sizes(target.train.labels)
            if classes is not None and found != classes:
                raise InputError(
                    f"{candidate.name}: its labels differ from those of {candidates[0].name}; give features of the same "
                    "samples"
                )
            classes, target = found, limited(target, options.limit, options.seed)
        report("scoring", number - 1, len(candidates))
        cases.append(_case(_title(candidate), target, options, report))
        report("scoring", number, len(candidates))
    if "ncti" in options.names:
        for which in range(len(cases[0].scored)):
            _add_ncti(cases, which)
    if all(case.values().get(options.by) is None for case in cases):
        raise InputError(
            f"by={options.by}: no model has a value of it on {dataset}{_why(options.by, cases)}; order by another score"
        )
    return cases


def _why(by: str, cases: Sequence[Case]) -> str:
    """Return in brackets why a score is undefined; empty where it is not known."""
    if by == "ncti":
        return " (it compares two models or more)"
    if by not in cases[0].scored[0]:
        return f" (it needs {BY_NAME[by].needs})"
    said = (
        text.removeprefix(f"{by}: ")
        for case in cases
        for _, text in case.warnings
        if text.startswith(f"{by}: ")
    )
    return next((f" ({text})" for text in said), "")


def _sizes(labels: Labels) -> dict[int, int]:
    """Return the number of samples of each label."""
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _title(candidate: Candidate) -> str:
    return (candidate.title if isinstance(candidate, Network) else "") or candidate.name


def _case(name: str, target: Target, options: Options, report: ProgressCallback) -> Case:
    samples = read_samples(target.train.features, target.train.labels, name)
    wanted = _possible(options.names, target.train)
    scored = [_scored(samples, target.train.probabilities, wanted)]
    case = Case(name, (*samples.features.shape, samples.num_classes), scored, from_cache=target.from_cache)
    for score, found in scored[0].items():
        case.warnings += [(name, f"{score}: {text.removeprefix(f'{score}: ')}") for text in found.warnings]
    case.warnings += [(name, target.note)] if target.note else []
    largest = max(_sizes(samples.labels).values())
    if options.stability and largest > 1:
        case.scored += _halves(samples, target.train, wanted, options.seed, name)
    if options.probe and largest < (needed := 3 if target.test is None else 2):
        raise InputError(
            f"{name}: every class has {'one sample' if largest == 1 else 'at most two samples'}, but a probe needs a class of "
            f"{needed}: to be fitted, to choose its penalty{' and to be tested' if needed == 3 else ''}; give more samples, or "
            "do not probe"
        )
    if options.probe:
        case.accuracy, case.num_test, notes = _probed(samples, target, options.seed, name, report)
        case.warnings += notes
    return case


def _possible(names: Sequence[str], features: Features) -> list[str]:
    known = (name for name in names if name in BY_NAME)
    return [name for name in known if BY_NAME[name].needs == "features" or features.probabilities is not None]


def _scored(samples: Samples, probabilities: Any, names: Sequence[str]) -> Scored:
    return evaluate(ScoreInputs(samples.features, samples.labels, probabilities), names)


def _halves(
    samples: Samples, features: Features, names: Sequence[str], seed: int, where: str
) -> Iterator[Scored]:
    """Yield the scores on two halves of every class."""
    rows = Samples(np.arange(len(samples.labels), dtype=np.float64)[:, None], samples.labels, samples.classes)
    for half in hold_out(rows, 0.5, seed, where):
        chosen = np.zeros(len(samples.labels), dtype=np.bool_)
        chosen[half.features[:, 0].astype(np.int64)] = True
        probabilities = (
            None if features.probabilities is None else features.probabilities[torch.from_numpy(chosen)]
        )
        yield _scored(samples.rows(chosen), probabilities, names)


def _probed(
    samples: Samples, target: Target, seed: int, name: str, report: ProgressCallback
) -> tuple[float, int, list[tuple[str, str]]]:
    """Return the test accuracy of a linear probe, the number of test samples, and notes."""
    notes: list[tuple[str, str]] = []
    if target.test is None:
        kept, held = hold_out(samples, _TEST_SHARE, seed, name)
        train, test = (kept.features, kept.labels), (held.features, held.labels)
        notes.append(
            (name, "no test features: the probe is tested on a fifth of the samples, which is held out")
        )
    else:
        train = target.train.features, target.train.labels
        known = np.isin(target.test.labels, target.train.labels)
        test = target.test.features[torch.from_numpy(known)], target.test.labels[known]
        if not known.all():
            notes.append((name, "test samples of classes that train lacks are left out; raise limit="))
    found = linear_probe(
        train, test, num_penalties=_PENALTIES, seed=seed, progress=partial(report, f"linear probe of {name}")
    )
    return found.accuracy, len(test[1]), [*notes, *((name, f"probe: {text}") for text in found.warnings)]


def _add_ncti(cases: Sequence[Case], which: int) -> None:
    """Add NCTI, which compares the models, where its parts are known."""
    parts = {}
    for case in cases:
        values = [case.values(which)[name] for name in NCTI_PARTS]
        if None not in values:
            parts[case.model] = NCTIParts(*(float(value) for value in values if value is not None))
    combined = ncti(parts) if len(parts) > 1 else {}
    for case in cases:
        scored = case.scored[which]
        seconds = sum(scored[name].seconds for name in NCTI_PARTS)
        case.scored[which] = scored | {"ncti": Evaluation(combined.get(case.model), seconds)}
