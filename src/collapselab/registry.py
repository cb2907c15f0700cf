"""All experiments, by id: those of papers, then those of our own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from collapselab.checks import near_matches
from collapselab.errors import InputError
from collapselab.experiments.experiment import Experiment


@cache
def experiments() -> Mapping[str, Experiment]:
    """Return all experiments by id, in the order of the papers; `also` ids are not among them."""
    from collapselab.findings import final_references, vci_finite_samples
    from collapselab.papers.hui2022 import fig2, fig3, fig4, fig5, fig6, footnote2, sec2
    from collapselab.papers.rangamani2023 import fixed_etf, layers, no_collapse
    from collapselab.papers.xu2023 import fig1, fig7, sec4
    from collapselab.papers.xu2023 import fig2 as xu_fig2
    from collapselab.papers.xu2023 import fig3 as xu_fig3

    hui2022 = (sec2, footnote2, fig2, fig3, fig4, fig5, fig6)
    xu2023 = (sec4, fig1, xu_fig2, xu_fig3, fig7)
    rangamani2023 = (layers, fixed_etf, no_collapse)
    modules = (*hui2022, *xu2023, *rangamani2023, final_references, vci_finite_samples)
    return {module.EXPERIMENT.id: module.EXPERIMENT for module in modules}


def find_experiment(name: str) -> Experiment:
    """Return an experiment by its id or one of its `also` ids.

    Raises:
        InputError: there is none; the message names near matches.
    """
    known = experiments().values()
    by_name = {name: experiment for experiment in known for name in (experiment.id, *experiment.also)}
    if name not in by_name:
        near = near_matches(name, by_name)
        hint = near if near.startswith("did you mean") else "see collapselab reproduce list"
        raise InputError(f"unknown experiment {name!r}; {hint}")
    return by_name[name]
