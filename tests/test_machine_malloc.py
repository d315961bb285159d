"""Freed memory is kept only where it is asked for, and then no page is fetched from the kernel twice."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prune2vec.machine import keep_freed_memory

_SCRIPT = """
import resource, sys
import numpy as np
from prune2vec.machine import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if sys.argv[1] == "keep":
    assert keep_freed_memory()
rounds = []
for size in (8, 5, 8, 2, 8):
    before = faults()
    for _ in range(3):
        together = [np.ones(size << 20, dtype=np.uint8) for _ in range(5)]
        del together
    rounds.append(faults() - before)
print(sum(rounds[1:]), peak())
"""


def faults_and_peak(mode: str) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, mode], capture_output=True, text=True, check=True)
    faults, peak = map(int, done.stdout.split())
    return faults, peak


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_pages_are_used_again_and_memory_stays_flat() -> None:
    (usual, usual_peak), (kept, kept_peak) = faults_and_peak("usual"), faults_and_peak("keep")
    assert kept * 20 < usual
    assert kept_peak < usual_peak + (80 << 10)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_go_back_at_once() -> None:
    """Weights of a block come and go at another size each: kept, they would leave holes."""
    script = """
import resource
from pathlib import Path
import numpy as np
from prune2vec.machine import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

assert keep_freed_memory()
before = resident()
large = np.ones(200 << 20, dtype=np.uint8)
held = resident()
del large
print(held - before, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held >= 200
    assert left < 20


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1"))
    assert not keep_freed_memory()
