"""Features on their way out of a network: which layers, how they are caught, what is measured of each."""

from collapselab.probes.capture import capture_inputs, weight_layers
from collapselab.probes.layers import LayerMeasurement, measure_layers

__all__ = ["LayerMeasurement", "capture_inputs", "measure_layers", "weight_layers"]
