"""Models without weights: what shapes come out of a module, without memory for it and without computing it.

torch's `meta` device alone cannot say it of a published VLM, whose code looks into the sizes that its processor gives
it (how many tiles, which aspect ratio). Here whatever comes of weights has a shape only, all else keeps its content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Unknowable(Exception):
    """A module's code looks into what was computed, where nothing was."""


INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)
"""Operations that may be given a mask, whose content decides a shape."""


class Hollow(Tensor):
    """A tensor of the CPU with shape and type, and nothing in it; operations on it give others."""

    meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, meta: Tensor) -> Hollow:
        """`meta` has its shape, on torch's meta device."""
        made: Hollow = Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=torch.device("cpu"),
        )
        made.meta = meta
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """`func` on the shapes of its arguments; raises `Unknowable` where it needs their content."""
        if func in INDEXED:
            args = (args[0], positions(args[1]), *args[2:])
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

        if func is torch.ops.aten._local_scalar_dense.default:
            raise Unknowable("a number is taken from a tensor")
        try:
            made = func(*tree_map(inside, args), **tree_map(inside, kwargs or {}))
        except NotImplementedError as error:
            raise Unknowable(str(error)) from error
        return tree_map(outside, made)


def positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with the places that are set in them instead of masks, where masks have content."""
    found: list[Tensor | None] = []
    for index in indices:
        masks = index is not None and index.dtype is torch.bool and not isinstance(index, Hollow)
        found += [*index.nonzero().unbind(1)] if index is not None and masks else [index]
    return found


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
