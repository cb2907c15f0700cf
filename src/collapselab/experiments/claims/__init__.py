"""Claims of papers: sentences that measured rows support or contradict, judges that measure them, the rule over seeds."""

from collapselab.experiments.claims.claim import Claim, NotAsked, Number, Void
from collapselab.experiments.claims.judging import judge_claims

__all__ = ["Claim", "NotAsked", "Number", "Void", "judge_claims"]
