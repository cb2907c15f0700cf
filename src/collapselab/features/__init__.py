"""Features that exist already: arrays, feature files, folders of shards; `measure`."""

from collapselab.features.measure import Measurement, measure

__all__ = ["Measurement", "measure"]
