"""Existing features, as arrays, feature files or folders of shards; `measure`."""

from collapselab.features.measure import Measurement, measure

__all__ = ["Measurement", "measure"]
