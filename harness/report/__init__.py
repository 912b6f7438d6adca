"""The verdict on a page: a sweep's records -> `reports/<sweep>/`. Imports no torch."""

from typing import Any

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """`write_report`, imported when it is asked for: pandas and matplotlib take seconds, which `--help` need not."""
    if name not in __all__:
        raise AttributeError(f"module 'harness.report' has no attribute {name!r}")
    from harness.report.write import write_report

    return write_report
