"""Where we are: the device, its name and driver, and the versions of what decides speed."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from harness.schema import HarnessError, Machine

LIBRARIES = ("numpy", "pillow")
"""What preprocessing runs on; a runtime knows its own (`Runtime.libraries`)."""


def available_cores() -> int:
    """Cores this process may use, which a container, a quota or `taskset` makes fewer than the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # a container's share of the processor, e.g. `docker run --cpus=2`
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        pass
    return cores


def resolve_device(asked: str) -> str:
    """`auto`, `cpu`, `cuda` or `mps`, perhaps with a number (`cuda:1`) -> the device, or an error when it is not there;
    the first of a kind goes by its kind alone."""
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if present[device])
    kind, colon, number = asked.partition(":")
    if kind not in present or (colon and not (number.isdecimal() and len(number) < 4)):
        raise HarnessError(f"unknown device {asked!r}; there are: auto, {', '.join(present)}, cuda:0, ...")
    if not present[kind]:
        found = ", ".join(device for device, there in present.items() if there)
        raise HarnessError(
            f"device={asked}: torch {torch.__version__} sees no {kind} here (it sees: {found}); use device=auto"
        )
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if int(number or 0) >= count:
        raise HarnessError(f"device={asked}: the last {kind} device here is {kind}:{count - 1}")
    return asked if int(number or 0) else kind


def processor_name() -> str:
    """The processor's model, as the system names it."""
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        # Its words stand above.
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    return platform.processor() or platform.machine()


def governor() -> str:
    """The CPU's frequency governor, with turbo and SMT where they are off; empty where the system hides it."""
    cpu = Path("/sys/devices/system/cpu")
    found = [_read(cpu / "cpu0/cpufreq/scaling_governor")]
    if _read(cpu / "intel_pstate/no_turbo") == "1" or _read(cpu / "cpufreq/boost") == "0":
        found.append("turbo off")
    if _read(cpu / "smt/active") == "0" and _read(cpu / "smt/control") not in ("", "notsupported", "notimplemented"):
        found.append("SMT off")
    return ", ".join(filter(None, found))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _build() -> str:
    """Build of the operating system."""
    if platform.system() == "Darwin":
        asked = ["/usr/bin/sw_vers", "-buildVersion"]
        # Its words stand above.
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    return platform.version()


def _nvidia_driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        found = pynvml.nvmlSystemGetDriverVersion()
        return found if isinstance(found, str) else str(found.decode())
    except Exception:  # no management library: the driver is unknown, the measurement goes on
        return ""


def _pools() -> tuple[str, ...]:
    """Thread pools and linear algebra libraries that torch and numpy have loaded, without their paths."""
    from threadpoolctl import threadpool_info

    found = (
        f"{pool['user_api']} {pool.get('prefix', '')} {pool.get('version') or ''}".strip() for pool in threadpool_info()
    )
    return tuple(sorted(set(found)))


def describe(device: str) -> Machine:
    """This machine as seen from `device`."""
    import torch

    processor, driver = processor_name(), ""
    device_name = processor
    if device == "cuda":
        device_name = torch.cuda.get_device_name()
        driver = f"{_nvidia_driver() or 'unknown'}, CUDA {torch.version.cuda}"
        driver += ", TF32" if torch.backends.cuda.matmul.allow_tf32 else ""
    elif device == "mps":
        device_name = f"{processor} GPU"
        driver = f"macOS {platform.mac_ver()[0]}"
    return Machine(
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:8],
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor,
        cores=available_cores(),
        memory_bytes=psutil.virtual_memory().total,
        device_bytes=(
            torch.cuda.get_device_properties(0).total_memory if device == "cuda" else psutil.virtual_memory().total
        ),
        device=device,
        device_name=device_name,
        driver=driver,
        build=_build(),
        governor=governor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        pools=_pools(),
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
    )


def commit() -> str:
    """Commit of the checkout that this code runs from, `+dirty` if tracked files differ; empty for a wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        try:
            # git lies wherever its user has it, and its words are those below.
            asked = ["git", "-C", str(root), *words]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
        except FileNotFoundError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    return (
        head + "+dirty"
        if head and git("status", "--porcelain", "--untracked-files=no", "--", "harness", "sweeps")
        else head
    )
