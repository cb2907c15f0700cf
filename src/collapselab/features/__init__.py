"""Existing features, as arrays, feature files or folders of shards; `measure`."""

from collapselab.features.measure import measure
from collapselab.features.measurement import Measurement

__all__ = ["Measurement", "measure"]
