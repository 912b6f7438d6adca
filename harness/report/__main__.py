"""`python -m harness.report`: make a report again from the records, without measuring anything."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.schema import HarnessError

DEFAULTS = {"sweep": "resolution", "results": "results", "reports": "reports", "refresh": "false"}
"""Arguments by name."""
PLACES = ("sweep", "results", "reports")
"""Those that may go without their names, in this order."""
USAGE = """\
python -m harness.report [SWEEP [RESULTS [REPORTS]]] [KEY=VALUE ...]

Rebuilds the report of a sweep's last run from its records; nothing is measured.

  sweep=NAME         a sweep that has been run: the name of a file in RESULTS/sweeps (default: resolution)
  results=FOLDER     where its records are (default: results), or a folder of reports: each contains its own records
  reports=FOLDER     where the report goes: into REPORTS/NAME (default: reports)
  refresh=true       use the newest records in the store and list what that changes; otherwise the numbers are those of
                     the run, whatever has been measured since

The showcase of this project is rebuilt from its own records, or after a run, with

  python -m harness.report resolution results=docs/showcase reports=docs/showcase
  python -m harness.report resolution reports=docs/showcase
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 bad input)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    try:
        chosen = parse(arguments)
        # pandas and matplotlib take seconds: help is there before that.
        from harness.analysis.composition import refresh
        from harness.report.write import write_report

        if chosen["refresh"] == "true":
            said = refresh(Path(chosen["results"]), chosen["sweep"])
            print("\n".join([f"changed: {line}" for line in said] or ["nothing newer is in the store"]))
        folder, _ = write_report(Path(chosen["results"]), chosen["sweep"], Path(chosen["reports"]))
    except (HarnessError, OSError) as error:
        print(f"error: {HarnessError(error)}", file=sys.stderr)
        return 2
    print(folder / "index.html")
    return 0


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Positional and named arguments -> a value for each of `DEFAULTS`."""
    given: dict[str, str] = {}
    places = iter(PLACES)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            name, value = next(places, ""), argument
            if not name:
                raise HarnessError(f"{argument}: at most {len(PLACES)} places are expected: {' '.join(PLACES)}")
        if argument.startswith("-") or name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, 1)
            hint = f"; did you mean {near[0]}=?" if near else ""
            raise HarnessError(f"{argument}: unknown; there are {', '.join(f'{each}=' for each in DEFAULTS)}{hint}")
        if name in given:
            raise HarnessError(f"{argument}: {name} is given twice ({given[name]} before)")
        if not value or "\0" in value:
            raise HarnessError(f"{name}={value}: a value is expected")
        given[name] = value
    if given.get("refresh") not in (None, "true", "false"):
        raise HarnessError(f"refresh={given['refresh']}: true or false is expected")
    return DEFAULTS | given


if __name__ == "__main__":
    sys.exit(main())
