"""The part on paper takes this machine's rates from what was measured, and the GPU's from the options."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import stream
from random_model import LIKE, Sizes, total_bytes

SIZES = Sizes(layers=3, hidden=64, intermediate=96, heads=4, kv_heads=2, vocabulary=400)
MEASURED: dict[str, Any] = {
    "shape": "8B",
    "dtype": "bfloat16",
    "flops": 6e9,
    "run": {"seconds": 10.0, "waiting_seconds": 4.0},
    "disk_bytes_per_s": 2e6,
}


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Any:
    rates = {"gpu": "a GPU", "gpu-tflops": 100, "gpu-share": 0.5, "link-gb-s": 2, "disk-gb-s": 5}
    given = {"texts": "t", "work": "w", "out": "o", "paper-tokens": 1000, "paper-length": 10, "depth": 2, **rates}
    monkeypatch.setattr(sys, "argv", ["x", *(word for name, value in given.items() for word in (f"--{name}", str(value)))])
    monkeypatch.setitem(LIKE, "70B", SIZES)
    return stream._options()


def test_rates_of_this_machine_leave_out_the_waiting() -> None:
    (rate,) = stream._measured_rates(MEASURED)
    assert (rate.name, rate.flops, rate.read, rate.link) == ("this machine", 6e9 / 6, 2e6, None)
    assert rate.source == "measured on the 8B-shaped model, bfloat16, and its files"
    assert stream._measured_rates(None) == []


def test_both_machines_on_paper(options: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = stream.paper(options, MEASURED)
    gpu, here = found["machines"]["a GPU"], found["machines"]["this machine"]
    assert gpu["file_bytes"] == here["file_bytes"] == total_bytes(SIZES)
    assert [(rate["flops"], rate["read"], rate["link"]) for rate in found["rates"]] == [(5e13, 5e9, 2e9), (1e9, 2e6, None)]
    assert gpu["seconds_compute"] == pytest.approx(gpu["flops"] / 5e13)
    assert gpu["seconds_read"] == pytest.approx(gpu["profile_bytes"] / 2e9)  # The link is slower than the disk.
    assert here["seconds_compute"] == pytest.approx(here["flops"] / 1e9)
    assert here["seconds_read"] == pytest.approx(here["profile_bytes"] / 2e6)
    stream.print_tables({"paper": found})
    printed = capsys.readouterr().out
    assert "- this machine: 0.001 TFLOP/s, 0.002 GB/s; measured on the 8B-shaped model" in printed
    assert "| profile on this machine |" in printed


def test_nothing_measured_is_only_the_gpu(options: Any) -> None:
    assert list(stream.paper(options, None)["machines"]) == ["a GPU"]
