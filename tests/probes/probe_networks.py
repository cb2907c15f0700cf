"""Small networks, and what `profile` is compared with: features taken out by hooks of one's own, all kept at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from collapselab import measure
from collapselab.metrics import BY_NAME
from collapselab.probes import LayerProfile
from collapselab.statistics import Weighting

# In float64 the sums of a profile and of `measure` differ by rounding times condition numbers of at most some 1e5.
EXACT = 1e-9

# What only a weight can tell; `measure` takes a weight for the classifier alone.
OF_WEIGHT = {name for name, metric in BY_NAME.items() if metric.needs & {"weight", "classifier"}}


class TinyConvNet(nn.Module):
    """Convolutions of every kind: plain, grouped, depthwise, transposed, transposed in groups; in-place ReLU between."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(4, 6, (1, 2), groups=2)
        self.depthwise = nn.Conv2d(6, 12, 2, groups=6)
        self.transposed = nn.ConvTranspose2d(12, 4, 2)
        self.transposed_grouped = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.classifier = nn.Linear(6 * 4 * 3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.plain(images)))
        for layer in (self.grouped, self.depthwise, self.transposed, self.transposed_grouped):
            maps = self.relu(layer(maps))
        return self.classifier(maps.flatten(1))


def seeded(
    network: type[nn.Module] | Any, *args: Any, dtype: torch.dtype = torch.float64, **kwargs: Any
) -> Any:
    """A network with weights from seed 0; the state of the generator stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network(*args, **kwargs).to(dtype)


def draw(*shape: int, labels: Tensor, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Gaussian inputs (n, *shape) with a mean for each label."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(
        int(labels.max()) + 1, *shape, generator=torch.Generator().manual_seed(99), dtype=dtype
    )
    return means[labels] + torch.randn(len(labels), *shape, generator=generator, dtype=dtype)


def uneven(*counts: int, seed: int = 0) -> Tensor:
    """Labels with these class sizes, shuffled."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def batches(inputs: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def read_slowly(
    model: nn.Module, loader: Iterable[Any], name: str, *, call: int = 1
) -> tuple[Tensor, Tensor]:
    """What the module `name` reads in its `call`-th call, all batches in one tensor, and the class scores."""
    caught: list[Tensor] = []
    features, scores = [], []
    module = dict(model.named_modules())[name]
    handle = module.register_forward_pre_hook(
        lambda _m, args, kwargs: caught.append((*args, *kwargs.values())[0].clone()), with_kwargs=True
    )
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                caught.clear()
                if isinstance(batch, Mapping):
                    output = model(**{key: value for key, value in batch.items() if key != "labels"})
                else:
                    output = model(batch[0])
                features.append(caught[call - 1])
                scores.append(output if isinstance(output, Tensor) else output["logits"])
    finally:
        handle.remove()
        for m, training in modes.items():
            m.training = training
    return torch.cat(features), torch.cat(scores)


def reduce_slowly(features: Tensor, how: str, *, is_map: bool, mask: Tensor | None = None) -> Tensor:
    """(n, …) to (n, p), as the definitions say."""
    if features.ndim == 2 or how == "flatten" or (is_map and how != "gap"):
        return features.reshape(len(features), -1)
    if is_map:
        return torch.stack([one.reshape(len(one), -1).mean(1) for one in features])
    if how.startswith("token"):
        return features[:, int(how.partition(":")[2] or 0)]
    if mask is None or how == "gap":
        return features.mean(1)
    return torch.stack([one[kept.bool()].mean(0) for one, kept in zip(features, mask, strict=True)])


def measured(
    train: tuple[Tensor, Tensor, Tensor],
    test: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    weight: Tensor | None = None,
    weighting: Weighting = "balanced",
) -> dict[str, dict[str, Any]]:
    """`measure` of (features, labels, decisions) in float64 products: by split, each metric."""
    return measure(
        train[0],
        train[1],
        predictions=train[2],
        weight=weight,
        test=test,
        weighting=weighting,
        metrics=[name for name, metric in BY_NAME.items() if "k-means" not in metric.needs],
        product_dtype=torch.float64,
    ).splits


def assert_equals_measure(
    layer: LayerProfile, expected: dict[str, dict[str, Any]], *, rel: float = EXACT, skip: Sequence[str] = ()
) -> None:
    """Every number of a layer, null for null; without a weight only those that need none.

    Args:
        rel: relative, and absolute for quantities that are near zero.
        skip: metrics left out.
    """
    assert set(layer.splits) == set(expected)
    for split, values in expected.items():
        compared = 0
        for name, wanted in values.items():
            if name in skip:
                continue
            found = layer.splits[split].metrics[name]
            place = (layer.name, split, name, found, wanted)
            assert (found is None) == (wanted is None), place
            compared += 1
            if wanted is not None:
                assert found is not None
                assert abs(found - wanted) <= rel * max(abs(wanted), 1.0), place
        assert compared > 15


def assert_numbers(layer: LayerProfile) -> None:
    """Every metric is finite or null, and within its range."""
    for split in layer.splits.values():
        for name, value in split.metrics.items():
            if value is None:
                continue
            metric = BY_NAME[name]
            assert math.isfinite(value), (layer.name, name)
            assert metric.low is None or value >= metric.low, (layer.name, name, value)
            assert metric.high is None or value <= metric.high, (layer.name, name, value)
