"""The language: the nouns every room speaks. Imports nothing of the project.

Units are SI (seconds, bytes); milliseconds exist only on pages. Raw samples are kept, statistics are derived
(`harness.stats`). Everything here is frozen, validated when it is read back from disk, and has one canonical
JSON form, so that `fingerprint` names its content.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

SCHEMA_VERSION = 3
"""Version of a record on disk; raised when a field changes its meaning."""


LINE = 300
"""Characters that an error, a reason or anything else that is said about foreign content may have."""


def one_line(text: object, most: int = LINE) -> str:
    """`text` as one printable line of at most `most` characters, whatever it holds.

    White space becomes single spaces; control codes, direction marks and lone surrogates are spelled as escapes, so
    that no terminal obeys them; what is too long loses its middle, because the end says what to do.
    """
    given = str(text)
    if len(given) > 8 * most:  # a megabyte need not be walked through
        given = f"{given[: 4 * most]} … {given[-4 * most :]}"
    words = " ".join(given.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words)
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 3]} … {line[-tail:]}"


def file_stem(name: str, most: int = 60) -> str:
    """`name` as a file's name without ending: letters, digits, `._-`, never hidden, never a path, at most `most` long.

    What had to be changed gets a few digits of its fingerprint, so that two names keep two files.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    if plain == name.strip(".-") and 0 < len(name) <= most:
        return name
    return f"{plain.strip('.-')[: most - 7] or 'unnamed'}-{fingerprint(ascii(name))[:6]}"


class HarnessError(Exception):
    """Something the user can mend. Its text is one printable line (`one_line`): what was found, where, what to do."""

    exit_code = 2
    """Of a command that ends with it."""

    def __init__(self, text: object):
        super().__init__(one_line(text))


class InvalidOutput(HarnessError):
    """Something ran, but what came out is not what it promises: no number may come of it."""


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """One line for a name that does not exist, with the near names first."""
    said = one_line(name, 80)
    near = difflib.get_close_matches(said, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
    return f"unknown {kind} {said!r}; {hint}"


DEPTH = 64
"""How deep plain content (JSON, YAML, keyword arguments) may be nested."""
ITEMS = 10**6
"""Most values that plain content may hold; YAML's aliases can make billions of a few lines."""
WHOLE_NUMBER = 2**63
"""Whole numbers beyond this are no setting of anything."""


def check_plain(value: Any, whole: int = WHOLE_NUMBER) -> Any:
    """`value` if it is plain (mappings, lists, text, numbers), finite, not too deep and not too much.

    Raises `ValueError` saying what it is otherwise.
    """
    for count, (depth, item) in enumerate(_walk(value)):
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")
        if count > ITEMS:
            raise ValueError(f"more than {ITEMS} values")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item} is not a finite number")
        if isinstance(item, str) and not item.isascii() and re.search("[\ud800-\udfff]", item):
            raise ValueError(f"{item[:40]!r} is not Unicode text (a lone surrogate)")
        if isinstance(item, int) and not -whole <= item < whole:
            raise ValueError(f"a whole number of {item.bit_length()} bits")
    return value


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """Every value with its depth, without recursion."""
    left: list[tuple[int, Any]] = [(0, value)]
    while left:
        depth, item = left.pop()
        yield depth, item
        if isinstance(item, dict):
            left += [(depth + 1, each) for each in (*item.keys(), *item.values())]
        elif isinstance(item, list | tuple):
            left += [(depth + 1, each) for each in item]


Plain = Annotated[dict[str, Any], AfterValidator(check_plain)]
"""Keyword arguments and the like: whatever JSON can hold, but NaN and infinity."""
Line = Annotated[str, AfterValidator(one_line)]
"""Text that is printed: one printable line, whatever was stored."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Positive = Annotated[int, Field(ge=1, lt=2**53)]
Pixels = Annotated[int, Field(ge=1, le=2**16)]
"""Side of a square, in pixels."""
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$", max_length=100)]
"""A name that becomes part of a file's name."""


class Frozen(BaseModel):
    """Frozen, strict about unknown fields, without NaN and infinity, and documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __repr__(self) -> str:
        """Its fields in one short line; all of them are in `model_dump()`, and in `str()`."""
        return one_line(f"{type(self).__name__}({', '.join(f'{name}={_short(value)}' for name, value in self)})", 200)


_SHORTENED = reprlib.Repr()
_SHORTENED.maxlevel = 1
_SHORTENED.maxstring = _SHORTENED.maxother = 40


def _short(value: Any) -> str:
    return f"{type(value).__name__}(...)" if isinstance(value, Frozen) else _SHORTENED.repr(value)


def first_fault(error: ValidationError) -> str:
    """Where and what the first fault of a validation is, in a few words."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def fingerprint(content: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `content`'s canonical JSON."""
    plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


LAYERS, WIDTH, VOCABULARY = 1024, 2**20, 2**24
"""Most layers, channels and tokens of a vocabulary that a part may have: an order beyond what was ever built."""
PARAMETERS = 10**13
"""Most weights of a part."""
_LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks)$")
_WIDTHS = re.compile(r"(^|_)(size|dims?|widths?|features|channels|heads|chans)$")


def check_sizes(args: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of an architecture, if something could be built of them; `ValueError` otherwise.

    Looks at names: layers and depths (lists of them by their sum), sizes, dimensions, widths, channels, heads.
    """
    layers, width = 1, 1
    for name, value in args.items():
        numbers = [each for each in (value if isinstance(value, list | tuple) else [value]) if _is_whole(each)]
        if not numbers:
            continue
        if _LAYERS.search(name):
            low, most, layers = 0, LAYERS, max(layers, sum(numbers))
            numbers.append(sum(numbers))
        elif name == "vocab_size":
            low, most = 0, VOCABULARY
        elif _WIDTHS.search(name):
            low, most, width = 0, WIDTH, max(width, *numbers)
        else:
            low, most = -(2**31), 2**31
        if wrong := [number for number in numbers if not low <= number <= most]:
            raise ValueError(f"{name}={wrong[0]}: {low} to {most} is expected")
    if layers * width**2 > PARAMETERS:
        raise ValueError(f"{layers} layers of width {width} are more than {PARAMETERS:.0e} weights")
    return args


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Sizes = Annotated[Plain, AfterValidator(check_sizes)]
"""Keyword arguments of an architecture."""


class Encoder(Frozen):
    """A vision encoder, built by timm or by a class of anybody's."""

    name: str
    title: str
    """Name on a page, e.g. `FastViTHD`."""
    timm: str = ""
    """Entry point of `timm.create_model`."""
    target: str = ""
    """`package.module:Class` in place of a timm model: a module that maps pixels (B, 3, R, R) to visual tokens
    (B, N, features) or to a map (B, features, H, W)."""
    args: Sizes = {}
    """Keyword arguments of the entry point or class; they may override the architecture's sizes."""
    stride: Pixels
    """Pixels per visual token along one side, over all stages."""
    features: Positive
    """Channels of a visual token before the connector."""
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Normalisation of the pixels, in units of 0..1."""
    native: Pixels
    """Resolution that the architecture was published for, in pixels."""
    tokens: Positive | None = None
    """Visual tokens that it leaves at every resolution: pruning in the tower, or maps resampled to one grid."""
    crop: bool = False
    """Whether pixels beyond the last whole patch are dropped (SigLIP at 384 sees 378); otherwise they are refused."""
    source: str
    """Where the numbers above come from."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Encoder:
        if bool(self.timm) == bool(self.target):
            raise ValueError("either timm or target is expected")
        return self

    def visual_tokens(self, resolution: int) -> int:
        """Number of visual tokens of one `resolution` x `resolution` image."""
        return self.tokens or (resolution // self.stride) ** 2


class Connector(Frozen):
    """What maps visual tokens to the LLM's width, and often to fewer."""

    name: str
    title: str = ""
    """Name on a page; empty where a connector is only a projection."""
    kind: str
    """A class that `harness.models.connectors` registers."""
    args: Sizes = {}
    """Keyword arguments of the class."""
    tokens: Positive | None = None
    """Visual tokens that it makes of an image or tile, however many come in: queries, or the cells of a grid."""
    shrink: Positive = 1
    """Side of the square of visual tokens that become one: pooling, pixel shuffle."""
    source: str = ""

    def visual_tokens(self, count: int) -> int:
        """What it makes of the `count` visual tokens of one image or tile."""
        return self.tokens or count // self.shrink**2


class Fusion(Frozen):
    """Layers between those of the LLM that attend to visual features (Flamingo, Cambrian-1)."""

    name: str
    title: str
    kind: str
    """A class that `harness.models.fusions` registers."""
    args: Sizes = {}
    every: Positive
    """One such layer for so many layers of the LLM."""
    first: Count
    """The LLM's layer, from 0, before which the first one stands."""
    count: Positive
    """How many there are."""
    memory: tuple[Positive, Positive, Positive]
    """Shape (rows, keys, channels) of what they attend to: every token to one row, or each visual token to its own."""
    in_sequence: bool
    """Whether visual tokens are in the LLM's sequence as well; otherwise its prefill holds text only."""
    source: str


class System(Frozen):
    """A whole VLM of the literature, put together from parts."""

    name: str
    title: str
    parameters: PositiveFloat | None = None
    """Millions, as its source counts or implies them at its own resolution; None where it does not say."""
    visual_tokens: Positive | None = None
    """At its own resolution, as published."""
    source: str
    """Where its parts and the numbers come from, and what here differs from it."""
    changed: tuple[str, ...] = ()
    """Overrides of its parts (`llm=qwen2_1_5b`): then it is not the published system any more."""


class Llm(Frozen):
    """A decoder, built by transformers from its configuration class."""

    name: str
    title: str
    architecture: str
    """`model_type` of transformers, e.g. `qwen2`."""
    config: Sizes
    """Fields of the configuration class; `vocab_size` 0 takes the tokenizer's size (reference family only)."""
    source: str

    @model_validator(mode="after")
    def _has_sizes(self) -> Llm:
        for name in ("hidden_size", "num_hidden_layers"):
            size = self.config.get(name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"config.{name}={size}: a whole number above 0 is expected")
        return self


class Template(Frozen):
    """How a dialogue is written for an LLM: text and special tokens around what is asked and said."""

    name: str
    bos: str
    """What every sequence begins with; empty for LLMs without such a token."""
    system: str
    """What stands before the first turn."""
    user: str
    """Before what is asked."""
    reply: str
    """Between what is asked and the answer."""
    end: str
    """The one token that ends an answer."""
    after: str
    """Between that token and the next turn."""
    source: str


class Published(Frozen):
    """A whole VLM as its authors published it, in the hub's format."""

    name: str
    title: str
    path: str
    """Hub id, or a folder."""
    revision: str | None = None
    """Commit or tag of the hub; None: the newest."""
    native: Pixels | None = None
    """Resolution that it was published for, in pixels; None: what its processor says."""
    override: Pixels | None = None
    """Resolution that was asked for; see `harness.models.hub.set_resolution` for what it means to each. None: the
    processor's own, nothing of it is changed."""
    llm: str = ""
    """Title of its LLM."""
    source: str = ""


DRAWN = "drawn"
"""Path of the suites that are drawn when they are asked for."""


class Source(Frozen):
    """Where a suite's rows come from."""

    path: str
    """Hub id, folder or file in the hub's layout; `drawn` for what this project draws."""
    also: tuple[str, ...] = ()
    """Other ids under which the hub has the same data."""
    name: str | None = None
    """Configuration of the dataset."""
    split: str
    revision: str | None = None
    """Commit or tag of the hub; None: the newest."""
    images: dict[str, str] | None = None
    """Where images lie in a configuration of their own: its `name` and `split`, and its columns `id` and `image`."""
    stamp: str = ""
    """Of a folder: names, sizes and times of its files, so that changed data is not taken for the same."""


class Suite(Frozen):
    """An accuracy suite: where its rows come from, how it asks and how it scores."""

    name: Slug
    title: str
    stands_for: str = ""
    """The published benchmark whose schema and metric an embedded suite has."""
    metric: str
    """One of `harness.metrics`, with its protocol: `gqa@lmms-eval`; empty where others judge."""
    submission: str = ""
    """Format in which answers are handed to those who judge them (`harness.suites.submissions`)."""
    source: Source
    prompt: str
    """Jinja template over a row's columns."""
    fields: dict[str, str]
    """Jinja expressions: `id`, `answers` (unless others judge); `image`, `kind`, `options` (what a question lets one
    choose from), `where` (asked only if true)."""
    facts: dict[str, str] = {}
    """Jinja expressions for what the metric, or the submission, needs beside the answers."""
    images: Positive | None = None
    """At most so many images of the split; None: all."""
    max_new_tokens: Annotated[int, Field(ge=1, le=2**20)] = 8
    until: tuple[str, ...] = ()
    """An answer ends before the first of these."""
    version: int = 1
    """Raised when asking or scoring changes what a score means."""
    image: Literal["given", "grey"] = "given"
    """What is shown: each question's own image, or a uniform grey one of its size (`harness.evaluate.baselines`)."""


class Protocol(Frozen):
    """How latency is measured; everything that decides what a sample means."""

    version: int = 2
    """Raised when the code that measures changes what it measures."""
    blocks: int = Field(ge=1, le=1000)
    """Fresh processes that measure every component once: the unit of evidence. More may be added later."""
    warmup: int = Field(ge=1, le=10**6)
    """Fewest passes of a measurement that are kept but flagged and never counted."""
    warmup_seconds: float = Field(ge=0, le=10**6)
    """A measurement's warm-up goes on for this long, but for no more passes than may be counted."""
    min_samples: int = Field(ge=1, le=10**6)
    max_samples: int = Field(ge=1, le=10**6)
    """Bounds of the number of counted passes of a measurement."""
    precision: float = Field(gt=0, le=100)
    """Stop when the half-width of the 95% interval of the median is within this share of it."""
    max_seconds: float = Field(gt=0, le=10**6)
    """Stop after this long, whatever the precision, but with no fewer than six samples, or `min_samples` if that is
    less; the reason is recorded."""
    text_tokens: int = Field(ge=2, le=2**20)
    """Length of the prompt beside the image, of every model (FastVLM's template with a short question: 24)."""
    lost: float = Field(default=0.02, gt=0)
    """A pass is marked as disturbed when its threads waited for a processor, or the hypervisor took it away, for more
    than this share of its time, or when the device throttled."""
    disturbed: float = Field(default=0.25, gt=0, le=1)
    """A measurement is disturbed when more than this share of its counted passes is marked."""
    repeats: int = Field(default=1, ge=0, le=100)
    """How often a disturbed measurement is repeated before it is reported as disturbed."""


def grid_of(tiles: int) -> int:
    """Tiles along one side of the grid that stands beside an overview; 1 for one tile alone."""
    side = math.isqrt(max(tiles - 1, 1))
    if tiles < 1 or tiles == 2 or (tiles > 1 and side * side + 1 != tiles):
        raise HarnessError(f"tiles={tiles}: 1 is expected, or a grid and its overview: 5 (2 x 2), 10 (3 x 3), 17, ...")
    return side


class Point(Frozen):
    """One cell of the grid: everything that decides what is measured. Composed of parts, or published as a whole."""

    system: System | None = None
    """What the parts make up, if that has a name."""
    encoder: Encoder | None = None
    also: tuple[Encoder, ...] = ()
    """More encoders that see the same image, each at its native resolution."""
    connector: Connector | None = None
    fusion: Fusion | None = None
    llm: Llm | None = None
    published: Published | None = None
    tokens: tuple[Positive, Count] | None = None
    """Of a published VLM: visual tokens of the bench's images, and text tokens of its prompts."""
    resolution: Pixels
    """Side of the square that the (first) encoder sees, in pixels. Of a published VLM at its own size it is its
    processor's, in the terms in which another one is asked for: `harness.models.hub.side_of`."""
    tiles: Positive = 1
    """Squares that an image is cut into: 1, or a grid of g x g and an overview (AnyRes): g^2 + 1."""
    device: str
    dtype: Literal["float32", "float16", "bfloat16"]
    attention: str
    """transformers' `attn_implementation` of the LLM."""
    threads: Positive
    """Intra-op threads of torch on the CPU."""
    weights: str
    """`random`, or a prefix of the SHA-256 of the checkpoint's weights, configuration and tokenizer."""
    checkpoint: str = ""
    """`shipped:<name>` or the folder as it was given; not part of the identity, the weights' hash is."""
    suites: tuple[Suite, ...]
    """What the trained VLM is asked; nothing where the weights are random."""
    protocol: Protocol

    @model_validator(mode="after")
    def _is_whole(self) -> Point:
        composed = (self.encoder, self.connector, self.llm)
        if self.published is not None:
            if self.tokens is None or any(part is not None for part in composed):
                raise ValueError("a published VLM has tokens, and no parts of its own")
        elif None in composed:
            raise ValueError("encoder, connector and llm are expected, or a published VLM")
        try:
            grid_of(self.tiles)
        except HarnessError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def visual_tokens(self) -> int:
        """What the connector leaves of (resolution / stride)^2 a tile; of a published VLM what its processor makes of
        the bench's images."""
        if self.encoder is None:
            assert self.tokens is not None
            return self.tokens[0]
        assert self.connector is not None
        return self.tiles * self.connector.visual_tokens(self.encoder.visual_tokens(self.resolution))

    @property
    def sequence_tokens(self) -> int:
        """How many of the visual tokens are in the LLM's sequence; none where text only attends to them."""
        return 0 if self.fusion is not None and not self.fusion.in_sequence else self.visual_tokens

    @property
    def side(self) -> int:
        """Side of the whole input: that of the grid of tiles."""
        return self.resolution * grid_of(self.tiles)

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        if self.published is not None:
            return f"{self.published.name} {self.resolution}px"
        if self.system is not None:
            return " ".join([self.system.name, f"{self.side}px", *self.system.changed])
        assert self.encoder is not None
        assert self.llm is not None
        tiled = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        return f"{self.encoder.name} {self.side}px{tiled} {self.llm.name}"


class Machine(Frozen):
    """Where a number was measured; two machines never share a curve."""

    host: str
    """A hash of the host's name: tells machines apart without publishing the name."""
    system: str
    processor: str
    cores: Positive
    memory_bytes: Count
    device: Slug
    """Torch device type: cpu, cuda or mps."""
    device_name: str
    driver: str = ""
    build: str = ""
    """Build of the operating system, e.g. macOS' `25B78`: an update changes latencies."""
    governor: str = ""
    """The CPU's frequency governor, with `turbo off` and `SMT off` where they are; empty where the system hides it."""
    instructions: str = ""
    """The instruction set that torch's CPU kernels use, e.g. `AVX512`."""
    pools: tuple[str, ...] = ()
    """Thread pools and linear algebra libraries in the process, e.g. `openmp libgomp`, `mkl 2024.2`."""
    python: str
    libraries: dict[str, str]
    """Versions of what decides speed: torch, torchvision, timm, transformers."""

    @property
    def key(self) -> str:
        """Name of this machine's folder under `results/`."""
        return f"{self.device}-{fingerprint(self)}"


class Component(Frozen):
    """What is timed on its own: a vision encoder, a connector, an LLM, the layers between the LLM's that attend to
    visual features; or a whole VLM, to check their sum.

    The latency of an encoder depends on its architecture and the resolution, that of an LLM on its architecture and
    the number of tokens. So a grid of E encoders x R resolutions x L LLMs is E x R encoders and one LLM for each
    distinct number of tokens, and a point's time to first token is composed of them.
    """

    kind: Literal["encoder", "connector", "fusion", "llm", "vlm", "published"]
    encoder: Encoder | None = None
    """Of a connector, only its `features` and tokens count."""
    also: tuple[Encoder, ...] = ()
    connector: Connector | None = None
    fusion: Fusion | None = None
    llm: Llm | None = None
    """Of a connector or a fusion, only its width counts. The vocabulary has its real size here."""
    published: Published | None = None
    resolution: Pixels | None = None
    tiles: Positive = 1
    visual_tokens: Count
    text_tokens: Count
    device: str
    dtype: Literal["float32", "float16", "bfloat16"]
    attention: str
    threads: Positive
    weights: str
    """`random`; of a VLM the hash of its checkpoint."""
    checkpoint: str = ""
    protocol: Protocol

    @model_validator(mode="after")
    def _has_its_parts(self) -> Component:
        if missing := [part for part in PARTS_OF[self.kind] if getattr(self, part) is None]:
            raise ValueError(f"a component of kind {self.kind} has no {missing[0]}")
        return self

    @property
    def name(self) -> str:
        """Short name for a line of progress or an error."""
        parts = (self.encoder, self.llm)
        names = {
            "encoder": f"encoder {self.encoder and self.encoder.name} {self.resolution}px"
            + (f" x {self.tiles}" if self.tiles > 1 else ""),
            "connector": f"connector {self.connector and self.connector.name} "
            f"{' to '.join(p.name for p in parts if p)} {self.visual_tokens} tokens",
            "fusion": f"fusion {self.fusion and self.fusion.name} {self.visual_tokens}+{self.text_tokens} tokens",
            "llm": f"llm {self.llm and self.llm.name} {self.visual_tokens}+{self.text_tokens} tokens",
            "vlm": f"vlm {' + '.join(p.name for p in parts if p)} {self.resolution}px",
            "published": f"published vlm {self.published and self.published.name} {self.resolution}px",
        }
        return names[self.kind]


PARTS_OF = {
    "encoder": ("encoder", "resolution"),
    "connector": ("encoder", "connector", "llm"),
    "fusion": ("fusion", "llm"),
    "llm": ("llm",),
    "vlm": ("encoder", "connector", "llm", "resolution"),
    "published": ("published", "resolution"),
}
"""What a component of each kind cannot be without."""

STAGES = ("preprocess", "tokenize", "transfer", "encode", "project", "fuse", "prefill", "sample")
"""Stages of a staged pass in their order; see `harness.timing.bench` for what each covers."""

STAGES_OF = {
    "encoder": ("preprocess", "transfer", "encode"),
    "connector": ("project",),
    "fusion": ("fuse",),
    "llm": ("tokenize", "transfer", "prefill", "sample", "prefill_visual"),
    "vlm": (*(stage for stage in STAGES if stage != "fuse"), "prefill_visual", "ttft_fused"),
    "published": ("preprocess", "transfer", "encode", "prefill", "sample", "prefill_visual", "ttft_fused"),
}
"""What a measurement of a component times. A published VLM's own code tokenizes while it preprocesses and projects
while it encodes; in a whole VLM the layers of a fusion run within its prefill."""


def stages_of(component: Component) -> tuple[str, ...]:
    """What a measurement of this component times: there is no prefill over visual tokens where none are in the
    sequence."""
    stages = STAGES_OF[component.kind]
    return stages if component.visual_tokens else tuple(stage for stage in stages if stage != "prefill_visual")


MAIN_STAGE = {"encoder": "encode", "connector": "project", "fusion": "fuse", "llm": "prefill"}
"""The stage that a component of a point is measured for."""
MAIN_STAGES = (*MAIN_STAGE.items(), ("published", "encode"), ("published", "prefill"))
"""The stages of a point that are reported with their evidence, by the component that has them."""
WHOLE_VLM_KINDS = ("vlm", "published")
"""Kinds of component that are a whole VLM."""

TTFTS = {
    "ttft_paper": ("encode", "prefill_visual"),
    "ttft_model": ("encode", "project", "fuse", "prefill"),
    "ttft_user": STAGES,
}
"""The sums of stages that go by a name; `ttft_fused` is measured, not summed."""


class TimerTest(Frozen):
    """Whether a runtime's clock can be trusted; see `harness.timing.timer`. All times in seconds."""

    resolution: float
    """Smallest step of the clock."""
    empty: float
    """Median cost of timing nothing: two readings of the clock and a wait for an idle device."""
    launch: float
    """Until the calls that submit known work have returned."""
    awaited: float
    """Until the runtime says that the same work is done."""
    awaited_double: float
    """The same for twice the work."""
    fetched_after: float
    """From then until its result is on the host: next to nothing if the runtime really waited."""
    synchronous: bool
    """Whether a call returns only when its work is done, as on the CPU."""
    fault: str = ""
    """Why the runtime cannot be trusted, in one line; empty if it can."""


class Ceilings(Frozen):
    """The most that this device did in this process: the best of several runs each."""

    flops_per_second: PositiveFloat
    """A large square matrix product in the component's dtype, 2 n^3 operations."""
    bytes_per_second: PositiveFloat
    """A copy of a buffer larger than the caches, bytes read and written."""


class Work(Frozen):
    """What a stage must do, counted and not measured; see `harness.timing.costs`."""

    flops: Count
    """Floating-point operations of its matrix products, convolutions and attentions (two for a multiply-add)."""
    bytes: Count
    """Weights, inputs and outputs, each moved once: the traffic that no implementation can avoid."""
    eager_bytes: Count
    """What its operations read and write when each runs for itself."""
    parameters: Count

    @classmethod
    def total(cls, works: Sequence[Work], weights: Sequence[float] = ()) -> Work:
        """The sum of works, weighted if weights are given."""
        pairs = list(zip(weights or [1.0] * len(works), works, strict=True))
        return cls(**{name: round(sum(w * getattr(work, name) for w, work in pairs)) for name in cls.model_fields})


class Samples(Frozen):
    """Raw samples of one measurement. All tuples run over the same passes: the first `warmup` are flagged."""

    seconds: dict[str, tuple[Seconds, ...]]
    """By stage: seconds of each pass, warm-up first."""
    warmup: Count
    marks: tuple[str, ...]
    """For each pass: why it is disturbed, e.g. `waited 12%`; empty if it is not."""
    stop_reason: Literal["precision", "settled", "max_samples", "max_seconds"]
    repeated: dict[str, tuple[Seconds, ...]]
    """By stage: seconds of passes that repeat one input; far below the others, a cache hides the work."""
    overhead: float
    """Seconds that the bench itself took for each counted pass, outside of what it timed."""

    @model_validator(mode="after")
    def _run_over_the_same_passes(self) -> Samples:
        if not self.seconds or self.warmup >= len(self.marks):
            raise ValueError(f"{len(self.marks)} passes, {self.warmup} of them warm-up: none is left to count")
        for stage, series in self.seconds.items():
            if len(series) != len(self.marks):
                raise ValueError(f"{stage} has {len(series)} passes, {len(self.marks)} are marked")
        return self


class Telemetry(Frozen):
    """The machine while a component and those that it took turns with were measured; None where it does not say."""

    seconds: float
    load: float | None = None
    """Runnable processes before the measurement, of the last minute."""
    frequency_hz: tuple[float | None, float | None] = (None, None)
    """The processors' mean frequency before and after."""
    waited_seconds: float | None = None
    """How long this process' threads were ready to run and had no processor."""
    stolen: float | None = None
    """Share of the processors' time that a hypervisor gave to others during this component's turns."""
    foreign: float | None = None
    """Share of the processors' time that other processes used."""
    switches_voluntary: int | None = None
    switches_involuntary: int | None = None
    thermal: tuple[str, str] = ("", "")
    """Thermal state before and after: macOS' four words, or the hottest sensor in degrees Celsius; empty: unknown."""
    gpu_clock_hz: tuple[float | None, float | None] = (None, None)
    """The GPU's SM clock before and after."""
    gpu_throttle: tuple[str, ...] = ()
    """Reasons for which the GPU slowed down during the measurement."""
    gpu_power_watts: tuple[float | None, float | None] = (None, None)
    gpu_joules: float | None = None
    """Energy of the whole measurement, by the GPU's own counter."""


class Memory(Frozen):
    """Memory in bytes as if the component were alone in its process; None where it is unknown."""

    before: int | None
    """Before any module was built."""
    loaded: int | None
    """When it was built, before its first pass."""
    peak: int | None
    """Most while it worked."""
    source: str
    """What the three numbers are, e.g. `process (VmRSS, VmHWM)`."""


Status = Literal["ok", "out_of_memory", "crashed", "timeout", "invalid_output", "cached", "untrusted_timer", "error"]


class Entry(Frozen):
    """One line of the notebook: an outcome with where it comes from; a failure too."""

    schema_version: int = SCHEMA_VERSION
    key: str
    """What resume compares; see `component_key` and `question_key`."""
    status: Status
    reason: Line = ""
    """Why there is no result, in one line; empty when there is one."""
    machine: Machine
    commit: str
    """Commit of the harness, with `+dirty` when files differ from it; empty outside a checkout."""
    started: str
    """UTC, ISO 8601."""
    seconds: Seconds
    """What it took, loading included."""
    command: str
    """A command that measures this again."""

    @field_validator("schema_version", mode="before")
    @classmethod
    def _is_of_this_schema(cls, found: Any) -> Any:
        if isinstance(found, bool) or found != SCHEMA_VERSION:
            raise ValueError(f"written with schema {found}, this version reads {SCHEMA_VERSION}")
        return found

    @field_validator("started")
    @classmethod
    def _is_a_date(cls, found: str) -> str:
        if not re.match(r"\d{4}-\d\d-\d\d", found):
            raise ValueError(f"{found!r} is not a date")
        return found


class Measurement(Entry):
    """One component, measured once in one block."""

    component: Component
    block: Count
    """Which block: a fresh process in which all components take turns."""
    attempt: Count
    """0; more where the measurements before it were disturbed."""
    process: str
    """Names the process; measurements of one block share it, unless a failure ended it."""
    seed: int
    position: int
    """Place in the block's first round; `seed` and `block` decide it and the order of the later rounds."""
    disturbed: bool = False
    """Whether more passes are marked than the protocol allows."""
    timer: TimerTest | None = None
    samples: Samples | None = None
    telemetry: Telemetry | None = None
    memory: Memory | None = None
    ceilings: Ceilings | None = None
    work: dict[str, Work] = {}

    @model_validator(mode="after")
    def _has_samples_if_it_is_good(self) -> Measurement:
        if (self.status == "ok") != (self.samples is not None):
            raise ValueError(f"status {self.status} {'without' if self.samples is None else 'with'} samples")
        if self.samples is not None and self.samples.seconds.keys() != set(stages_of(self.component)):
            raise ValueError(f"a {self.component.kind} has stages {', '.join(self.samples.seconds)}")
        return self


class Answer(Frozen):
    """One answered question."""

    question_id: str
    image: str
    """Image the question is about: the cluster of its standard error."""
    kind: str
    text: str
    """The raw response."""
    parsed: str | None
    """What the metric read from it; None: nothing that it could compare, and so the answer is wrong."""
    score: Share | None
    """None: others judge it."""
    chance: Share = 0.0
    """What a guess at random would have scored on average, where nothing could be read (MMMU's official rule)."""
    facts: Plain = {}
    """What a submission needs beside the answer."""


class Prior(Frozen):
    """What questions of one kind and form score without a look at the image and without a model; see
    `harness.evaluate.baselines`."""

    kind: str
    form: Literal["options", "yes/no", "open"]
    """What is answered: the letter of an option, yes or no, anything else."""
    questions: Positive
    guess: Share
    """Mean official score of an answer drawn from those that are possible."""
    majority: Share
    """Mean official score of the one answer that earns most."""
    answer: str
    """That answer."""
    exact: bool = True
    """Whether every possible answer was scored against every question; if not, a part of them that a seed chose."""


class Score(Frozen):
    """Answers of one suite; statistics over them are derived by `harness.stats`."""

    suite: str
    metric: str
    data: str
    """Fingerprint of the rows, images included."""
    answers: Annotated[tuple[Answer, ...], Field(min_length=1)]
    revision: str = ""
    """Of the data: the hub's commit; empty for a folder and for what is drawn."""
    seconds: float
    """Wall time of answering."""
    resumed: int = 0
    """How many answers the journal of an earlier run had."""
    priors: tuple[Prior, ...] = ()
    """What its kinds of questions score without a look; empty where others judge, and in records from before."""


class Evaluation(Entry):
    """One point asked one suite."""

    point: Point
    suite: Suite
    score: Score | None = None

    @model_validator(mode="after")
    def _has_a_score_if_it_is_good(self) -> Evaluation:
        if (self.status == "ok") != (self.score is not None):
            raise ValueError(f"status {self.status} {'without' if self.score is None else 'with'} a score")
        if self.score is None:
            return self
        if (self.score.suite, self.score.metric) != (self.suite.name, self.suite.metric):
            raise ValueError(f"suite {self.suite.name} ({self.suite.metric}) has a score of {self.score.suite}")
        if any((answer.score is None) != bool(self.suite.submission) for answer in self.score.answers):
            raise ValueError("an answer has a score exactly where nobody else judges")
        if len({answer.question_id for answer in self.score.answers}) < len(self.score.answers):
            raise ValueError("a question is answered twice")
        return self


NAMES: dict[str, Any] = {
    "encoder": {"name", "title", "source", "native"},
    "llm": {"name", "title", "source"},
    "connector": {"name", "title", "source"},
    "fusion": {"name", "title", "source"},
    "published": {"name", "title", "path", "revision", "native", "llm", "source"},
}
"""What a part is called and where it comes from decides no latency."""


def component_key(component: Component, machine: Machine) -> str:
    """What makes two measurements measurements of the same thing."""
    content = component.model_dump(
        mode="json", exclude={"checkpoint": True, "protocol": {"blocks", "repeats"}, **NAMES}, exclude_none=True
    )
    if component.kind in ("connector", "fusion"):  # shapes are all that they need of their neighbours
        content["llm"] = component.llm and component.llm.config.get("hidden_size")
    if component.kind == "connector":
        content["encoder"], content["also"] = inputs_of(component), []
        content["resolution"] = None
    return fingerprint([SCHEMA_VERSION, content, machine.model_dump(mode="json")])


def inputs_of(component: Component) -> list[tuple[int, int]]:
    """Visual tokens of one image or tile, and channels, that each encoder hands to a connector."""
    assert component.encoder is not None
    assert component.resolution is not None
    first = component.encoder.visual_tokens(component.resolution), component.encoder.features
    return [first, *((encoder.visual_tokens(encoder.native), encoder.features) for encoder in component.also)]


def modules_of(component: Component) -> str:
    """Equal for components that share their modules: what resolution and token counts do not change."""
    same = {"tiles", "visual_tokens", "text_tokens", "protocol"}
    plain = component.connector is None or component.connector.visual_tokens(4096) == 4096
    if component.kind in ("encoder", "llm") or (component.kind == "vlm" and plain):  # others may tell places apart
        same |= {"resolution"}
    return component.model_dump_json(exclude=same)


def question_key(point: Point, suite: Suite, machine: Machine, rows: str) -> str:
    """What makes two evaluations the same: weights, input, suite and the rows it draws; how latency is measured does
    not, nor what a question lets one choose from, which decides neither an answer nor its score."""
    content = point.model_dump(
        mode="json", exclude={"checkpoint": True, "suites": True, "protocol": True, "published": NAMES["published"]}
    )
    same: dict[str, Any] = {"fields": {"options"}}
    if suite.image == "given":
        same["image"] = True  # as before there was a choice
    asked = suite.model_dump(mode="json", exclude=same)
    return fingerprint([SCHEMA_VERSION, content, asked, machine.model_dump(mode="json"), rows])


class Planned(Frozen):
    """A point of a sweep and where its results are found."""

    point: Point
    components: dict[str, str]
    """Kind -> key. `vlm` is there for the few points that are also measured directly."""
    evaluations: dict[str, str]
    """Suite -> key."""
    blind: dict[str, str] = {}
    """Suite -> key of the same evaluation with grey images, where one is taken."""
    command: str
    no_accuracy: Line = ""
    """Why it is not asked anything; empty if it is."""

    @model_validator(mode="after")
    def _has_known_parts(self) -> Planned:
        for part in self.components:
            kind, at, number = part.partition("@")
            if kind not in STAGES_OF or (at and not number.isdecimal()):
                raise ValueError(f"{part!r} is not a part of a point")
        depths = [part for part in self.components if part.startswith("llm@")]
        if len(depths) == 1 or (depths and (self.point.llm is None or "llm" in self.components)):
            raise ValueError("an LLM is measured whole, or with several numbers of layers")
        return self


class Claim(Frozen):
    """A published claim, with the points that stand for its sides here."""

    id: str
    statement: str
    kind: str
    """What it is about: `ttft_ratio`, `ttft_reduction`, `token_ratio`, `encoder_params_ratio`, `score_delta`, ..."""
    published: float
    rounding: float
    """Half a unit of the last digit of the published value."""
    source: str
    references: tuple[Point, ...] = ()
    """What the candidate is compared with; several where the public record contradicts itself."""
    candidate: Point | None = None
    parameters: dict[str, int] = {}
    """Of a claim about sizes: weights of each side's encoder, by its name."""


class Pins(Frozen):
    """The very entries that a run rests on, each by the hash of its line in the store."""

    measurements: dict[str, dict[Count, str]]
    """Key of a component -> block -> entry."""
    evaluations: dict[str, str]
    """Key of an evaluation -> entry."""


class Manifest(Frozen):
    """The last run of a sweep: which results belong to it."""

    name: Slug
    title: Line
    published: str = ""
    """Training recipe whose published scores stand beside the latencies; empty: accuracy was measured."""
    points: tuple[Planned, ...]
    claims: tuple[Claim, ...] = ()
    pins: Pins | None = None
    """None while the first run has not ended: what is newest counts until then."""
    command: str
    started: str
