"""What the benchmarks share: sides that take turns, tables, result files, and commands whose peak memory is measured."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.files import write_json

# The peak that the kernel reports for a process starts at the peak of the one that spawned it, so a small one must.
_LAUNCHER = """
import json, os, sys, time
begin = time.perf_counter()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - begin
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(sys.argv[1], "w") as file:
    json.dump({"code": os.waitstatus_to_exitcode(status), "seconds": seconds, "peak_rss": peak}, file)
"""


_CUDA_PEAK = "peak of CUDA memory in bytes: "
_PRUNE2VEC = """
import atexit, sys
from common import print_cuda_peak
from prune2vec.cli.app import entry
atexit.register(print_cuda_peak)
sys.argv[0] = "prune2vec"
entry()
"""


@dataclass(frozen=True)
class ChildRun:
    """A finished command: wall time in seconds, peak memory in bytes, and what it printed to stdout.

    Attributes:
        seconds: Wall time.
        peak_rss: Largest resident memory, as the kernel reports it.
        stdout: What it printed.
        cuda_peak: Largest memory that torch had allocated on the GPU; None without one, or where it was not printed.
    """

    seconds: float
    peak_rss: int
    stdout: str
    cuda_peak: int | None = None

    @property
    def memory(self) -> str:
        """The peaks in words."""
        gpu = f", GPU {human_bytes(self.cuda_peak)}" if self.cuda_peak is not None else ""
        return human_bytes(self.peak_rss) + gpu


class WarmVersion:
    """A checkout of prune2vec in a process of its own that has loaded everything, does its job once, and then waits for its turn.

    The worker is a script that gets ``given``, with the ``checkout``, as JSON in its first argument. It answers, once it is warm and
    then after every line that it is sent, with a line of "@" and JSON; whatever else it prints is passed over.
    """

    def __init__(self, worker: str, checkout: Path, given: Mapping[str, Any]) -> None:
        told = json.dumps({**given, "checkout": str(checkout.resolve())})
        # The threads of the version that waits must not spin beside the one that works.
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src"), "OMP_WAIT_POLICY": "passive"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", worker, told],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.first = self._answer()

    def ask(self, what: str) -> Any:
        """Return what the worker answers to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"a version ended with {self._process.wait()}; run the worker by hand to see why")

    def close(self) -> None:
        """End the process."""
        self._process.kill()


def abab(sides: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1) -> dict[str, dict[str, Any]]:
    """Run the sides in turn, A B A B, and return what each took.

    Args:
        sides: Work by name; the first is what the others are compared with. Work on a GPU must wait for its end.
        rounds: Timed rounds.
        warmup: Rounds before them that are not timed.

    Returns:
        By side: ``seconds`` of each round, their ``median``, and ``ratio``, the median over the rounds of the first
        side's seconds by this side's: above 1 means faster than the first. ``ratios`` has one a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warmup, rounds):
        for name, work in sides.items():
            begin = time.perf_counter()
            work()
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    first = next(iter(seconds.values()))
    return {name: _summary(first, own) for name, own in seconds.items()}


def _summary(first: Sequence[float], own: Sequence[float]) -> dict[str, Any]:
    ratios = [base / mine for base, mine in zip(first, own, strict=True)]
    return {
        "median": statistics.median(own),
        "ratio": statistics.median(ratios),
        "seconds": [round(value, 4) for value in own],
        "ratios": [round(value, 3) for value in ratios],
    }


def run_child(arguments: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> ChildRun:
    """Run this Python with ``arguments`` in a process of its own and measure its wall time and peak resident memory.

    Args:
        arguments: A script and its options, or ``-m`` and a module.
        environment: Variables over those of this process.

    Raises:
        RuntimeError: The command failed; what it wrote to stderr has been shown.
    """
    command = [sys.executable, *(str(word) for word in arguments)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, str(report), *command],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            check=True,
        )
        found = json.loads(report.read_text(encoding="utf-8"))
    if found["code"]:
        words = " ".join(word for word in command if "\n" not in word)
        raise RuntimeError(f"{words} ended with exit code {found['code']}\n{done.stdout}")
    peaks = [line.removeprefix(_CUDA_PEAK) for line in done.stdout.splitlines() if line.startswith(_CUDA_PEAK)]
    stdout = "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith(_CUDA_PEAK))
    return ChildRun(found["seconds"], found["peak_rss"], stdout, int(peaks[-1]) if peaks else None)


def run_prune2vec(arguments: Sequence[str | Path]) -> ChildRun:
    """Run a verb of the command line as ``run_child`` does, and learn its peak of CUDA memory too."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    return run_child(["-c", _PRUNE2VEC, *arguments], environment={"PYTHONPATH": path})


def print_cuda_peak() -> None:
    """Tell the parent process how much GPU memory torch had allocated at most."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        print(f"{_CUDA_PEAK}{torch.cuda.max_memory_allocated()}", flush=True)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [_line(header), "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result with the machine and the versions it was measured with, this one where it does not say; of paths the last name."""
    from prune2vec.machine import describe

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"environment": describe(), **_without_folders(result)})


def _without_folders(value: Any) -> Any:
    """Return ``value`` with the last names alone of the absolute paths in it: results are shared, folders are not."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("/")):
        return Path(value).name
    return value


def human_bytes(count: float) -> str:
    """Return bytes in decimal units with three figures: ``3.87 GB``."""
    power = min(4, max(0, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def synchronised(work: Callable[[], object]) -> Callable[[], object]:
    """Return ``work`` that ends when a GPU has done it too, so that it can be timed."""

    def timed() -> object:
        import torch

        found = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return found

    return timed
