"""Data sets: the digits as tensors in memory, others opened by name or path and read in batches."""

from collapselab.data.digits import load_digits
from collapselab.data.labelled import LabelledData
from collapselab.data.opening import available_splits, open_data
from collapselab.data.splits import DataSplits, Split

__all__ = ["DataSplits", "LabelledData", "Split", "available_splits", "load_digits", "open_data"]
