"""Tables, charts and pages: pure functions of stored rows."""

from collapselab.report.page import render_report, write_report
from collapselab.report.profile_page import render_profile_report, write_profile_report

__all__ = [
    "render_profile_report",
    "render_report",
    "write_profile_report",
    "write_report",
]
