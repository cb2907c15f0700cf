"""The engine of `measure` and `profile`: passes over the features of a split, and the metrics of what they found.

To the engine, an array, a feature file or a folder of shards is a network with one probe point. A pass is described by
a `PassRequest` and returns `PassFindings`; `measure_split` decides which passes the requested metrics need.
"""

from collapselab.passes.plan import PointWeight, SplitPlan, TrainReference
from collapselab.passes.reading import PassFindings, PassRequest, run_pass
from collapselab.passes.split import MeasuredSplit, measure_split
from collapselab.passes.stream import FeatureStream, Point, ProgressCallback

__all__ = [
    "FeatureStream",
    "MeasuredSplit",
    "PassFindings",
    "PassRequest",
    "Point",
    "PointWeight",
    "ProgressCallback",
    "SplitPlan",
    "TrainReference",
    "measure_split",
    "run_pass",
]
