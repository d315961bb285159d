"""What this machine is good at: device, number format, memory in use, and how to describe it beside a measurement."""

from __future__ import annotations

import functools
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from prune2vec.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LIBRARIES = ("prune2vec", "torch", "transformers", "sentence-transformers", "tokenizers", "peft", "mteb")


def pick_device(device: str = "auto") -> torch.device:
    """Return the device to use: CUDA, then Apple's MPS, then the CPU when ``device`` is ``"auto"``.

    Raises:
        ConfigError: There is no such device, or not on this machine.
    """
    import torch

    if device != "auto":
        return _named_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device is called {name!r}; expected auto, cpu, mps, cuda or cuda:1") from error
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 1):
        raise ConfigError(f"this machine has no device {name!r}; use --device auto")
    return device


def pick_dtype(dtype: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the number format for forward passes: bf16 where the hardware multiplies it fast, fp32 elsewhere.

    Raises:
        ConfigError: ``dtype`` is not one of auto, float32, bfloat16, float16.
    """
    import torch

    if dtype not in _DTYPES:
        raise ConfigError(f"no number format is called {dtype!r}{did_you_mean(dtype, _DTYPES)}")
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device is not None and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast_cpu = (device is None or device.type == "cpu") and cpu_has_fast_bf16()
    return torch.bfloat16 if fast_cpu else torch.float32


@functools.cache
def cpu_has_fast_bf16() -> bool:
    """Return whether the CPU has bf16 matrix units (AMX); with the dot products of AVX-512 alone, fp32 is the faster one."""
    return "amx_bf16" in _cpu_info("flags").split()


def _cpu_info(field: str) -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return ""
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == field), "")


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_in_use(device: torch.device | None = None) -> int:
    """Return the bytes that this process holds now: resident memory, or what torch has allocated on a GPU."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory that is still available on ``device``; on the CPU, within the container's limit."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip() if _CGROUP_LIMIT.exists() else ""
    return min(free, max(int(limit) - memory_in_use(), 0)) if limit.isdigit() else free


def describe() -> dict[str, Any]:
    """Return library versions and the kind of machine, to be stored beside a measurement."""
    import torch

    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "versions": found,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_info("model name") or platform.processor(),
        "cpu_fast_bf16": cpu_has_fast_bf16(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
