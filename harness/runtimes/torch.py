"""Eager torch: cpu, cuda and mps with the same code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from harness import runtimes
from harness.machine import resolve_device
from harness.models.answering import Prepared
from harness.models.connectors import build_connector
from harness.models.encoders import VisionEncoder
from harness.models.fusions import Fused
from harness.models.hub import fit_prompt
from harness.models.llms import build_llm, prefill, splice
from harness.models.loading import load_hub_model, load_trained
from harness.models.vlm import Vlm, VlmSpec
from harness.schema import (
    ComposedVlmComponent,
    ConnectorComponent,
    EncoderComponent,
    Execution,
    FusionComponent,
    HubComponent,
    LlmComponent,
)

PROBE = {"cpu": 512, "cuda": 4096, "mps": 1024}
"""Side of the matrices of the timer test: some milliseconds of work."""
PRODUCT = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Side of the matrices whose product shows the most that a device can compute."""
BUFFER = {"cpu": 256 * 2**20, "cuda": 2**30, "mps": 512 * 2**20}
"""Bytes of the buffer whose copy shows the most that it can move; several times the caches."""


class TorchDevice:
    """One torch device: how to wait for it, its memory, and known work for `harness.timing.timer`."""

    def __init__(self, device: str, dtype: str, threads: int):
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.synchronous = device == "cpu"
        self._own_peak = True
        self._kept: dict[str, Tensor] = {}

    def wait(self) -> None:
        """Return when everything submitted to the device is done; on the CPU calls are synchronous."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self._kept:
            made = torch.rand(*shape, device=self.device, dtype=torch.float32)
            self._kept[name] = (made / shape[-1] ** 0.5).to(self.dtype)
        return self._kept[name]

    @torch.inference_mode()
    def work(self, repeats: int) -> None:
        """Submit the same matrix product `repeats` times, each on the result of the one before."""
        rows = PROBE[self.device.type]
        matrix = self._tensor("matrix", rows, rows)
        result = self._tensor("start", rows, rows)
        for _ in range(repeats):
            result = torch.mm(matrix, result).clamp_(0, 1)
        self._kept["result"] = result

    @torch.inference_mode()
    def fetch(self) -> None:
        """Bring one number of `work`'s result to the host."""
        self._kept["result"][0, 0].item()

    @torch.inference_mode()
    def matrix_product(self) -> int:
        """Submit one large matrix product; returns its floating-point operations."""
        rows = PRODUCT[self.device.type]
        if "out" not in self._kept:
            self._kept["out"] = torch.empty(rows, rows, device=self.device, dtype=self.dtype)
        torch.mm(self._tensor("left", rows, rows), self._tensor("right", rows, rows), out=self._kept["out"])
        return 2 * rows**3

    @torch.inference_mode()
    def copy(self) -> int:
        """Submit one copy of a large buffer; returns the bytes read and written."""
        count = BUFFER[self.device.type] // 4
        for name in ("source", "target"):
            if name not in self._kept:
                self._kept[name] = torch.ones(count, device=self.device, dtype=torch.float32)
        self._kept["target"].copy_(self._kept["source"])
        return 2 * 4 * count

    def release(self) -> None:
        """Give back what the probes hold."""
        self._kept.clear()
        self.empty_cache()

    def empty_cache(self) -> None:
        """Give back what the allocator keeps for later."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def allocated(self) -> int:
        """Bytes in use now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        if self.device.type == "mps":
            return torch.mps.current_allocated_memory()
        return int(psutil.Process().memory_info().rss)

    def free_bytes(self) -> int:
        """Bytes that may still be used."""
        return torch.cuda.mem_get_info()[0] if self.device.type == "cuda" else runtimes.free_memory()

    def reset_peak(self) -> None:
        """Start a new peak of memory where the system can."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self._own_peak = True
            except OSError:  # a hardened container forbids it
                self._own_peak = False

    def peak(self) -> tuple[int | None, str]:
        """Largest memory since `reset_peak` in bytes, and what that number is."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device), "CUDA allocator (allocated, its own peak)"
        if self.device.type == "mps":
            return (
                torch.mps.current_allocated_memory(),
                "MPS allocator, sampled after the last pass (torch has no peak)",
            )
        if sys.platform == "linux":
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    since = "" if self._own_peak else ", peak since its start"
                    return int(line.split()[1]) * 1024, f"process (RSS, VmHWM{since})"
            return None, "unknown"
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset), "process (RSS, peak working set since its start)"
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        return peak, "process (RSS, ru_maxrss since its start)"


class Runtime(runtimes.Runtime):
    """Every kind of component, in eager mode."""

    RUNS = frozenset({"encoder", "handover", "connector", "fusion", "llm", "composed_vlm", "hub"})

    def __init__(self, execution: Execution):
        super().__init__(execution)
        self.device: TorchDevice = TorchDevice(execution.device, execution.dtype, execution.threads)
        self._weights: dict[int, Tensor] = {}

    @classmethod
    def libraries(cls) -> dict[str, str]:
        """Versions of torch and of what builds modules with it."""
        return {name: version(name) for name in ("torch", "torchvision", "timm", "transformers")}

    @classmethod
    def resolve_device(cls, asked: str) -> str:
        """`auto`, `cpu`, `cuda` or `mps` -> the device that torch sees."""
        return resolve_device(asked)

    def enter(self) -> None:
        """Threads are a setting of the process."""
        torch.set_num_threads(self.execution.threads)

    def session(self) -> AbstractContextManager[Any]:
        """Inference mode, entered once: a generator that entered it would do so at every stage, on the clock."""
        return torch.inference_mode()

    @property
    def _place(self) -> tuple[torch.device, torch.dtype]:
        return self.device.device, self.device.dtype

    def put(self, host: np.ndarray) -> Tensor:
        """A host array on the device, in the execution's precision."""
        return torch.from_numpy(host).to(*self._place)

    def put_ids(self, ids: Sequence[int]) -> Tensor:
        """Token ids (1, T) on the device."""
        return torch.tensor([ids], device=self.device.device)

    def take(self, here: Tensor) -> np.ndarray:
        """A tensor on the host; waits for it."""
        found: np.ndarray = here.float().cpu().numpy()
        return found

    def perturb(self, given: Tensor, value: float) -> None:
        """Set the first element."""
        if given.numel():  # text that only attends to visual tokens has none among its inputs
            given.view(-1)[0] = value

    def checksum(self, out: Tensor) -> float:
        """Reduce an output to one number; a plain sum is always near zero behind a layer norm."""
        flat = out.flatten()
        if flat.dtype is not torch.float32:
            flat = flat.float()  # half precision might overflow in the sum alone
        if flat.numel() not in self._weights:  # of a few sizes: components take turns
            self._weights[flat.numel()] = (torch.arange(flat.numel(), device=flat.device) % 1009).float().cos()
        return torch.dot(flat, self._weights[flat.numel()]).item()

    def encoder(self, component: EncoderComponent) -> runtimes.EncoderModule:
        """A vision encoder of random weights, in its inference form."""
        torch.manual_seed(0)
        device, dtype = self._place
        with torch.device(device):
            return _Encoder(VisionEncoder(component.encoder).to(dtype).eval())

    def connector(self, component: ConnectorComponent) -> _Counted:
        """A connector of random weights."""
        torch.manual_seed(0)
        device, dtype = self._place
        with torch.device(device):
            return _Counted(build_connector(component.connector, component.inputs, component.width).to(dtype).eval())

    def fusion(self, component: FusionComponent) -> runtimes.FusionModule:
        """A fusion's layers of random weights."""
        torch.manual_seed(0)
        device, dtype = self._place
        with torch.device(device):
            return _Counted(Fused(component.fusion, component.width).to(dtype).eval())

    def language(self, component: LlmComponent) -> _Language:
        """An LLM of random weights."""
        torch.manual_seed(0)
        return _Language(build_llm(component.llm, self.execution.attention, *self._place))

    def composed_vlm(self, component: ComposedVlmComponent) -> _Vlm:
        """A whole VLM, from its checkpoint or of random weights."""
        if component.checkpoint:
            return _Vlm(load_trained(component.checkpoint, component.weights, component.encoder, self.execution))
        spec = VlmSpec(
            encoder=component.encoder,
            also=component.also,
            connector=component.connector,
            fusion=component.fusion,
            llm=component.llm,
            training_form=False,
        )
        torch.manual_seed(0)
        device, dtype = self._place
        vlm = Vlm(spec, None, self.execution.attention, device, dtype, component.resolution)
        return _Vlm(vlm.eval())

    def hub_model(self, component: HubComponent) -> _Hub:
        """A VLM as its authors published it, from its safetensors."""
        return _Hub(load_hub_model(component.model, component.weights, self.execution))


class _Calls:
    """Counts a module's forward passes by a hook, whatever the code around it believes. It does not know the module:
    a cycle would keep the weights until the next search for garbage."""

    def __init__(self, module: nn.Module):
        self.count = 0
        module.register_forward_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


class _Counted:
    """A module and how often it ran."""

    def __init__(self, module: nn.Module):
        self.module, self._calls = module, _Calls(module)

    @property
    def calls(self) -> int:
        return self._calls.count

    @calls.setter
    def calls(self, value: int) -> None:
        self._calls.count = value

    def __call__(self, *given: Tensor) -> Tensor:
        return self.module(*given)  # type: ignore[no-any-return]


class _Encoder(_Counted):
    module: VisionEncoder

    def at(self, resolution: int) -> None:
        self.module.prepare(resolution)


class _Language(_Counted):
    def __init__(self, llm: Any):
        super().__init__(llm)
        self.llm = llm
        self.vocabulary = int(llm.config.vocab_size)

    def prefill(self, before: Tensor, visual: Tensor, after: Tensor) -> tuple[Tensor, Callable[[], int]]:
        logits, cache = prefill(self.llm, self._embed(before, visual, after))
        return logits, cache.get_seq_length

    def _embed(self, before: Tensor, visual: Tensor, after: Tensor) -> Tensor:
        return splice(self.llm, before, visual, after)

    def prefill_visual(self, visual: Tensor) -> None:
        prefill(self.llm, visual)

    def sample(self, logits: Tensor) -> int:
        return int(logits.argmax(-1).item())


class _WithinVlm(_Language):
    """The LLM of a whole VLM, into which layers of a fusion may be inserted."""

    def __init__(self, vlm: Vlm):
        super().__init__(vlm.llm)
        self.vlm = vlm

    def _embed(self, before: Tensor, visual: Tensor, after: Tensor) -> Tensor:
        return self.vlm.prompt(visual, before, after)

    def prefill_visual(self, visual: Tensor) -> None:
        if self.vlm.fused is not None:  # the visual tokens then stand first
            self.vlm.fused.places = slice(0, visual.shape[1])
        super().prefill_visual(visual)


class _Vlm:
    def __init__(self, vlm: Vlm):
        self.vlm = vlm
        towers = [vlm.encoder, *(cast(VisionEncoder, each) for each in vlm.also)]
        self.encoders = [_Encoder(tower) for tower in towers]
        self.language = _WithinVlm(vlm)

    def at(self, resolution: int) -> None:
        self.vlm.prepare(resolution)

    def question_ids(self, question: str) -> tuple[list[int], list[int]] | None:
        return self.vlm.question_ids(question) if self.vlm.tokenizer else None

    def project(self, *features: Tensor) -> Tensor:
        return self.vlm.project(*features).flatten(0, 1)[None]  # the tiles of one image are one sequence


class _Hub:
    """Its calls are those of the less or more often used of its two modules."""

    def __init__(self, model: Any):
        self.model = model
        self._counted = [_Counted(model.model.get_encoder(modality="image")), _Counted(model.core)]

    @property
    def calls(self) -> int:
        return next((each.calls for each in self._counted if each.calls != 1), 1)

    @calls.setter
    def calls(self, value: int) -> None:
        for each in self._counted:
            each.calls = value

    def prepare(self, image: bytes, question: str, text_tokens: int, number: int) -> Any:
        prepared = self.model.prepare([image], [question])
        prompt = fit_prompt(prepared.prompts[0], self.model.image_token, text_tokens)
        pixels = prepared.image["pixel_values"].clone()
        pixels.view(-1)[0] = (number % 997) / 997  # the images return after a while; their pixels never do
        visual = int((prompt["input_ids"] == self.model.image_token).sum())
        return {**prepared.image, "pixel_values": pixels}, prompt, visual

    def put(self, prepared: Any) -> Any:
        device = self.model.device
        image, prompt = ({name: value.to(device) for name, value in given.items()} for given in prepared[:2])
        return Prepared(image, ()), prompt

    def encode(self, given: Any) -> Any:
        return self.model.encode([given[0]])

    def prefill(self, given: Any, encoded: Any) -> tuple[Tensor, Callable[[], int]]:
        image, prompt = given
        found = self.model.begin([image], [prompt], encoded, whole=True)
        return found.logits, found.cache.get_seq_length

    def prefill_visual(self, given: Any, encoded: Any) -> None:
        image, prompt = given
        places = (prompt["input_ids"][0] == self.model.image_token).nonzero()[:, 0]
        region = {name: value[:, places[0] : places[-1] + 1] for name, value in prompt.items()}
        self.model.begin([image], [region], encoded, whole=True)

    def sample(self, logits: Tensor) -> int:
        return int(logits.argmax(-1).item())
