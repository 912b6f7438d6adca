"""What a stage must do, counted without doing it: operations and bytes, on torch's `meta` device.

Operations come from the formulas of torch's own flop counter. Bytes are counted twice: once as the traffic that no
implementation can avoid (weights, inputs and outputs, each moved once), and once as what the operations read and write
when each runs for itself. The first gives the floor of a stage on a device (`harness.analysis.composition.floor`), the
second tells how much of the distance to it is memory traffic between operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from harness.models.connectors import build_connector
from harness.models.encoders import VisionEncoder, build_encoder
from harness.models.fusions import Fused
from harness.models.llms import build_llm, prefill, splice
from harness.schema import (
    Component,
    ComposedVlmComponent,
    ConnectorComponent,
    Encoder,
    EncoderComponent,
    FusionComponent,
    HandoverComponent,
    HarnessError,
    HubComponent,
    LlmComponent,
    Work,
)

META = torch.device("meta")


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations and bytes of everything that is dispatched."""

    def __init__(self, weights: list[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.eager_bytes = 0
        self._weights = {_storage(weight): _size(weight) for weight in weights}
        self.used: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.is_view:
            return out
        if func._overloadpacket in flop_registry:
            self.flops += int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func._overloadpacket is torch.ops.aten.embedding:  # reads the rows that are asked for, not the table
            self.eager_bytes += 2 * _size(out)
            return out
        self.used |= {_storage(tensor) for tensor in tensors} & self._weights.keys()
        self.eager_bytes += sum(map(_size, tensors)) + sum(
            _size(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor)
        )
        return out

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that an operation took."""
        return sum(self._weights[storage] for storage in self.used)


class _Attention(TorchFunctionMode):
    """Counts scaled dot-product attention as the fused operation that it is; on `meta` torch would take it apart."""

    def __init__(self, counter: _Counter):
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (list(args) + [kwargs.get(name) for name in ("query", "key", "value")][len(args) :])[:3]
        batch, heads, length, width = query.shape
        pairs = length * key.shape[-2]
        if kwargs.get("is_causal"):  # what lies above the diagonal need not be computed
            pairs = pairs - length * (length - 1) // 2
        self._counter.flops += 2 * batch * heads * pairs * (width + value.shape[-1])
        out = torch.empty(batch, heads, length, value.shape[-1], device=META, dtype=query.dtype)
        self._counter.eager_bytes += sum(map(_size, (query, key, value, out)))
        return out


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def count(module: nn.Module, call: Callable[[], Any], given: list[Tensor]) -> Work:
    """The work of `call`, which runs `module` on `given`; everything on `meta`."""
    weights = [*module.parameters(), *module.buffers()]
    counter = _Counter(weights)
    with torch.no_grad(), counter, _Attention(counter):  # inference mode would hide what a linear layer consists of
        out = call()
    left = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return Work(
        flops=counter.flops,
        bytes=counter.weight_bytes + sum(map(_size, [*given, *left])),
        eager_bytes=counter.eager_bytes,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def parts_of(component: Component) -> dict[str, nn.Module]:
    """The component's modules on `meta`: `encoder` (more of a VLM: `encoder@1`, ...), `connector`, `fusion`, `llm`."""
    dtype: torch.dtype = getattr(torch, component.execution.dtype)
    match component:
        case EncoderComponent():
            return {"encoder": build_encoder(component.encoder, device=META).to(dtype).eval()}
        case ConnectorComponent():
            with META:
                connector = build_connector(component.connector, component.inputs, component.width)
            return {"connector": connector.to(dtype).eval()}
        case FusionComponent():
            with META:
                return {"fusion": Fused(component.fusion, component.width).to(dtype)}
        case LlmComponent():
            return {"llm": build_llm(component.llm, component.execution.attention, META, dtype)}
        case ComposedVlmComponent():
            parts: dict[str, nn.Module] = {}
            for number, each in enumerate((component.encoder, *component.also)):
                name = f"encoder@{number}" if number else "encoder"
                parts[name] = build_encoder(each, device=META).to(dtype).eval()
            width = component.llm.config["hidden_size"]
            with META:
                parts["connector"] = build_connector(component.connector, component.inputs, width).to(dtype).eval()
                if component.fusion is not None:
                    parts["fusion"] = Fused(component.fusion, width).to(dtype)
            return {**parts, "llm": build_llm(component.llm, component.execution.attention, META, dtype)}
        case HandoverComponent() | HubComponent():  # nothing is computed; its code may look into tensors
            return {}


def encoder_parameters(spec: Encoder) -> int:
    """How many weights an encoder has."""
    return sum(parameter.numel() for parameter in build_encoder(spec, device=META).parameters())


def parameters_of(component: Component) -> int:
    """How many weights the component has; `HarnessError` if its parts do not fit each other."""
    with named(component):
        return sum(parameter.numel() for part in parts_of(component).values() for parameter in part.parameters())


@contextmanager
def named(component: Component) -> Iterator[None]:
    """What cannot be put together is the asker's fault, and told in one line."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError, ArithmeticError) as error:
        raise HarnessError(f"{component.name}: its parts do not fit: {error or type(error).__name__}") from error


def work_of(component: Component) -> dict[str, Work]:
    """The work of each of a component's stages that computes; `HarnessError` if its parts do not fit each other."""
    with named(component):
        return _work_of(component)


def _work_of(component: Component) -> dict[str, Work]:
    """The work of each of a component's stages that computes: `encode`, `project`, `fuse`, `prefill`,
    `prefill_visual`. In a whole VLM the layers of a fusion run within its prefill; they are counted apart."""
    parts = parts_of(component)
    match component:
        case EncoderComponent():
            return {"encode": _encode(parts["encoder"], component.resolution, component.tiles)}
        case ConnectorComponent():
            return {"project": _project(parts["connector"], component.inputs, component.tiles)}
        case FusionComponent():
            length = component.visual_tokens + component.text_tokens
            return {"fuse": _fuse(parts["fusion"], length, component.width, component.fusion.memory)}
        case LlmComponent():
            return _prefill(parts["llm"], component)
        case ComposedVlmComponent():
            towers = [_encode(parts["encoder"], component.resolution, component.tiles)]
            towers += [_encode(parts[f"encoder@{n}"], each.native, 1) for n, each in enumerate(component.also, 1)]
            works = {
                "encode": Work.total(towers),
                "project": _project(parts["connector"], component.inputs, component.tiles),
                **_prefill(parts["llm"], component),
            }
            if (fusion := component.fusion) is not None:
                length = component.visual_tokens if fusion.in_sequence else component.text_tokens
                works["fuse"] = _fuse(parts["fusion"], length, component.llm.config["hidden_size"], fusion.memory)
            return works
        case HandoverComponent() | HubComponent():
            return {}


def _given(module: nn.Module, *shape: int) -> Tensor:
    """An input on `meta` in the precision of a module."""
    first = next(module.parameters(), None)
    return torch.empty(*shape, device=META, dtype=torch.float32 if first is None else first.dtype)


def _encode(tower: nn.Module, resolution: int, tiles: int) -> Work:
    cast(VisionEncoder, tower).prepare(resolution)
    pixels = _given(tower, tiles, 3, resolution, resolution)
    return count(tower, lambda: tower(pixels), [pixels])


def _project(connector: nn.Module, inputs: Sequence[tuple[int, int]], tiles: int) -> Work:
    tokens = [_given(connector, tiles, *shape) for shape in inputs]
    return count(connector, lambda: connector(*tokens), tokens)


def _fuse(fused: nn.Module, length: int, width: int, shape: tuple[int, int, int]) -> Work:
    hidden, memory = _given(fused, 1, length, width), _given(fused, *shape)
    return count(fused, lambda: fused(hidden, memory), [hidden, memory])


def _prefill(module: nn.Module, component: LlmComponent | ComposedVlmComponent) -> dict[str, Work]:
    llm = cast(PreTrainedModel, module)
    visual = _given(llm, 1, component.visual_tokens, component.llm.config["hidden_size"])
    before, after = (torch.zeros(1, n, dtype=torch.long, device=META) for n in (1, component.text_tokens - 1))

    def run(embeddings: Callable[[], Tensor]) -> list[Tensor]:
        logits, kv = prefill(llm, embeddings())
        return [logits, *(tensor for layer in kv.layers for tensor in (layer.keys, layer.values))]

    works = {"prefill": count(llm, lambda: run(lambda: splice(llm, before, visual, after)), [visual])}
    if component.visual_tokens:
        works["prefill_visual"] = count(llm, lambda: run(lambda: visual), [visual])
    return works
