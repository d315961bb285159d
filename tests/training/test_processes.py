"""Two processes on a CPU train as one does with the whole batch; one alone writes, speaks, and tells an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prune2vec.data.triplet import write_triplets
from prune2vec.errors import ConfigError
from prune2vec.experiments.run import run_recipe
from prune2vec.training.processes import Processes, check_one_gpu, joined
from prune2vec.training.train import train_encoder
from prune2vec.training.train_settings import TrainSettings
from tests.tiny import save_tiny
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_train import assert_same_run, curve
from tests.training.together import FEW, MORE, Gradients, run

ROOT = Path(__file__).parent.parent.parent
Job = subprocess.CompletedProcess[str]


def test_one_process_that_sees_several_gpus_is_refused_before_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = r"^this machine has 2 GPUs, and a process trains on one; set CUDA_VISIBLE_DEVICES=1 and device to cuda, or let train use them "
    with pytest.raises(ConfigError, match=said):
        train_encoder(tmp_path / "no encoder", rows(8), tmp_path / "out", device="cuda:1")
    recipe = {
        "model": str(save_tiny(tmp_path / "model")),
        "train": {"device": "cuda:1"},
        "variants": [{"name": "full", "method": "full"}],
    }
    write_triplets(rows(8), tmp_path / "texts.jsonl")
    with pytest.raises(ConfigError, match=said):
        run_recipe({**recipe, "evaluate": None, "data": {"train": [str(tmp_path / "texts.jsonl")]}}, tmp_path / "run")
    assert not (tmp_path / "run" / "profile.json").exists()
    check_one_gpu("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_one_gpu("cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, a teacher of another dimension, texts and held-out rows."""
    made = tmp_path_factory.mktemp("together")
    save_tiny_encoder(made / "encoder", layers=4)
    save_tiny_encoder(made / "teacher", seed=5, layers=3, hidden_size=48)
    (made / "texts.txt").write_text("".join(f"{text}\n" for row in rows(20) for text in row.texts))
    write_triplets(rows(12, start=70), made / "dev.jsonl")
    return made


def launched(folder: Path, which: str) -> Job:
    """Run cases in two processes."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    words += ["-m", "tests.training.together", str(folder), which]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture(scope="module")
def job(folder: Path) -> Job:
    """The cases that are always run, once, and all that can go wrong."""
    return launched(folder, "few")


def seen(folder: Path, what: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{what}.{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", FEW)
def test_two_processes_train_as_one_with_the_whole_batch(folder: Path, job: Job, tmp_path: Path, case: str) -> None:
    compare_with_one(folder, tmp_path, case)


@pytest.mark.slow
def test_whatever_is_learnt_two_processes_train_as_one(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert (ran := launched(folder, "more")).returncode == 0, ran.stderr
    for case in MORE:
        compare_with_one(folder, tmp_path_factory.mktemp("alone"), case)
    # One process goes on where two were interrupted.
    assert run("adapters", folder, folder / "together" / "handed on").resumed_from == 8
    run("adapters", folder, folder / "together" / "alone")
    handed, alone = (load_file(folder / "together" / name / "model.safetensors") for name in ("handed on", "alone"))
    for name, weight in alone.items():
        torch.testing.assert_close(handed[name], weight, rtol=0, atol=1e-5)


def compare_with_one(folder: Path, tmp_path: Path, case: str) -> None:
    """Compare all that came of a case in two processes with the same in this one."""
    watch, ours = Gradients(), folder / "together" / case
    alone = run(case, folder, tmp_path / "alone", watch).to_json()
    shared = [torch.load(folder / f"{case}.{rank}.pt") for rank in (0, 1)]
    atol = 1e-5 if case != "bf16" else 1e-2
    for step, (one, other, expected) in enumerate(zip(*shared, watch.steps, strict=True)):
        assert torch.equal(one, other), f"step {step}: both processes step alike"
        torch.testing.assert_close(one, expected, rtol=0, atol=atol)
    for line, expected in zip(curve(ours), curve(tmp_path / "alone"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=atol)
        assert {k: line[k] for k in ("step", "dataset", "tokens", "texts", "cut", "learning_rate")} == {
            k: expected[k] for k in ("step", "dataset", "tokens", "texts", "cut", "learning_rate")
        }
    for name, weight in load_file(tmp_path / "alone" / "model.safetensors").items():
        torch.testing.assert_close(load_file(ours / "model.safetensors")[name], weight, rtol=0, atol=atol)
    told = [{k: v for k, v in found.items() if k not in ("seconds", "folder")} for found in seen(folder, case)]
    assert told[0] == told[1]
    assert told[0]["dev"] == pytest.approx(alone["dev"], abs=1e-5)
    record = json.loads((ours / "prune2vec.json").read_text())["train"]
    assert record["processes"] == 2
    assert record["identity"] == json.loads((tmp_path / "alone" / "prune2vec.json").read_text())["train"]["identity"]


def test_an_interrupted_run_goes_on_exactly(folder: Path, job: Job) -> None:
    found = seen(folder, "wrong")
    assert {one["interrupted"] for one in found} == {"KeyboardInterrupt", "SystemExit"}
    assert [(one["resumed"], one["again"]) for one in found] == [(8, 12)] * 2, "in the second epoch; nothing was left to do"
    assert_same_run(folder / "together" / "adapters", folder / "together" / "stopped")


def test_one_process_alone_writes_and_speaks(folder: Path, job: Job) -> None:
    assert [one["uneven"] for one in seen(folder, "wrong")] == ["ConfigError", "SystemExit"]
    assert job.stdout == ""
    said = [line for line in job.stderr.splitlines() if "encodes" in line]
    assert len(said) == len(set(said))
    left = {path.name for path in (folder / "together").iterdir()}
    # The first process may have been ended in the middle of the last training.
    assert left - {".failed.lock", ".failed.training"} == {*FEW, "stopped", "teacher of texts.teacher"}


def test_an_error_of_one_ends_all_with_one_line(job: Job) -> None:
    assert job.returncode == 1
    errors = [line for line in job.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "no memory in the second process" in errors[0], job.stderr


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    Processes(rank=2, number=4).check_batch(8)
    with pytest.raises(ConfigError, match=r"^batch_size 10 is that of all 4 processes .* a multiple of 4$"):
        Processes(rank=2, number=4).check_batch(10)


def test_half_a_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="2 processes, and RANK is not set"), joined(TrainSettings()):
        pass


def test_one_process_waits_for_nobody() -> None:
    with joined(TrainSettings()) as processes, processes.after_first():
        assert processes.first and processes.told(lambda: {"a": 1}) == {"a": 1}
