"""`rank`: which of several pretrained networks to take for a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from collapselab.choices import Standardize
from collapselab.distributed import local_device
from collapselab.errors import InputError
from collapselab.features.sources import ArraySource
from collapselab.names import check_names
from collapselab.passes import ProgressCallback
from collapselab.passes.stream import no_progress
from collapselab.ranking.cache import FeatureCache, default_folder
from collapselab.ranking.candidates import (
    Candidate,
    Network,
    NetworkOptions,
    StoredFeatures,
    module_candidate,
    open_candidates,
)
from collapselab.ranking.cases import NCTI_PARTS, Case, Options, score_candidates
from collapselab.ranking.extraction import FILES, Extraction
from collapselab.ranking.results import Number, RankedModel, Ranking, ScoreTrust
from collapselab.ranking.trust import advice, agreement, caveat, direction_of, goodness, mean, regret
from collapselab.text import listed
from collapselab.transfer import mean_log_odds
from collapselab.transfer.scores import BY_NAME

DEFAULT_SCORES = (
    "logme", "h_score", "shrunk_h_score", "transrate", "leep", "ncti", "ncc_accuracy", "normalized_within",
    "fuzziness", "vci", "vci_adjusted", "cdnv",
)  # fmt: skip
LIMIT = 10_000
_NUMBER = re.compile(r"\d[\d.e+-]*")


def rank(
    sources: Mapping[str, Any] | Iterable[str | Path],
    on: str | Path | Sequence[str | Path] = (),
    *,
    scores: Iterable[str] | None = None,
    by: str = "logme",
    probe: bool = False,
    stability: bool = True,
    limit: int = LIMIT,
    image_size: int | None = None,
    standardize: Standardize | None = None,
    pretrained: bool = False,
    checkpoint_key: str | None = None,
    preprocess: bool | None = None,
    layer: str | None = None,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    copies: Mapping[str, Path] | None = None,
    cache: bool | str | Path = True,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank pretrained networks by how well their features are predicted to transfer to data sets.

    Args:
        sources: what to rank. Paths and names, as the command line takes them: feature files and folders, run folders,
            checkpoints in run folders, networks by name with weights as `MODEL=FILE`. Or a mapping from names to these,
            to networks (`nn.Module`), or to features of the target data: `(features, labels)` or
            `((features, labels), (test_features, test_labels))`.
        on: data sets by name, path or hub id, each with a train and a test split; a `Path` is always a path. Not for
            features, which are those of one data set already.
        scores: names of scores (`collapselab.transfer.scores`) and `ncti`; default those of `DEFAULT_SCORES`; `leep` only
            for networks with class scores.
        by: the score that orders the models.
        probe: also measure the test accuracy of a linear probe (13 penalties). Features without test samples: on a fifth of
            the samples.
        stability: also compute every score on two halves of the samples, to see whether it orders the models alike.
        limit: maximum number of samples per split, drawn at random.
        image_size: height and width that images are resized to, for networks that take several.
        standardize: of images: `channel`, `pixel` or `none`; default as a run was trained, else `channel`. Mean and
            deviation are those of the target's training images.
        pretrained: whether networks by name have their published weights, those with a file of weights excepted.
        checkpoint_key: place of the weights in files of weights, such as `model_ema`.
        preprocess: whether inputs of networks by name are made by the network's own preprocessing, instead of
            `image_size` and `standardize`; default with published weights, and with networks that read text.
        layer: name of the weight layer whose input is taken; default the classifier (the last weight layer).
        batch_size: samples per forward pass.
        device: where networks run, such as `auto`, `cpu` or `cuda`; an `nn.Module` runs where it is.
        seed: for samples, halves, splits and initial weights.
        copies: paths of local copies of named data sets; default those in COLLAPSELAB_DATA.
        cache: whether to keep extracted features on disk, or the folder to keep them in. Networks of the user's own code
            and `nn.Module`s are always run.
        progress: called with what is done, how much, and how much in all (0 if unknown).

    Returns:
        A `Ranking`: `order`, `best`, `to_frame()`, `advice`.

    Raises:
        InputError: sources, data sets and options that are unknown or do not fit together, in one line.
        ImportError: an extra that is not installed.

    Example:
        >>> import torch
        >>> labels = torch.arange(90) % 3
        >>> noise = torch.randn(90, 5, generator=torch.manual_seed(0))
        >>> found = rank({"far": (noise, labels), "near": (noise + 3 * torch.eye(3, 5)[labels], labels)})
        >>> found.best
        'near'
    """
    names = _score_names(scores, by)
    if limit < 2:
        raise InputError(f"limit={limit}: give at least 2 samples")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give at least 1")
    options = Options(names, by, probe, stability, limit, seed)
    datasets = [_dataset(one) for one in ([on] if isinstance(on, str | Path) else on)]
    networks = NetworkOptions(seed, pretrained, checkpoint_key, preprocess, image_size, standardize)
    candidates = _candidates(sources, datasets, networks)
    _check_used(candidates, networks, layer)
    store = FeatureCache(default_folder() if isinstance(cache, bool) else Path(cache)) if cache else None
    report = progress or no_progress
    extraction = Extraction(limit, seed, layer, batch_size, local_device(device), copies, store, report)
    cases = {
        dataset: score_candidates(candidates, dataset, extraction, options, report)
        for dataset in datasets or [FILES]
    }
    notes = [candidate.note for candidate in candidates if isinstance(candidate, Network) and candidate.note]
    notes += extraction.notes
    if store is not None and store.problem is not None:
        notes.append(store.problem)
    return _ranking(cases, options, notes)


def _score_names(scores: Iterable[str] | None, by: str) -> tuple[str, ...]:
    """Return the names of scores to compute, `ncti` after its parts.

    Raises:
        InputError: an unknown name; a leading score that predicts nothing, or is not among the scores.
    """
    wanted = list(DEFAULT_SCORES if scores is None else [scores] if isinstance(scores, str) else scores)
    known = [*BY_NAME, "ncti"]
    check_names([*wanted, by], known, "score", "All names: docs/scores.md")
    if direction_of(by) == "neither":
        raise InputError(f"by={by}: predicts nothing by itself; order by another score, such as logme")
    wanted += [] if by in wanted else [by]
    parts = NCTI_PARTS if "ncti" in wanted else ()
    return tuple(name for name in (*BY_NAME, "ncti") if name in wanted or name in parts)


def _dataset(given: str | Path) -> str:
    """Return a data set as a string: that of a path is no name, even if the path looks like one."""
    return os.path.join(os.curdir, given) if isinstance(given, Path) else given


def _candidates(
    sources: Mapping[str, Any] | Iterable[str | Path],
    datasets: Sequence[str],
    options: NetworkOptions,
) -> list[Candidate]:
    """Open all sources.

    Raises:
        InputError: features with data sets, networks without any; a data set twice.
    """
    sources = [sources] if isinstance(sources, str | Path) else sources
    sources = sources if isinstance(sources, Mapping) else list(sources)
    given = sources.values() if isinstance(sources, Mapping) else sources
    if options.checkpoint_key is not None and not any(
        "=" in str(one) for one in given if isinstance(one, str | Path)
    ):
        raise InputError(
            f"checkpoint_key={options.checkpoint_key!r}: is a place in a file of weights; give NAME=FILE"
        )
    if isinstance(sources, Mapping):
        found = [_of_value(str(name), value, options) for name, value in sources.items()]
        if not found:
            open_candidates([])
    else:
        found = open_candidates(sources, options)
    features = [one.name for one in found if isinstance(one, StoredFeatures)]
    networks = [one.name for one in found if isinstance(one, Network)]
    if features and networks:
        raise InputError(
            f"{features[0]} holds features and {networks[0]} is a network; rank one kind at a time"
        )
    if features and datasets:
        raise InputError(f"{features[0]}: holds features of a data set already; leave out on={datasets[0]}")
    if networks and not datasets:
        raise InputError(
            f"{networks[0]} is a network; give the data to rank it on with on=, such as on=digits"
        )
    if len(set(datasets)) < len(datasets):
        raise InputError(f"on={datasets}: a data set is given twice; give each once")
    return found


def _check_used(found: Sequence[Candidate], options: NetworkOptions, layer: str | None) -> None:
    """Refuse options that would change nothing.

    Raises:
        InputError: with the first of them.
    """
    networks = [one for one in found if isinstance(one, Network)]
    of_networks = {"layer": layer, "image_size": options.image_size, "standardize": options.standardize}
    for name, value in of_networks.items():
        if value is not None and not networks:
            raise InputError(
                f"{name}={value}: is for networks, and {found[0].name} holds features; leave it out"
            )
    if options.pretrained and not any(one.is_published for one in networks):
        raise InputError(
            "pretrained= is for networks by name without a file of weights, and none is given; leave it out"
        )
    if options.preprocess and not any(one.form.own for one in networks):
        raise InputError("preprocess= is for networks by name, and none is given; leave it out")


def _of_value(name: str, value: Any, options: NetworkOptions) -> Candidate:
    if isinstance(value, nn.Module):
        return module_candidate(name, value, options)
    if isinstance(value, str | Path):
        found = open_candidates([value], options)[0]
        if isinstance(found, StoredFeatures):
            return replace(found, name=name)
        # The user's name, whatever the network is called otherwise: it is the key of the result.
        return replace(found, name=name, title="", note=found.note and f"{name}: {found.note}")
    if isinstance(value, tuple | list) and len(value) == 2:
        pairs = [value, None] if not isinstance(value[0], tuple | list) or len(value[0]) != 2 else list(value)
        train, test = (None if pair is None else ArraySource(*pair, where=name) for pair in pairs)
        assert train is not None
        return StoredFeatures(name, train, test)
    raise InputError(
        f"{name}: a {type(value).__name__} cannot be ranked; give a path, a network, or a pair (features, labels)"
    )


# ---------------------------------------------------------------- the result


def _ranking(cases: Mapping[str, list[Case]], options: Options, notes: Sequence[str]) -> Ranking:
    rows = {dataset: _rows(found, dataset, options.by) for dataset, found in cases.items()}
    ranks: dict[str, list[int]] = {}
    for row in (row for found in rows.values() for row in found):
        ranks.setdefault(row.model, []).append(row.rank)
    every = tuple(row for found in rows.values() for row in found)
    present = [name for name in ("ncti", *BY_NAME) if any(name in row.scores for row in every)]
    order = [options.by, *(name for name in present if name != options.by)]
    trusts = {name: _trust(name, cases, every) for name in order if name in present}
    sizes = [found[0].num_samples for found in rows.values()]
    return Ranking(
        options.by,
        tuple(sorted(ranks, key=lambda model: float(np.mean(ranks[model])))),
        every,
        trusts,
        advice(trusts, len(ranks), sizes, is_measured=options.probe)
        if options.stability or options.probe
        else (),
        _log_odds(every),
        (
            *notes,
            *_merged(warning for found in cases.values() for case in found for warning in case.warnings),
        ),
    )


def _merged(warnings: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield warnings that differ only in their numbers once, with the models that they are about."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for model, text in warnings:
        groups.setdefault(_NUMBER.sub("#", text), []).append((model, text))
    for found in groups.values():
        models = list(dict.fromkeys(model for model, _ in found))
        yield f"{models[0]}, {found[0][1]}" + (f". Similar: {listed(models[1:], 2)}" if models[1:] else "")


def _rows(cases: Sequence[Case], dataset: str, by: str) -> list[RankedModel]:
    """Return the rows of a data set, the best model first; equal values have equal ranks."""
    keys = [goodness(by, case.values().get(by)) for case in cases]
    rows = [
        RankedModel(
            model=case.model,
            dataset=dataset,
            rank=1 + sum(other > key for other in keys),
            num_samples=case.shape[0],
            dim=case.shape[1],
            num_classes=case.shape[2],
            scores=case.values(),
            seconds={name: round(found.seconds, 4) for name, found in case.scored[0].items()},
            accuracy=case.accuracy,
            num_test=case.num_test,
            from_cache=case.from_cache,
        )
        for case, key in zip(cases, keys, strict=True)
    ]
    return sorted(rows, key=lambda row: row.rank)


def _trust(name: str, cases: Mapping[str, list[Case]], rows: Sequence[RankedModel]) -> ScoreTrust:
    stabilities: list[Number | None] = []
    correlations: list[Number | None] = []
    regrets: list[Number | None] = []
    for found in cases.values():
        values = {case.model: case.values().get(name) for case in found}
        accuracies = {case.model: case.accuracy for case in found}
        if len(found[0].scored) == 3:
            first, second = ({case.model: case.values(half).get(name) for case in found} for half in (1, 2))
            stabilities.append(agreement(name, first, second, same_score=True))
        if direction_of(name) != "neither":
            correlations.append(agreement(name, values, accuracies, same_score=False))
        regrets.append(regret(name, values, accuracies))
    seconds = [row.seconds[name] for row in rows if name in row.seconds]
    return ScoreTrust(
        direction_of(name),
        mean(stabilities),
        mean(correlations),
        mean(regrets),
        float(np.mean(seconds)),
        caveat(name, rows),
    )


def _log_odds(rows: Sequence[RankedModel]) -> dict[str, Number]:
    """Return the mean log odds of the measured accuracies of each model, clipped to half a test sample from 0 and 1."""
    by_model: dict[str, dict[str, RankedModel]] = {}
    for row in rows:
        if row.accuracy is not None:
            by_model.setdefault(row.model, {})[row.dataset] = row
    return {
        model: mean_log_odds(
            {dataset: row.accuracy or 0.0 for dataset, row in found.items()},
            num_samples={dataset: row.num_test or 1 for dataset, row in found.items()},
        )
        for model, found in by_model.items()
    }
