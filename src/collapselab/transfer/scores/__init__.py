"""Scores of transferability: predictions of the accuracy after transfer from features and labels, without training."""

from collapselab.transfer.scores.coding_rate import transrate
from collapselab.transfer.scores.evidence import logme
from collapselab.transfer.scores.h_score import h_score, shrunk_h_score
from collapselab.transfer.scores.leep import leep
from collapselab.transfer.scores.ncti import NCTIParts, ncti, ncti_parts
from collapselab.transfer.scores.registry import (
    BY_NAME,
    SCORES,
    Evaluation,
    Score,
    ScoreInputs,
    evaluate,
    select,
)

__all__ = [
    "BY_NAME",
    "SCORES",
    "Evaluation",
    "NCTIParts",
    "Score",
    "ScoreInputs",
    "evaluate",
    "h_score",
    "leep",
    "logme",
    "ncti",
    "ncti_parts",
    "select",
    "shrunk_h_score",
    "transrate",
]
