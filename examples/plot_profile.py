"""Draw one figure of a profile beside that of the network at initialisation, for a paper or a folder of results.

    python examples/plot_profile.py FINAL INITIAL OUT.png

FINAL and INITIAL are folders that `collapselab profile --out` wrote. The panels follow figures 1 to 5 of Rangamani et al.
2023: share of variance within classes, equal angles, alignment, nearest class centres, singular values, stable ranks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

TRAIN, TEST, INITIAL = "#2563eb", "#ea580c", "#6b7280"


def series(profile: dict[str, Any], split: str, metric: str) -> list[float]:
    values = [layer.get(split, {}).get(metric) for layer in profile["layers"]]
    return [np.nan if value is None else value for value in values]


def curves(axes: Axes, final: dict[str, Any], initial: dict[str, Any], metric: str, title: str) -> None:
    """One metric by depth: train and test at the end, train at initialisation."""
    axes.plot(series(final, "train", metric), "o-", color=TRAIN, label="train", markersize=4)
    axes.plot(series(final, "test", metric), "s-", color=TEST, label="test", markersize=4)
    axes.plot(series(initial, "train", metric), ":", color=INITIAL, label="train, initialisation")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("depth of the layer")
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("final", type=Path)
    parser.add_argument("initial", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    final, initial = (
        json.loads((folder / "profile.json").read_text()) for folder in (options.final, options.initial)
    )
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.6), constrained_layout=True)
    panels = iter(grid.flat)

    axes = next(panels)
    curves(axes, final, initial, "normalized_within", "NC1: share of variance within classes")
    axes.axhline(final["epsilon"], color="black", linestyle="--", linewidth=1)
    axes.annotate(
        f"ε = {final['epsilon']:g}", (0, final["epsilon"]), textcoords="offset points", xytext=(0, 4)
    )
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)

    curves(
        next(panels),
        final,
        initial,
        "equiangularity",
        "NC2: deviation of the cosines of class means",
    )

    axes = next(panels)
    curves(axes, final, initial, "alignment", "NC3: alignment of class means and weights")
    axes.plot(series(final, "train", "alignment_random"), "--", color="black", label="two random subspaces")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)

    axes = next(panels)
    curves(axes, final, initial, "ncc_agreement", "NC4: nearest class mean decides as the network")
    axes.set_ylim(0, 1.03)

    axes = next(panels)
    layers = final["layers"]
    for layer in layers:
        values = np.array(layer["weight_singular_values"][:20])
        colour = plt.get_cmap("viridis")(layer["depth"] / max(len(layers) - 1, 1))
        axes.plot(range(1, len(values) + 1), values / values[0], ".-", color=colour, label=layer["name"])
    axes.set_title("Singular values of each weight, relative to the largest", fontsize=10)
    axes.set_xlabel("rank")
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncol=2, loc="lower left")

    curves(next(panels), final, initial, "stable_rank", "Stable rank of features within classes")
    figure.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
