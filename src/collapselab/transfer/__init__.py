"""The value of a representation on another task: probes, scores of transferability, mean log odds."""

from collapselab.transfer.linear_probe import ProbeResult, linear_probe
from collapselab.transfer.log_odds import mean_log_odds, mean_log_odds_gain
from collapselab.transfer.logistic import Logistic, LogisticPath, fit_logistic
from collapselab.transfer.neighbours import ClassMeanResult, NeighbourResult, knn_probe, nearest_mean_probe

__all__ = [
    "ClassMeanResult",
    "Logistic",
    "LogisticPath",
    "NeighbourResult",
    "ProbeResult",
    "fit_logistic",
    "knn_probe",
    "linear_probe",
    "mean_log_odds",
    "mean_log_odds_gain",
    "nearest_mean_probe",
]
