"""Models without weights: what shapes come out of a module, without memory for it and without computing it.

torch's `meta` device alone cannot say it of a published VLM, whose code looks into the sizes that its processor gives it
(how many tiles, which aspect ratio). Here whatever comes of weights has a shape only, and all else keeps its content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Hollow(Tensor):
    """A tensor of the CPU with shape and type, and nothing in it; operations on it give others."""

    meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, meta: Tensor) -> Hollow:
        """`meta` has its shape, on torch's meta device."""
        made: Hollow = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device="cpu",
        )
        made.meta = meta
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`func` on the shapes of its arguments."""
        known: dict[int, Hollow] = {}

        def inside(value: Any) -> Any:
            if isinstance(value, Hollow):
                known[id(value.meta)] = value
                return value.meta
            if isinstance(value, Tensor):
                return value.to("meta")
            return torch.device("meta") if isinstance(value, torch.device) else value

        def outside(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else Hollow(value)  # what is changed in place stays itself

        return tree_map(outside, func(*tree_map(inside, args), **tree_map(inside, kwargs or {})))


def hollow(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that `build` makes, its weights and buffers hollow."""
    with torch.device("meta"):
        module = build()
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta:
                    held[name] = Hollow(tensor.detach())  # type: ignore[assignment]
    return module.eval()
