"""What this machine is good at: device, dtype and memory, and how to describe it beside a measurement."""

from __future__ import annotations

import ctypes
import functools
import gc
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from prune2vec.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SAMPLE_EVERY_S = 0.02
# What a measurement may depend on.
_LIBRARIES = (
    *("prune2vec", "torch", "transformers", "sentence-transformers", "tokenizers", "peft", "mteb", "numpy"),
    *("datasets", "pytrec-eval-terrier", "bm25s", "scikit-learn"),
)


def pick_device(device: str = "auto") -> torch.device:
    """Return the device to use: CUDA, then Apple's MPS, then the CPU when ``device`` is ``"auto"``; one that is not there is refused."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"no device is called {device!r}; expected auto, cpu, mps, cuda or cuda:1") from error
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (named.index or 0) >= counts.get(named.type, 1):
        raise ConfigError(f"this machine has no device {device!r}; use --device auto")
    return named


def pick_dtype(dtype: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the dtype for forward passes: with ``"auto"`` bf16 where the hardware multiplies it fast, fp32 elsewhere."""
    import torch

    if dtype not in _DTYPES:
        raise ConfigError(f"no dtype is called {dtype!r}{did_you_mean(dtype, _DTYPES)}")
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast_cpu = (device is None or device.type == "cpu") and cpu_has_fast_bf16()
    return torch.bfloat16 if fast_cpu else torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for sums of many numbers on ``device``: float64, which Apple's GPUs have not, there float32."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


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


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield one number, which after the block is the peak of the resident memory of this process during it, in bytes.

    The operating system's own peak never falls, so that inside a longer run it would be an earlier stage's.
    """
    peak, stop = [memory_in_use()], threading.Event()

    def watch() -> None:
        while not stop.wait(_SAMPLE_EVERY_S):
            peak[0] = max(peak[0], memory_in_use())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak[0] = max(peak[0], memory_in_use())


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory that is still available on ``device``; on the CPU, within the container's limit."""
    if device.type == "cuda":
        import torch

        # What torch keeps for itself, it takes again before anything else.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    free = int(psutil.virtual_memory().available)
    limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip() if _CGROUP_LIMIT.exists() else ""
    return min(free, max(int(limit) - memory_in_use(), 0)) if limit.isdigit() else free


def release_memory() -> None:
    """Free models that are held by nothing but themselves, and give other processes what torch keeps of a GPU's memory."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def describe(device: torch.device | None = None) -> dict[str, Any]:
    """Return library versions and the kind of machine, to be stored beside a measurement.

    ``device`` is where it was measured; without it the GPU is the one that torch would take, if there is one.
    """
    import torch

    gpu = torch.cuda.is_available() if device is None else device.type == "cuda"

    return {
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := installed_version(name)) is not None},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_info("model name") or platform.processor(),
        "cpu_fast_bf16": cpu_has_fast_bf16(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if gpu else None,
    }


def installed_version(package: str) -> str | None:
    """Return a package's version; None where it is not installed, such as prune2vec run from a folder."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def readable_bytes(amount: int) -> str:
    """Return an amount of memory in words: ``870 MB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount} bytes"


# Parameters of mallopt(3): never give the end of the heap back, grow it by large steps, and use mmap, which gives back
# what is freed, from the largest size on that can be set. A small model's activations are below it; large weights and
# the states of all texts, which would leave holes in the heap, above.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MALLOC = ((_MMAP_THRESHOLD, 1 << 25), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 26))


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, and use it again, from here on; only glibc on Linux can.

    Activations are large, and glibc asks the kernel for every large block anew and gives it back at once; the kernel then
    fills each of its pages with zeros, which costs a good part of a forward pass on a CPU. Blocks of 32 MB and more still go
    back at once. The heap stays as large as it was at its peak, so this is for programs that do one thing, not for a library
    that is imported: only the command line calls it. Results do not change.

    Returns:
        Whether it is so now; False leaves everything as it was, or slower than it could be.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([bool(mallopt(parameter, value)) for parameter, value in _MALLOC])
