"""Data sets as tensors in memory."""

from collapselab.data.digits import load_digits
from collapselab.data.splits import DataSplits, Split

__all__ = ["DataSplits", "Split", "load_digits"]
