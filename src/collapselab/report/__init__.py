"""Tables, charts and pages: pure functions of stored rows."""

from collapselab.report.page import render_report, write_report
from collapselab.report.profile_page import render_profile_report, write_profile_report
from collapselab.report.tables import final_table, run_summary

__all__ = [
    "final_table",
    "render_profile_report",
    "render_report",
    "run_summary",
    "write_profile_report",
    "write_report",
]
