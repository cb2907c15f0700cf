"""What figures and charts of an experiment read from its rows: panels, means over seeds, names, logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

_NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "stl10": "STL-10",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "densenet201": "DenseNet-201",
    "vgg11_bn": "VGG-11 (BN)",
    "mlp": "MLP",
    "convnet": "plain network",
    "network": "past zero error",
    "one_hot_decisions": "one-hot decisions",
    "memoriser_weak": "memoriser, one-hot",
    "super_class": "two super-classes",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DECADES_FOR_LOG = 1.0
_STEPS_IN_DECADE = (
    tuple(number / 10 for number in range(10, 100)),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
# Of a logarithmic axis, between 0 and the smallest positive value: two numbers must have room side by side.
_SHARE_OF_ZERO = 0.1


def shown(name: object) -> str:
    """A data set, network or construction as a reader knows it; unknown ones as they are, without underscores."""
    return _NAMES.get(str(name), str(name).replace("_", " "))


def kept(rows: pd.DataFrame, where: pd.Series | np.ndarray) -> pd.DataFrame:
    """The rows for which a condition holds."""
    return pd.DataFrame(rows[where])


def panels(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and rows of every combination of data set and network, in the order in which they were run."""
    keys = [name for name in ("dataset", "model") if name in rows]
    if not keys:
        yield "", rows
        return
    for values, part in rows.groupby(keys, sort=False):
        named = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        yield " on ".join(shown(named[name]) for name in ("model", "dataset") if name in named), part


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """What the classifier reads at the last step of every run: one row per job and seed."""
    last = kept(rows, rows["is_last"].astype(bool))
    return last.loc[list(last.groupby(["job", "seed"], sort=False)["step"].idxmax())]


def best_transfer(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per checkpoint, seed and kind of transfer: the best accuracy over all learning rates (Hui sec. 4.2)."""
    keys = ["kind", "dataset", "model", "seed", "pretrain_step"]
    transfer = kept(rows, rows["kind"] != "pretraining")
    columns = {"train_variance": "first", "accuracy": "max"}
    return transfer.groupby(keys, sort=False, as_index=False).agg(columns)


def over_seeds(rows: pd.DataFrame, by: str | Sequence[str], value: str, *, geometric: bool) -> pd.DataFrame:
    """Mean and range of a column over seeds.

    Args:
        rows: with a column `seed`, one row per seed and value of `by`.
        by: the columns that tell one mean from the next.
        value: what is averaged; seeds where it is undefined are left out of mean and range.
        geometric: whether the mean is the geometric one, which is 0 where any value is.

    Returns:
        One row per value of `by`, in their order: these, `mean`, `low`, `high` (NaN where no seed has a value) and
        `seeds`, how many have one.
    """
    keys = [by] if isinstance(by, str) else list(by)
    out = []
    for key, group in rows.groupby(keys, sort=True):
        values = defined(group[value])
        row = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        mean = low = high = math.nan
        if len(values):
            low, high = float(values.min()), float(values.max())
            if not geometric:
                mean = float(values.mean())
            else:
                mean = float(np.exp(np.log(values).mean())) if low > 0 else 0.0
            # Rounding must not put the mean of equal values outside their range.
            mean = min(max(mean, low), high)
        out.append(row | {"mean": mean, "low": low, "high": high, "seeds": len(values)})
    return pd.DataFrame(out, columns=[*keys, "mean", "low", "high", "seeds"])


def defined(values: Iterable[int | float]) -> np.ndarray:
    """The finite ones."""
    array = np.asarray(list(values), dtype=float)
    return array[np.isfinite(array)]


def said_seeds(rows: pd.DataFrame) -> str:
    """What lines and bands are, in words."""
    count = rows["seed"].nunique()
    return "one seed" if count == 1 else f"mean and range of {count} seeds"


# ---------------------------------------------------------------- layers


def hidden_layers(rows: pd.DataFrame) -> list[tuple[int, str]]:
    """Depth and name of what each hidden layer puts out; depth 0 reads the input and is none."""
    depths = sorted(int(depth) for depth in rows["depth"].unique() if depth > 0)
    names = {depth: f"hidden layer {depth}" for depth in depths}
    if len(depths) > 1:
        names[depths[0]] = "first hidden layer"
    if len(depths) > 2:
        names[depths[-2]] = "penultimate hidden layer"
    if depths:
        names[depths[-1]] = "last hidden layer"
    return [(depth, names[depth]) for depth in depths]


# ---------------------------------------------------------------- logarithmic axes


def spans_decades(values: Iterable[int | float]) -> bool:
    """Whether positive values lie so far apart that only a logarithmic axis shows them all."""
    positive = [value for value in defined(values) if value > 0]
    return bool(positive) and math.log10(max(positive) / min(positive)) >= _DECADES_FOR_LOG


def place_of_zero(values: Iterable[int | float]) -> float | None:
    """Where 0 stands on a logarithmic axis, below all positive values; None if none of the values is 0."""
    finite = defined(values)
    positive = finite[finite > 0]
    if len(positive) == len(finite):
        return None
    if not len(positive):
        return 1.0
    decades = math.log10(positive.max() / positive.min())
    return float(positive.min() / 10 ** max(0.3, decades * _SHARE_OF_ZERO / (1 - _SHARE_OF_ZERO)))


def placed(values: Iterable[int | float], zero: float | None) -> list[float]:
    """Values for a logarithmic axis: 0 at its place, the undefined NaN."""
    return [
        math.nan if not math.isfinite(value) else float(zero or value) if value == 0 else float(value)
        for value in values
    ]


def log_ticks(values: Iterable[int | float], most: int) -> tuple[list[float], list[str]]:
    """Places and texts of two to `most` ticks, and of one at 0 where a value is 0."""
    finite = defined(values)
    zero, positive = place_of_zero(finite), finite[finite > 0]
    ticks: list[float] = []
    if len(positive):
        low, high = float(positive.min()), float(positive.max())
        ticks = _ticks_between(low / 1.05, high * 1.05, most) if high > low else [low]
    whole = all(abs(math.log10(tick) - round(math.log10(tick))) < 1e-6 for tick in ticks)
    texts = [_tick_text(tick, whole) for tick in ticks]
    return ([zero, *ticks], ["0", *texts]) if zero is not None else (ticks, texts)


def _ticks_between(low: float, high: float, most: int) -> list[float]:
    """The densest readable choice that is not too dense."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [[step * 10.0**decade for decade in decades for step in steps] for steps in _STEPS_IN_DECADE]
    every += [[10.0**decade for decade in decades if decade % stride == 0] for stride in (2, 3, 4, 5, 10)]
    for ticks in every:
        inside = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(inside) <= most:
            return inside
    return [float(f"{math.sqrt(low * high):.3g}")]


def _tick_text(value: float, whole: bool) -> str:
    """Powers of ten as such where all ticks are, else as long numbers as a reader takes in at a glance."""
    if 1e-3 <= value < 1e4:
        return f"{value:.6g}"
    if not whole and 1e4 <= value < 1e6:
        return f"{value:,.0f}"
    decade = math.floor(math.log10(value) + 1e-9)
    times = value / 10.0**decade
    power = f"10{str(decade).translate(_SUPERSCRIPTS)}"
    return power if abs(times - 1) < 1e-6 else f"{times:.3g}×{power}"
