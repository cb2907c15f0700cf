"""Data sets: the digits as tensors in memory, others opened by name, path or hub id and read in batches."""

from collapselab.data.dataset import DataSet
from collapselab.data.digits import load_digits
from collapselab.data.labelled import LabelledData
from collapselab.data.names import NAMED, NamedData, local_copies
from collapselab.data.opening import available_splits, open_data, open_data_set
from collapselab.data.splits import AnySplit, DataSplits, Split

__all__ = [
    "NAMED",
    "AnySplit",
    "DataSet",
    "DataSplits",
    "LabelledData",
    "NamedData",
    "Split",
    "available_splits",
    "load_digits",
    "local_copies",
    "open_data",
    "open_data_set",
]
