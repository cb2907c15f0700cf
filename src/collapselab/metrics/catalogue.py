"""Generate the metric catalogue of the documentation from the registry.

python -m collapselab.metrics.catalogue docs/metrics.md
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from collapselab.metrics.registry import METRICS, Metric

_HEAD = """# Metric catalogue

Generated from the registry by `make docs`; do not edit by hand.

Features h_i in R^p with labels y_i; C classes with n_c samples each, n in total. Class weights π_c are 1/C with
`balanced` weighting (the default, as in the papers) and n_c/n with `sample` weighting.

    μ_c = mean of h over class c      μ_G = Σ_c π_c μ_c      μ̄ = mean_c μ_c      M = rows μ_c − μ_G  (C x p)
    Σ_W = Σ_c π_c (1/n_c) Σ_{i in c} (h_i − μ_c)(h_i − μ_c)ᵀ      v_c = (1/n_c) Σ_{i in c} ‖h_i − μ_c‖²
    Σ_B = Σ_c π_c (μ_c − μ_G)(μ_c − μ_G)ᵀ                         m_c = mean of h/‖h‖ over class c
    Σ_T = Σ_W + Σ_B                                               W = weight that reads the features

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


def catalogue() -> str:
    """Return the whole catalogue as Markdown."""
    parts = [_HEAD]
    for family, metrics in groupby(METRICS, key=lambda metric: metric.family):
        parts.append(f"## {family}\n")
        parts.extend(_entry(metric) for metric in metrics)
    return "\n".join(parts)


def _entry(metric: Metric) -> str:
    lines = [
        f"### `{metric.name}`",
        "",
        f"    {metric.formula}",
        "",
        f"- Source: {metric.source}",
        f"- Range: {_range(metric)}; at full collapse: {_value(metric.at_collapse)}; {_direction(metric)}",
        f"- Needs: {', '.join(sorted(metric.needs)) or 'counts, means and traces only'}",
    ]
    if len(metric.splits) == 1:
        lines.append(f"- Defined on {next(iter(metric.splits))} data only")
    if metric.note:
        lines.append(f"- {metric.note}")
    return "\n".join(lines) + "\n"


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
