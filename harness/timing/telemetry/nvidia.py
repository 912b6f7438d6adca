"""What an NVIDIA GPU tells (nvidia-ml-py); what a card does not tell is missing."""

from __future__ import annotations

from typing import Any

from harness.timing import telemetry

HARMLESS = 0x1 | 0x2 | 0x10 | 0x100
"""NVML's reasons for a lower clock that are no disturbance: idle, set by the user, sync boost, display."""


class Source(telemetry.Source):
    """Clock, power, energy, and reasons for a lower clock."""

    MEANINGS = {
        "gpu_clock_hz": "the GPU's SM clock",
        "gpu_watts": "power of the GPU's board",
        "gpu_joules": "energy of the GPU, by its own counter",
    }

    def __init__(self, device: str):
        super().__init__(device)
        gpu = find_gpu(device)
        if gpu is None:
            raise telemetry.Absent
        self.gpu = gpu

    def gauges(self) -> dict[str, float]:
        """Clock and power."""
        found = {"gpu_clock_hz": self.gpu.clock(), "gpu_watts": self.gpu.power()}
        return {name: value for name, value in found.items() if value is not None}

    def counters(self) -> dict[str, float]:
        """Energy."""
        energy = self.gpu.energy()
        return {} if energy is None else {"gpu_joules": energy}

    def throttle(self) -> str:
        """Reasons for a lower clock."""
        return self.gpu.throttle()


class Gpu:
    """One card."""

    def __init__(self, library: Any, index: int):
        self._nvml = library
        self._handle = library.nvmlDeviceGetHandleByIndex(index)

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def throttle(self) -> str:
        """Names of the reasons for a lower clock, without the harmless ones."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        active = (reasons or 0) & ~HARMLESS
        names = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal"}
        names[0x80] = "power brake"
        return ", ".join(name for bit, name in names.items() if active & bit)

    def use(self) -> float | None:
        """Share of the last moments in which a kernel ran."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return None if rates is None else float(rates.gpu) / 100

    def clock(self) -> float | None:
        """SM clock in hertz."""
        megahertz = self._ask("nvmlDeviceGetClockInfo", getattr(self._nvml, "NVML_CLOCK_SM", 1))
        return None if megahertz is None else megahertz * 1e6

    def power(self) -> float | None:
        """Board power in watts."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1e3

    def energy(self) -> float | None:
        """Joules since the driver was loaded: a counter, unlike power, which many cards sample only now and then."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3


def find_gpu(device: str) -> Gpu | None:
    """The card that torch sees as its first; None without one, or without its library."""
    if device != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        import torch

        # NVML counts all cards, torch those that CUDA_VISIBLE_DEVICES leaves: the UUID is the same for both.
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        for index in range(pynvml.nvmlDeviceGetCount()):
            found = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
            if uuid in (found if isinstance(found, str) else found.decode()):
                return Gpu(pynvml, index)
    except Exception:  # no driver, no permission, an old library: telemetry is missing, the measurement goes on
        return None
    return None
