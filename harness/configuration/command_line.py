"""What every command does at its door: help, one line for what goes wrong, the exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from harness.schema import HarnessError, one_line

BAD_INPUT, BUG, INTERRUPTED, CLOSED = 2, 70, 130, 141
"""Exit codes: sysexits' EX_SOFTWARE for a bug, 128 and the signal for an interrupt and a closed pipe."""

HELP = ("-h", "--help")


def answer(run: Callable[[], int], arguments: Sequence[str], usage: Callable[[], str], interrupted: str = "") -> int:
    """Print the help if it is asked for, else run; whatever is raised becomes one line and an exit code.

    `interrupted` is what a person who pressed Ctrl-C should know.
    """
    try:
        if set(HELP) & set(arguments):
            print(usage(), end="")
            code = 0
        else:
            code = run()
        sys.stdout.flush()  # what cannot be printed is noticed here, and not while Python ends
        return code
    except BrokenPipeError:
        # `| head` has read enough. Python would try to flush the rest at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except KeyboardInterrupt:
        return _say(f"interrupted: {interrupted}" if interrupted else "interrupted", INTERRUPTED)
    except HarnessError as error:
        return _say(f"error: {error}", error.exit_code)
    except RecursionError:
        return _say("error: something is nested too deeply", BAD_INPUT)
    except MemoryError:
        return _say("error: there is not enough memory", BAD_INPUT)
    except (OSError, UnicodeError) as error:
        return _say(f"error: {error}", BAD_INPUT)
    except Exception as error:  # a bug: whoever meets it can do nothing with a traceback but send it
        with tempfile.NamedTemporaryFile("w", prefix="vlm-harness-", suffix=".txt", delete=False) as file:
            file.write(traceback.format_exc())
        what = one_line(f"{type(error).__name__}: {error}", 160)
        return _say(f"error: unexpected {what} (a bug; traceback in {file.name})", BUG)


def _say(line: str, code: int) -> int:
    print(one_line(line), file=sys.stderr)
    return code
