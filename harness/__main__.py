"""`python -m harness`: the commands there are, and a door to each."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from harness.configuration.command_line import HELP, answer
from harness.schema import HarnessError, unknown

COMMANDS = {
    "sweep": "measure points (time to first token, accuracy) and write a report",
    "report": "make a report again from what is stored",
    "train": "train a VLM of the reference family",
    "train.finetune": "train a VLM of full size from hub checkpoints of its encoder and its LLM",
    "lm_evaluation": "lm-eval's command line, with this project's models and engine",
}


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<15} {about}" for name, about in COMMANDS.items()]
    head = ["python -m harness COMMAND [...]", "", *lines, ""]
    return "\n".join([*head, "Help of a command: python -m harness COMMAND --help", ""])


def run(arguments: Sequence[str]) -> int:
    """Hand the rest of the command line to a command, as `python -m harness.COMMAND` does."""
    name, *rest = arguments
    if name not in COMMANDS:
        raise HarnessError(unknown("command", name, list(COMMANDS)))
    sys.argv = [f"harness {name}", *rest]
    runpy.run_module(f"harness.{name}", run_name="__main__", alter_sys=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of the command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = arguments[:1] or [HELP[0]]
    return answer(lambda: run(arguments), asked if asked[0] in HELP else [], usage)


if __name__ == "__main__":
    sys.exit(main())
