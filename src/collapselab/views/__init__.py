"""Pictures of what users measured themselves: plots of results, and pages that compare folders."""

from collapselab.views.folders import read_profile, read_run

__all__ = ["read_profile", "read_run"]
