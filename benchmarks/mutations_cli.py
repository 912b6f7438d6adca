"""Hostile command lines for `benchmarks/fuzz.py`: Hydra's grammar, every option, values that nothing should take.

`command_lines(rng)` yields lists of arguments without end; `fault` sends one through the door, as a dry run in this
process, and says what was wrong if it did not end in an exit code of 0 to 2 with at most one printable line.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Iterator
from pathlib import Path

from harness.configuration.compose import keys_of, options

SECONDS = 90.0
"""Most that a dry run may take, operations not counted: that takes a minute for the largest sweeps."""
KEYS, GROUPS = keys_of("config")
FIELDS = (
    *("protocol.blocks", "protocol.warmup", "protocol.max_seconds", "protocol.max_samples", "protocol.text_tokens"),
    *("llm.config.num_hidden_layers", "llm.config.hidden_size", "llm.config.vocab_size", "llm.config", "llm.name"),
    *("llm.config.num_attention_heads", "llm.config.num_key_value_heads", "llm.architecture", "llm.config.rope_theta"),
    *("encoder.args", "encoder.args.depth", "encoder.stride", "encoder.features", "encoder.mean", "encoder.target"),
    *("encoder.timm", "encoder.native", "encoder.tokens", "connector.kind", "connector.args", "connector.shrink"),
    *("vlm.path", "vlm.native", "vlm.revision", "sweep.grids", "sweep.claims", "sweep.options", "sweep.name"),
    *("sweep.title", "system.name", "fusion.kind", "also.siglip", "hydra.run.dir", "hydra.verbose", "nosuch"),
)
WHOLE_NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "64",
    "65",
    "1000000",
    "1e8",
    "1e9",
    "10**9",
    "0x10",
    "007",
    "9" * 30,
    "9" * 5000,
)
NUMBERS = (
    *WHOLE_NUMBERS,
    "inf",
    "-inf",
    "nan",
    "1e400",
    "-0.0",
    "0.5",
    "1_000",
    "5e-324",
    "true",
    "false",
    "null",
    "None",
    "",
)
TEXTS = (
    *("x", "../..", "/", "~", ".", "/dev/null", "/proc/self/mem", "a b", "'a b'", "a" * 300, "a" * 6000, "\x1b[31mred"),
    *("\n", "\r\n", "\u202e", "\udcff", "é", "$", "$(touch /tmp/pwned)", "%s%n", "\\", "'", '"', "a,b", ",", ",,", "="),
    *(
        "<script>",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "[" * 40 + "]" * 40,
        "[" * 900,
        "{a:{b:{c:1}}}",
        "[1,[2,[3]]]",
        "{a:1}",
    ),
    *("{}", "[]", "[{}]", "[null]", "{1:2}", "${oc.env:HOME}", "${.}", "${seed}", "${a}${a}", "???", "_target_"),
)
CALLS = (
    *(
        "range(1,1000000000)",
        "range(10)",
        "range(0,1,0)",
        "range(0,1,0.000001)",
        "range(5,1)",
        "range(1,inf)",
        "range(a)",
    ),
    *("interval(0,1)", "interval()", "glob(*)", "glob([a*,t*])", "glob(*,exclude=t*)", "choice(1,2)", "choice()"),
    *("shuffle(1,2,3)", "sort(3,1)", "tag(a,1)", "int(3.5)", "str(1)", "float(x)", "json_str({a:1})", "extend_list(1)"),
)


def values(rng: random.Random, key: str) -> str:
    """One value: of the key's own names, or of what nothing should take."""
    kind = rng.random()
    if key in GROUPS and kind < 0.5:
        names = options(key) or ["x"]
        return ",".join(rng.choice(names) for _ in range(rng.choice((1, 1, 1, 2))))
    pool = NUMBERS if kind < 0.6 else TEXTS if kind < 0.85 else CALLS
    value = rng.choice(pool)
    return f"{value},{rng.choice(NUMBERS)}" if rng.random() < 0.1 else value


def command_lines(rng: random.Random) -> Iterator[list[str]]:
    """Lists of one to five arguments, without end."""
    while True:
        line = []
        if rng.random() < 0.3:
            line.append(f"+sweep={rng.choice([*options('sweep'), 'nosuch', ''])}")
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            key = rng.choice((*KEYS, *GROUPS, *FIELDS, *FIELDS))
            prefix = rng.choice(("", "", "", "", "+", "++", "~", "+++", "-", "--"))
            shape = rng.random()
            line.append(
                f"{prefix}{key}={values(rng, key)}"
                if shape < 0.94
                else rng.choice(
                    (key, "", "=", f"={key}", f"{key}@x=1", f"{key}==", rng.choice(TEXTS), rng.choice(CALLS))
                )
            )
        yield line


def fault(arguments: list[str], folder: Path) -> str:
    """What the door did wrong with a dry run of `arguments` in `folder`; empty if nothing."""
    from harness.sweep import main

    out, err = io.StringIO(), io.StringIO()
    begin = time.process_time()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*arguments, "dry_run=true"])
        except BaseException as error:
            return f"raised {type(error).__name__}: {str(error)[:200]}"
    said = err.getvalue()
    if code not in (0, 1, 2):
        return f"exit code {code}: {said[:300]}"
    if code and not (said.startswith("error: ") and said.endswith("\n") and said[:-1].isprintable()):
        return f"not one printable line: {said[:300]!r}"
    if code and len(said) > 310:
        return f"{len(said)} characters"
    if any(folder.iterdir()):
        return f"wrote {[path.name for path in folder.iterdir()]}"
    return f"took {spent:.0f} s" if (spent := time.process_time() - begin) > SECONDS else ""
