"""`python -m harness.report [SWEEP] [RESULTS] [REPORTS]`: make a report again from the store."""

import sys
from pathlib import Path

from harness.report.write import write_report
from harness.schema import HarnessError


def main() -> int:
    """Run the command line; returns the exit code."""
    sweep, results, reports = [*sys.argv[1:4], *("resolution", "results", "reports")[len(sys.argv) - 1 :]]
    try:
        folder, _ = write_report(Path(results), sweep, Path(reports))
        print(folder / "index.html")
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
