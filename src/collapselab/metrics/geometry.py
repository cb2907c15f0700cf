"""NC2, the geometry of the centred class means: equal norms, equal and maximal angles, a simplex.

Letters: c classes. See `collapselab.metrics.registry` for formulas and sources.
"""

from __future__ import annotations

from collapselab.metrics.inputs import MetricInputs


def equinorm(inputs: MetricInputs) -> float | None:
    if inputs.between_trace == 0:
        return _undefined(inputs, "equinorm")
    norms = inputs.centred_means.square().sum(1).sqrt()
    return float(norms.std(correction=0) / norms.mean())


def equiangularity(inputs: MetricInputs) -> float | None:
    return _if_directions_exist(inputs, inputs.pairs.cosine_std, "equiangularity")


def max_angle_gap(inputs: MetricInputs) -> float | None:
    return _if_directions_exist(inputs, inputs.pairs.mean_abs_gap, "max_angle_gap")


def mean_cosine_gap(inputs: MetricInputs) -> float | None:
    cosine = _if_directions_exist(inputs, inputs.pairs.mean_cosine, "mean_cosine_gap")
    # The squared length of the sum of all directions over the number of pairs: negative only by rounding.
    return None if cosine is None else max(cosine + 1 / (inputs.num_classes - 1), 0.0)


def etf_distance(inputs: MetricInputs) -> float | None:
    if inputs.between_trace == 0:
        return _undefined(inputs, "etf_distance")
    return inputs.pairs.etf_distance


def _if_directions_exist(inputs: MetricInputs, value: float | None, name: str) -> float | None:
    if inputs.between_trace == 0:
        return _undefined(inputs, name)
    if value is None:
        inputs.warn(
            f"{name} is undefined: {inputs.pairs.num_centred} class means lie at the global mean and have no "
            "direction"
        )
    return value


def _undefined(inputs: MetricInputs, name: str) -> None:
    inputs.warn(f"{name} is undefined: all class means coincide")
