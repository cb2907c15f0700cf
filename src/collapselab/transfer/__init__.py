"""The value of a representation on another task: the linear probe."""

from collapselab.transfer.linear_probe import ProbeResult, linear_probe
from collapselab.transfer.logistic import Logistic, LogisticPath, fit_logistic

__all__ = ["Logistic", "LogisticPath", "ProbeResult", "fit_logistic", "linear_probe"]
