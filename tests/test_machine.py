from __future__ import annotations

import json
import mmap
import resource
import subprocess
import sys
import time

import pytest
import torch

from prune2vec.errors import ConfigError
from prune2vec.machine import (
    cpu_has_fast_bf16,
    describe,
    free_memory_bytes,
    memory_in_use,
    peak_memory,
    peak_rss_bytes,
    pick_device,
    pick_dtype,
    release_memory,
    widest_dtype,
)


def test_a_named_device_is_taken() -> None:
    assert pick_device("cpu") == torch.device("cpu")


def test_auto_takes_what_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device().type == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_an_unknown_device_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^no device is called '{name}'; expected auto, cpu, mps, cuda or cuda:1$"):
        pick_device(name)


def test_a_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^this machine has no device 'cuda:99'; use --device auto$"):
        pick_device("cuda:99")


def test_dtypes() -> None:
    assert pick_dtype("float32") is torch.float32
    assert pick_dtype("bfloat16") is torch.bfloat16
    assert pick_dtype("float16") is torch.float16
    expected = torch.bfloat16 if cpu_has_fast_bf16() else torch.float32
    assert pick_dtype("auto", torch.device("cpu")) is pick_dtype() is expected
    assert pick_dtype("auto", torch.device("mps")) is torch.float32


def test_a_dtype_with_a_typo_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^no dtype is called 'float23'; did you mean 'float32'\?$"):
        pick_dtype("float23")


def test_peak_memory_is_in_bytes_and_grows() -> None:
    before = peak_rss_bytes()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    after = peak_rss_bytes()
    assert 20 << 20 < before <= after < 1 << 40
    if sys.platform != "darwin":
        assert after == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_peak_memory_sees_what_is_gone_again() -> None:
    with peak_memory() as before:
        pass
    with peak_memory() as during:
        block = torch.ones(30_000_000, dtype=torch.float64)
        time.sleep(0.2)
        del block
    with peak_memory() as after:
        pass
    assert during[0] > max(before[0], after[0]) + 150e6


def test_the_description_is_json_and_names_the_libraries() -> None:
    found = json.loads(json.dumps(describe()))
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert set(found) == {"python", "versions", "platform", "cpu", "cpu_fast_bf16", "threads", "gpu"}


def test_importing_it_does_not_import_torch() -> None:
    script = "import sys, prune2vec.machine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_free_memory_is_plausible() -> None:
    assert 2**20 < free_memory_bytes(torch.device("cpu")) < 2**50


def test_free_memory_of_a_gpu_has_what_torch_keeps_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
    assert free_memory_bytes(torch.device("cuda")) == 130


def test_a_gpu_is_asked_for_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    class On:
        def __init__(self, device: torch.device) -> None:
            self._device = device.index

        def __enter__(self) -> None:
            current.append(self._device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"number {device.index}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_dtype("auto", torch.device("cuda", 0)) == torch.bfloat16
    assert pick_dtype("auto", torch.device("cuda", 1)) == torch.float32
    assert describe(torch.device("cuda", 1))["gpu"] == "number 1"
    assert describe(torch.device("cpu"))["gpu"] is None


def test_apples_gpus_have_no_float64() -> None:
    assert widest_dtype(torch.device("mps")) == torch.float32
    assert widest_dtype(torch.device("cpu")) == widest_dtype(torch.device("cuda", 1)) == torch.float64


def test_released_memory_is_given_back_by_a_gpu_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    for used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        release_memory()
    assert emptied == [True]


def test_memory_in_use_goes_up_and_down() -> None:
    before = memory_in_use()
    # Pages of its own: malloc might take them from what earlier tests have freed.
    held = mmap.mmap(-1, 50_000_000)
    for begin in range(0, len(held), mmap.PAGESIZE):
        held[begin] = 1
    assert memory_in_use() - before == pytest.approx(50_000_000, rel=0.2)
    # The kernel counts both in steps of its own, so the peak may lag by a little.
    assert memory_in_use() <= peak_rss_bytes() + 2_000_000
    held.close()
    assert memory_in_use() - before < 25_000_000
