"""Generate the metric catalogue of the documentation from the registry.

python -m collapselab.metrics.catalogue docs/metrics.md
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from collapselab.metrics.registry import METRICS, Metric

# What the symbols of the formulas mean.
NOTATION = """Features h_i in R^p with labels y_i; C classes with n_c samples each, n in total. Class weights π_c are 1/C with
`balanced` weighting (the default, as in the papers) and n_c/n with `sample` weighting.

    μ_c = mean of h over class c      μ_G = Σ_c π_c μ_c      μ̄ = mean_c μ_c      M = rows μ_c − μ_G  (C x p)
    Σ_W = Σ_c π_c (1/n_c) Σ_{i in c} (h_i − μ_c)(h_i − μ_c)ᵀ      v_c = (1/n_c) Σ_{i in c} ‖h_i − μ_c‖²
    Σ_B = Σ_c π_c (μ_c − μ_G)(μ_c − μ_G)ᵀ                         m_c = mean of h/‖h‖ over class c
    Σ_T = Σ_W + Σ_B                                               W = weight that reads the features"""

_HEAD = f"""# Metric catalogue

Generated from the registry by `make docs`; do not edit by hand.

{NOTATION}

mean_c is the mean over classes, std_c the standard deviation over classes; E_train and E_test are means over samples.
"Full collapse" means that all samples of a class have the same features, that the class means form a simplex, and that
the weights are aligned with them. "No direction" means that the metric neither falls nor rises in general as features
collapse.

The weighting affects Σ_W, Σ_B, Σ_T, μ_G and M only. Where a denominator is zero, the value is null and a warning says
which denominator. A metric whose input (a weight, decisions) is missing is null.

Pseudo-inverses: Σ_B⁺ is computed from the singular values of the C x p matrix with rows √π_c (μ_c − μ_G). Only the
min(p, C−1) largest are used, and values below max(p, C) · eps · (largest singular value) are dropped, where eps is the
float64 machine epsilon. Σ_T⁺ is computed after scaling every varying feature to unit variance; eigenvalues below
p · eps · (largest eigenvalue) are dropped. `rcond` replaces max(p, C) · eps and p · eps.
"""

_FINITE = """## Finite samples

Every metric describes the samples that it was given. With few samples per class or per feature it differs from its value
for the whole population, and values of splits or layers of different n, n_c or p cannot be compared. Adjusted metrics
remove most of this.

**VCI.** Tr(Σ_T⁺ Σ_B) is Pillai's trace, the H-score of Bao et al. 2019. Write a = rank Σ_T. Over all permutations of the
labels, the mean of VCI is exactly 1 − max(a, C−1)/(n−1), for any features: 0.49 at C = 10, p = 512, n = 1000.
`vci_adjusted` is VCI divided by this mean, as the adjusted R² is. It is 1 on average if labels say nothing, 0 at full
collapse, and invariant like VCI. Its values scatter more, and the more the closer max(a, C−1) is to n − 1.

- The formula is exact for classes of equal size, and for `sample` weighting. For unbalanced classes with `balanced`
  weighting, VCI is divided by an approximation of its mean, that for Gaussian features and many samples. In simulations
  with class sizes up to 1 : 2, the mean over permutations is within 0.03 of it. If the class sizes differ by a factor of
  ten and the norms of the samples are heavy-tailed, the mean can be 0.15 larger. A warning is given if the approximation
  differs from the formula by more than 10 %.
- It holds if features do not depend on the labels of these samples: for **test data**. A network has seen the labels of its
  train data, so that its train features depend on them, and part of what they show is fitted to these samples.
- It assumes that samples far from the mean fit the classes as well as others do, as with equal covariances. If the standard
  deviations of Gaussian classes differ by a factor of up to 7, a bias of about a tenth remains. If errors are outliers,
  as in MLPs on MNIST, it was 7 % too low at n = 1,000 and 13 % at n = 600: see
  [a finding](findings/vci-finite-samples.md).
- If Σ_T has a rank below C − 1, VCI divides by min(p, C−1) and `vci_adjusted` by the rank, so that full collapse is 0.

**Ratios of traces.** Class means of n_c samples have a sampling error of a part 1/n_c of the variance of their class. It
is missing within classes, and adds to the distance of the class means. `squared_distance_debiased`,
`normalized_within_debiased` and `strong_test_variance_debiased` correct both. They hold for any class sizes, covariances
and weightings, again for test data. If the class means differ by no more than their sampling errors, they are null.

**Fuzziness over layers.** He and Su (2022) find that fuzziness falls by the same factor ρ from layer to layer. `profile`
fits log D_l = log D_0 + l log ρ to the fuzziness D_l at depth l: see [profiles](profiles.md#law-of-separation).
"""


def catalogue() -> str:
    """Return the whole catalogue as Markdown."""
    parts = [_HEAD]
    for family, metrics in groupby(METRICS, key=lambda metric: metric.family):
        parts.append(f"## {family}\n")
        parts.extend(_entry(metric) for metric in metrics)
    parts.append(_FINITE)
    return "\n".join(parts)


def _entry(metric: Metric) -> str:
    lines = [
        f"### `{metric.name}`",
        "",
        f"    {metric.formula}",
        "",
        *(f"- {fact}" for fact in facts(metric)),
    ]
    return "\n".join(lines) + "\n"


def facts(metric: Metric) -> list[str]:
    """Return what is known about a metric beside its formula: source, range, needs, splits and note."""
    return [
        f"Source: {metric.source}",
        f"Range: {_range(metric)}; at full collapse: {_value(metric.at_collapse)}; {_direction(metric)}",
        f"Needs: {', '.join(sorted(metric.needs)) or 'counts, means and traces only'}",
        *([f"Defined on {next(iter(metric.splits))} data only"] if len(metric.splits) == 1 else []),
        *([metric.note] if metric.note else []),
    ]


def _range(metric: Metric) -> str:
    low = "(−∞" if metric.low is None else f"[{metric.low:g}"
    high = "∞)" if metric.high is None else f"{metric.high:g}]"
    return f"{low}, {high}"


def _value(value: float | int | None) -> str:
    return "not a constant" if value is None else f"{value:g}"


def _direction(metric: Metric) -> str:
    return "no direction" if metric.direction == "neither" else f"{metric.direction} as features collapse"


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(catalogue(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
