"""Which pretrained network to take: models ranked by predicted and measured transfer."""

from collapselab.ranking.rank import DEFAULT_SCORES, rank
from collapselab.ranking.results import RankedModel, Ranking, ScoreTrust

__all__ = ["DEFAULT_SCORES", "RankedModel", "Ranking", "ScoreTrust", "rank"]
