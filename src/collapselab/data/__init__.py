"""Data sets: the digits as tensors in memory, others opened by name, path or hub id and read in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collapselab.lazy import names_loaded_from

if TYPE_CHECKING:
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

_HOMES = {
    "DataSet": "collapselab.data.dataset",
    "load_digits": "collapselab.data.digits",
    "LabelledData": "collapselab.data.labelled",
    "NAMED": "collapselab.data.names",
    "NamedData": "collapselab.data.names",
    "local_copies": "collapselab.data.names",
    "available_splits": "collapselab.data.opening",
    "open_data": "collapselab.data.opening",
    "open_data_set": "collapselab.data.opening",
    "AnySplit": "collapselab.data.splits",
    "DataSplits": "collapselab.data.splits",
    "Split": "collapselab.data.splits",
}
__getattr__ = names_loaded_from(_HOMES, __name__)
