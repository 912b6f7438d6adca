"""The verdict on a page: a sweep's records -> `reports/<sweep>/`. Imports no torch."""

from harness.report.write import write_report

__all__ = ["write_report"]
