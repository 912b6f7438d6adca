"""lm-eval, both ways: our suites for its models, our models and our engine for its tasks.

    lm_eval --model hf-multimodal --include_path sweeps/suite --tasks docvqa ...
    python -m harness.lm_evaluation --model vlm-harness --model_args checkpoint=FOLDER,resolution=512 --tasks chartqa

lm-eval loads no plugins; `python -m harness.lm_evaluation` is its command line with `vlm-harness` among its models, on
the device that is there unless `--device` names one. The data of our suites may lie in a folder or file, as for a sweep
(`data={SUITE:FOLDER}`, see `harness.suites.local`): the environment says where, or the metadata of the command line:

    VLM_HARNESS_DATA='{docvqa: /data/docvqa}' lm_eval --include_path sweeps/suite --tasks docvqa ...
    lm_eval --include_path sweeps/suite --tasks docvqa --metadata '{"data": {"docvqa": "/data/docvqa"}}' ...

Needs the extra `lm-eval`.

lm-eval's own help: `lm_eval --help`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAME = "vlm-harness"
"""What lm-eval calls our models."""


def __getattr__(name: str) -> Any:
    """What `harness.evaluate.lm_eval` has, imported when it is asked for: lm-eval takes ten seconds, which `--help`
    need not."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.evaluate import lm_eval

    return getattr(lm_eval, name)


def no_device(arguments: Sequence[str]) -> bool:
    """Whether a command line asks one of our models and names no device: lm-eval would say `cuda:0`, there or not."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", "-M")
    parser.add_argument("--config", "-C")
    parser.add_argument("--device")
    asked, _ = parser.parse_known_args(arguments)
    from harness.storage.intake import read_yaml

    stored = read_yaml(Path(asked.config)) if asked.config else {}
    stored = stored if isinstance(stored, dict) else {}
    return (asked.model or stored.get("model")) == NAME and not (asked.device or stored.get("device"))


def main() -> int:
    """lm-eval's command line; the exit code is 2 for bad input of ours."""
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print((__doc__ or "").strip())
        return 0
    from harness.schema import HarnessError

    try:
        from harness.evaluate import lm_eval  # noqa: F401 (registers our models, and says it where lm-eval is missing)

        if no_device(sys.argv[1:]):
            sys.argv += ["--device", "auto"]
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
