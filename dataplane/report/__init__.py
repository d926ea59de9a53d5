"""What is shown: one HTML page of a run, and the same charts as pictures."""

from dataplane.report.write import Report, write_report

__all__ = ["Report", "write_report"]
