"""Features on their way out of a network: which layers, how they are caught, what is measured of each."""

from collapselab.probes.capture import capture_inputs
from collapselab.probes.profile import profile
from collapselab.probes.results import LayerProfile, Profile, SplitProfile
from collapselab.probes.select import weight_layers

__all__ = ["LayerProfile", "Profile", "SplitProfile", "capture_inputs", "profile", "weight_layers"]
