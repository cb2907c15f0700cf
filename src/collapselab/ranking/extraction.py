"""Features of the target data: read from files, or extracted from a network once and then found in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from collapselab import __version__
from collapselab.checks import check_finite
from collapselab.data import AnySplit, LabelledData, open_data_set
from collapselab.data.dataset import DataSet
from collapselab.data.memory import fingerprint, load_splits
from collapselab.data.recipe import DataSpec, Sample
from collapselab.data.sampling import sample_rows
from collapselab.data.stratified import stratified_rows
from collapselab.data.transformed import Tokens, TransformedImages, hashed
from collapselab.digests import digest
from collapselab.errors import InputError
from collapselab.models.preprocessing import TextPreprocessing
from collapselab.names import check_names
from collapselab.passes import ProgressCallback
from collapselab.probes import capture_inputs, weight_layers
from collapselab.probes.evaluating import evaluating
from collapselab.probes.rising import is_rising
from collapselab.ranking.cache import FeatureCache
from collapselab.ranking.candidates import Candidate, InputForm, Network, whole
from collapselab.training.building import classifier_name
from collapselab.user_code import user_code

Labels = npt.NDArray[Any]
# Of a data set in feature files, which do not name it.
FILES = "feature files"


@dataclass(frozen=True)
class Features:
    """Features of one split.

    Attributes:
        features: (n, p).
        labels: (n,).
        probabilities: (n, z), the softmax of the network's outputs; None where it has no class scores.
    """

    features: Tensor
    labels: Labels
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class Target:
    """A data set seen through one candidate.

    Attributes:
        train, test: test is None where it is not needed or does not exist.
        from_cache: whether all features were found in the cache.
        note: what is unusual about the features; empty without.
    """

    train: Features
    test: Features | None
    from_cache: bool = False
    note: str = ""


@dataclass(frozen=True)
class _Samples:
    """A data set in the form that a network takes.

    Attributes:
        train, test: read batch by batch.
        num_classes: of the data set.
        digest: of all samples.
    """

    train: AnySplit | LabelledData
    test: AnySplit | LabelledData
    num_classes: int
    digest: str


@dataclass
class Extraction:
    """Reads or extracts features, one candidate and data set at a time.

    Attributes:
        limit: largest number of samples of each split.
        seed: for the choice of these.
        layer: whose input is taken; None for the classifier, the layer that makes the class scores.
        batch_size: samples per forward pass.
        device: where networks run.
        copies: paths of local copies of named data sets.
        cache: None to compute everything.
        progress: called with what is done, samples done, and samples in all.
        notes: on the splits of the data sets that were read.
    """

    limit: int
    seed: int
    layer: str | None
    batch_size: int
    device: torch.device
    copies: Mapping[str, Path] | None
    cache: FeatureCache | None
    progress: ProgressCallback
    notes: dict[str, None] = field(default_factory=dict, init=False)
    _last: tuple[Any, _Samples] | None = field(default=None, init=False, repr=False)

    def target(self, candidate: Candidate, dataset: str, *, with_test: bool) -> Target:
        """Return a data set as a candidate sees it.

        Raises:
            InputError: data or a network that cannot be read or do not fit together.
        """
        if isinstance(candidate, Network):
            return self._extracted(candidate, dataset, with_test=with_test)
        train = Features(*whole(candidate.train))
        use_test = with_test and candidate.test is not None
        return Target(train, Features(*whole(candidate.test)) if use_test and candidate.test else None)

    def _extracted(self, network: Network, dataset: str, *, with_test: bool) -> Target:
        data = self._samples(dataset, network.form)
        shape, given = network.form.shape, data.train.input_shape
        if shape is not None and given != shape:
            raise InputError(
                f"{network.name}: its network takes samples of shape {shape}, but those of {dataset} have {given}; rank it "
                "on other data"
            )
        parts = {"train": data.train, "test": data.test} if with_test else {"train": data.train}
        model: nn.Module | None = None
        weights = ""
        if network.is_published and network.made_by is not None and self.cache is not None:
            model = network.build(data.num_classes, given)
            weights = hashed(model.state_dict().values())
        described = {split: self._made_by(network, data.digest, weights, split) for split in parts}
        known = {split: self._cached(description) for split, description in described.items()}
        note, from_cache = "", all(found is not None for found in known.values())
        for split, found in known.items():
            if found is None:
                model = network.build(data.num_classes, given) if model is None else model
                known[split], note = self._pass(network, model, parts[split], f"{dataset}, {split}")
                # What is noted is said every time, so it is found out every time.
                if (description := described[split]) is not None and self.cache is not None and not note:
                    self.cache.write(description, known[split] or {})
        complete = {split: _features(tensors or {}, parts[split]) for split, tensors in known.items()}
        return Target(complete["train"], complete.get("test"), from_cache, note)

    def _cached(self, description: Mapping[str, Any] | None) -> dict[str, Tensor] | None:
        return None if description is None or self.cache is None else self.cache.read(description)

    def _made_by(self, network: Network, samples: str, weights: str, split: str) -> dict[str, Any] | None:
        """Return all that decides the features; None where it is not known.

        Args:
            network: that makes them.
            samples: digest of these.
            weights: digest of those that were loaded; empty where `network.made_by` decides them.
            split: of the samples.
        """
        if network.made_by is None:
            return None
        return {
            "model": network.name,
            **network.made_by,
            "samples": samples,
            "loaded weights": weights,
            "split": split,
            "layer": self.layer or "the one that makes the class scores",
            "batch_size": self.batch_size,  # decides the last digits, as device and versions do
            "device": self.device.type,
            "torch": torch.__version__,
            "collapselab": __version__,
        }

    def _samples(self, dataset: str, form: InputForm) -> _Samples:
        """Return the samples in the form that a network takes; those of the last form are kept."""
        key = (dataset, form.channels, form.image_size, form.standardize, form.own)
        if self._last is None or self._last[0] != key:
            self._last = None  # two large data sets need not fit at once
            self.progress(f"reading {dataset}", 0, 0)
            self._last = (
                key,
                self._scaled(dataset, form) if form.own is None else self._preprocessed(dataset, form),
            )
        return self._last[1]

    def _scaled(self, dataset: str, form: InputForm) -> _Samples:
        """Return samples resized and standardised."""
        found = self._open(dataset)
        train, test = (self._sample(found.labels(split)) for split in ("train", "test"))
        data = load_splits(
            DataSpec(name=dataset, train=train, test=test, standardize=form.standardize),
            self.seed,
            channels=form.channels,
            image_size=form.image_size,
            copies=self.copies,
        )
        return _Samples(data.train, data.test, data.num_classes, fingerprint(data))

    def _preprocessed(self, dataset: str, form: InputForm) -> _Samples:
        """Return the same samples, made by the network's own preprocessing."""
        found, own = self._open(dataset), form.own
        assert own is not None
        is_text = isinstance(own, TextPreprocessing)
        tokenize, transform = (own.tokenize, None) if is_text else (None, own.transform)
        parts: dict[str, LabelledData] = {}
        digests: list[str] = []
        for split in ("train", "test"):
            labels = found.labels(split)
            rows = sample_rows(labels, self._sample(labels), self.seed, f"{dataset}, {split}")
            opened = found.open(
                split, rows=rows, reference=parts.get("train"), transform=transform, tokenize=tokenize
            )
            assert isinstance(opened.inputs, TransformedImages | Tokens), "others take neither of the two"
            parts[split] = opened.streamed()
            digests.append(f"{opened.inputs.digest()} {opened.labels.tolist()}")
        return _Samples(parts["train"], parts["test"], found.num_classes, digest(*digests))

    def _open(self, dataset: str) -> DataSet:
        found = open_data_set(dataset, self.copies)
        self.notes |= dict.fromkeys(found.notes)
        return found

    def _sample(self, labels: Labels) -> Sample:
        few = len(labels) <= self.limit
        return Sample() if few else Sample(method="stratified", count=self.limit)

    def _pass(
        self, network: Network, model: nn.Module, split: AnySplit | LabelledData, what: str
    ) -> tuple[dict[str, Tensor], str]:
        """Run a network over a split, and return what is kept of it, with a note if it was not clear which layer to take.

        Raises:
            InputError: it fails, has no such layer, or the layer does not run once for every sample.
        """
        layers, name = weight_layers(model), network.name
        check_names([] if self.layer is None else [self.layer], layers, f"layer of {name}")
        caught: list[Tensor] = []
        outputs: list[Any] = []
        device, note = self.device, ""
        if network.is_shared:
            device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        model.to(device)
        with evaluating(model):
            batches = iter(split.batches(self.batch_size))
            first = next(batches)
            with user_code(f"{name} on {what}", "check the model"):
                layer = self.layer or _classifier(model, layers, first[0], device)
            if layer is None:
                layer = classifier_name(model)
                note = (
                    f"no layer alone makes its class scores; features are what {layer} reads, the weight layer registered "
                    "last; give layer= with another"
                )
            receive = {layer: layers[layer]}
            with capture_inputs(receive, lambda _, rows: caught.append(rows.float().cpu())):
                for number, (inputs, _) in enumerate(chain([first], batches), start=1):
                    with user_code(f"{name} on {what}", "check the model"):
                        outputs.append(_scores(_called(model, inputs, device)))
                    self.progress(f"{name} on {what}", min(number * self.batch_size, len(split)), len(split))
        features = torch.cat(caught) if caught else torch.empty(0, 0)
        if len(features) != len(split):
            raise InputError(
                f"{name}: layer {layer} does not run once for every sample; give layer= with another"
            )
        check_finite(features, f"{name} on {what}")
        return {"features": features} | _probabilities(outputs), note


def _classifier(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Any, device: torch.device
) -> str | None:
    """Return the weight layer that ran last of those that make the class scores of a batch; None without one."""
    made: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 2:
            made[name] = output.clone()  # later operations may change it in place

    with ExitStack() as undo:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(lambda _layer, _given, output, name=name: keep(name, output))
            undo.callback(hook.remove)
        scores = _scores(_called(model, inputs, device))
    if not isinstance(scores, Tensor):
        return None
    alike = (name for name, output in made.items() if output.shape == scores.shape)
    return next(
        (name for name in reversed([*alike]) if is_rising(made[name], scores, may_differ=False)), None
    )


def _called(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return model(**{name: value.to(device) for name, value in inputs.items()})
    return model(inputs.to(device))


def _scores(output: Any) -> Any:
    """Return the class scores of what a network of transformers returns; other outputs as they are."""
    return getattr(output, "logits", output)


def _probabilities(outputs: list[Any]) -> dict[str, Tensor]:
    """Return the softmax of class scores (n, z), if the network returns these alone."""
    if not all(isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point() for part in outputs):
        return {}
    scores = torch.cat([part.float().cpu() for part in outputs])
    is_known = scores.shape[1] > 1 and bool(scores.isfinite().all())
    return {"probabilities": scores.softmax(dim=1)} if is_known else {}


def _features(tensors: Mapping[str, Tensor], split: AnySplit | LabelledData) -> Features:
    return Features(tensors["features"], split.labels.cpu().numpy(), tensors.get("probabilities"))


def limited(target: Target, limit: int, seed: int) -> Target:
    """Return features of files with at most `limit` samples of each split; classes keep their shares."""
    test = None if target.test is None else _drawn(target.test, limit, seed)
    return replace(target, train=_drawn(target.train, limit, seed), test=test)


def _drawn(features: Features, limit: int, seed: int) -> Features:
    count = len(features.labels)
    if count <= limit:
        return features
    rows = stratified_rows(features.labels, limit, seed, "features")
    return Features(features.features[torch.from_numpy(rows)], features.labels[rows])
