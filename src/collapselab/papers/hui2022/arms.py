"""Two arms where the paper is silent: taken literally, and with the weight decay of Papyan, Han and Donoho (2020).

The paper follows the procedure of Papyan et al., but mentions neither their weight decay nor batch norm of MLPs. Every run
exists in both arms, and every claim is judged in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from collapselab.experiments.claims import Claim
from collapselab.experiments.claims.judges import decides
from collapselab.experiments.recipes import Changes, Job, Jobs
from collapselab.records.experiment import Label

LITERAL, PAPYAN = "literal", "papyan"
WEIGHT_DECAY = 5e-4
_ARMS = {LITERAL: "Without weight decay", PAPYAN: "With weight decay"}
# What the rows of runs made before there were arms lack.
BEFORE_ARMS = {"arm": LITERAL, "weight_decay": 0.0}
TEXT = (
    "There are two arms. Sometimes only one of them was run. The literal arm has no weight decay, and its MLPs have no batch "
    "norm, because the paper mentions neither. The papyan arm has weight decay, as in Papyan et al. (2020), whose procedure the "
    "paper follows; their value is 5e-4. Its MLPs have batch norm."
)


def in_arms(jobs: Jobs, decay: float = WEIGHT_DECAY, papyan: Jobs | None = None) -> Jobs:
    """Return every job in both arms; names of the second end with `-papyan`.

    Args:
        jobs: without weight decay.
        papyan: jobs to use in the second arm instead, also without weight decay.
        decay: weight decay of the second arm. What decides is its product with the sum of learning rates, so that runs with
            fewer steps need more.
    """

    def both(seed: int, changes: Changes) -> Sequence[Job]:
        literal = [replace(one, labels={**one.labels, **BEFORE_ARMS}) for one in jobs(seed, changes)]
        second = papyan(seed, changes) if papyan else literal
        return [*literal, *(_with_decay(one, decay) for one in second)]

    return both


def _with_decay(job: Job, decay: float) -> Job:
    changes: dict[str, object] = {"optimizer.weight_decay": decay}
    if job.recipe.model.name == "mlp":
        changes["model.options.batch_norm"] = True
    return variant(job, PAPYAN, {"arm": PAPYAN, "weight_decay": decay}, changes)


def variant(job: Job, suffix: str, labels: Mapping[str, Label], changes: Changes) -> Job:
    """Return a job with a suffix to its name, further labels, and changes to its recipe.

    What it starts from is the job whose name has the same suffix.
    """
    after = job.after and f"{job.after}-{suffix}"
    if job.after and job.recipe.start:
        start = job.recipe.start.checkpoint.replace(f"/{job.after}/", f"/{after}/")
        changes = {**changes, "start.checkpoint": start}
    return Job(f"{job.name}-{suffix}", job.recipe.with_changes(changes), {**job.labels, **labels}, after)


def in_each_arm(*claims: Claim) -> tuple[Claim, ...]:
    """Return every claim once for each arm, those of the papyan arm first."""
    return tuple(
        replace(
            claim,
            id=f"{claim.id}-{arm}",
            statement=f"{_ARMS[arm]}: {claim.statement}",
            only={**(claim.only or {}), "arm": arm},
        )
        for arm in (PAPYAN, LITERAL)
        for claim in claims
    )


DECIDED = decides(
    "weight_decay",
    "train_variance",
    "Weight decay decides whether train variance vanishes: it does with weight decay, and not without.",
)
