"""All experiments, by id: those of papers, then those of our own.

Ids are known without importing an experiment, which needs torch, so that a misspelt one is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from collapselab.errors import InputError
from collapselab.names import near_matches

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment

_LAYERS = (
    "spectra",
    "associative-memory",
    "law-of-separation",
    *(f"fig{n}" for n in (1, 2, 3, 4, 5, *range(8, 15))),
)
# Every experiment in the order of the papers, with other ids that it has: those of figures drawn from the same runs.
# The module of PAPER/NAME is papers/PAPER/NAME.py, that of findings/NAME is findings/NAME.py.
IDS: Mapping[str, tuple[str, ...]] = {
    "hui2022/sec2": (),
    "hui2022/footnote2": (),
    "hui2022/fig2": (),
    "hui2022/fig3": ("hui2022/fig1",),
    "hui2022/fig4": (),
    "hui2022/fig5": (),
    "hui2022/fig6": (),
    "xu2023/sec4": (),
    "xu2023/fig1": ("xu2023/fig4", "xu2023/fig5"),
    "xu2023/fig2": (),
    "xu2023/fig3": ("xu2023/fig6", "xu2023/fig8"),
    "xu2023/fig7": (),
    "rangamani2023/layers": tuple(f"rangamani2023/{name}" for name in _LAYERS),
    "rangamani2023/fixed-etf": ("rangamani2023/fig6",),
    "rangamani2023/no-collapse": ("rangamani2023/fig7",),
    "findings/final-references": (),
    "findings/vci-finite-samples": (),
}


def find_experiment(name: str) -> Experiment:
    """Return an experiment by its id or one of its other ids.

    Raises:
        InputError: there is none; the message names near matches.
    """
    ids = {other: id for id, others in IDS.items() for other in (id, *others)}
    if name not in ids:
        near = near_matches(name, ids)
        hint = near if near.startswith("did you mean") else "see collapselab reproduce list"
        raise InputError(f"unknown experiment {name!r}; {hint}")
    return _load(ids[name])


def experiments() -> Mapping[str, Experiment]:
    """Return all experiments by id."""
    return {id: _load(id) for id in IDS}


@cache
def _load(id: str) -> Experiment:
    paper, _, name = id.partition("/")
    folder = paper if paper == "findings" else f"papers.{paper}"
    return import_module(f"collapselab.{folder}.{name.replace('-', '_')}").EXPERIMENT
