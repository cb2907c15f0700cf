"""Features of a network while it runs: which layers are probed, how features are captured, what is measured."""

from collapselab.probes.capture import capture_inputs
from collapselab.probes.options import ProfileOptions
from collapselab.probes.profile import profile
from collapselab.probes.results import LayerProfile, Profile, SplitProfile
from collapselab.probes.select import weight_layers
from collapselab.probes.summaries import LawOfSeparation

__all__ = [
    "LawOfSeparation",
    "LayerProfile",
    "Profile",
    "ProfileOptions",
    "SplitProfile",
    "capture_inputs",
    "profile",
    "weight_layers",
]
