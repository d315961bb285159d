"""Shards on a real Ray: a worker that is killed is started again, and the vectors are those of one machine, each once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prune2vec.encoding.encode import encode_corpus
from prune2vec.encoding.ray_shards import encode_on_ray, wanted_shards
from prune2vec.encoding.store import Store
from prune2vec.encoding.vector_folder import VectorFolder
from prune2vec.errors import ConfigError, DataError, EncodingError, MissingExtra
from prune2vec.ray_tasks import shards_and_resources
from tests.encoding.conftest import read_all

# In a process of its own: Ray leaves sockets and threads behind that pytest would report.
KILLED = """
import os, signal, sys
from pathlib import Path
import prune2vec.encoding.store as store
from prune2vec.encoding import ray_shards
from prune2vec.encoding.ray_shards import encode_on_ray
import ray

encoder, corpus, output, marks = sys.argv[1:]
plain = ray_shards._encode_shard

def dying(*work):
    shard = work[-1]
    add = store.Store.add
    mark = Path(marks) / shard.replace("/", "-")

    def add_then_die(self, ids, vectors, **kwargs):
        done = add(self, ids, vectors, **kwargs)
        with mark.open("a") as file:
            file.write(f"{len(self.parts)} ")
        if shard.startswith("1/") and len(mark.read_text().split()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    store.Store.add = add_then_die
    return plain(*work)

ray_shards._encode_shard = dying
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(encode_on_ray(encoder, corpus, output, shards=2, part_rows=8, dtype="float32", device="cpu").render())
ray.shutdown()
"""
FAILING = """
import os, sys, time
from pathlib import Path
from prune2vec.encoding import ray_shards
from prune2vec.encoding.ray_shards import encode_on_ray
from prune2vec.errors import EncodingError
import ray

encoder, corpus, output, marks = sys.argv[1:]
mark = Path(marks) / "pid"

def failing(*work):
    if work[-1].startswith("1/"):
        mark.write_text(str(os.getpid()))
        time.sleep(600)
    while not mark.exists():
        time.sleep(0.05)
    raise EncodingError("shard 0 fails")

ray_shards._encode_shard = failing
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
begin = time.monotonic()
try:
    encode_on_ray(encoder, corpus, output, shards=2)
except EncodingError as error:
    print(error, time.monotonic() - begin < 60)
# The process ends a moment after its task.
process = Path("/proc", mark.read_text())
while process.exists() and time.monotonic() - begin < 60:
    time.sleep(0.1)
print("shard 1", "goes on" if process.exists() else "has ended")
ray.shutdown()
"""


def said(code: str, tmp_path: Path, folder: Path, corpus: Path) -> str:
    (tmp_path / "marks").mkdir()
    words = [sys.executable, "-c", code, folder, corpus, tmp_path / "v", tmp_path / "marks"]
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_failed_shard_ends_the_others(tmp_path: Path, folder: Path, corpus: Path) -> None:
    assert "shard 0 fails True\nshard 1 has ended" in said(FAILING, tmp_path, folder, corpus)


def test_a_killed_worker_is_started_again_and_goes_on(tmp_path: Path, folder: Path, corpus: Path) -> None:
    out = said(KILLED, tmp_path, folder, corpus)
    assert "57 vectors of 32 dimensions in 2 shards, 8 parts" in out
    # Each part was written once: the second worker of shard 1 began with its part 1.
    assert (tmp_path / "marks" / "1-2").read_text().split() == ["0", "1", "2", "3"]
    encode_corpus(folder, corpus, tmp_path / "whole", dtype="float32", device="cpu")
    ids, vectors = read_all(Store.load(tmp_path / "whole"))
    shards = VectorFolder.open(tmp_path / "v")
    names = shards.ids(range(shards.rows))
    order = [shards.corpus_row(row) for row in range(shards.rows)]
    assert sorted(order) == list(range(len(ids)))
    assert [names[row] for row in range(shards.rows)] == [ids[row] for row in order]
    found = np.concatenate([read_all(store)[1] for store in shards.stores.values()])
    np.testing.assert_allclose(found, vectors[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("nodes", "asked", "count", "needs"),
    [
        ([(2, 0)], "auto", 1, {"num_cpus": 2}),
        ([(16, 0)], "auto", 4, {"num_cpus": 4}),
        ([(16, 0)], 2, 2, {"num_cpus": 8}),
        ([(2, 0)], 8, 8, {"num_cpus": 1}),
        # No machine has what all of them have together.
        ([(2, 0), (2, 0)], "auto", 1, {"num_cpus": 2}),
        ([(6, 0), (6, 0)], "auto", 3, {"num_cpus": 4}),
        ([(1, 0), (1, 0), (1, 0)], 2, 2, {"num_cpus": 1}),
        ([(0, 0), (8, 0)], 1, 1, {"num_cpus": 8}),
        ([(16, 4)], "auto", 4, {"num_gpus": 1}),
        ([(16, 4)], 9, 9, {"num_gpus": 1}),
        ([(64, 0), (8, 8)], "auto", 8, {"num_gpus": 1}),
        ([(64, 8), (8, 2)], "auto", 10, {"num_gpus": 1}),
    ],
)
def test_what_a_shard_asks_of_the_cluster(nodes: list[tuple[int, int]], asked: int | str, count: int, needs: object) -> None:
    machines = [{"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {}), "memory": 1e9} for cpus, gpus in nodes]
    assert shards_and_resources(machines, asked) == (count, needs)
    assert shards_and_resources(machines, asked, most=1)[0] == (1 if asked == "auto" else count)


@given(cpus=st.lists(st.integers(0, 40), min_size=1, max_size=6), asked=st.integers(1, 60))
def test_a_shard_fits_into_every_machine_with_cpus(cpus: list[int], asked: int) -> None:
    assume(any(cpus))
    _, needs = shards_and_resources([{"CPU": float(cpu)} for cpu in cpus], asked)
    assert 1 <= needs["num_cpus"] <= min(cpu for cpu in cpus if cpu)


def test_errors_before_ray_starts(tmp_path: Path, folder: Path, corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"shard 1/3 together with Ray"):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2, shard="1/3")
    with pytest.raises(DataError, match="cannot read"):
        encode_on_ray(folder, tmp_path / "no.jsonl", tmp_path / "v", shards=2)
    for shards in (0, -1, "many", 10**6):
        with pytest.raises(ConfigError, match="expected a number from 1 to 999,999, or auto"):
            encode_on_ray(folder, corpus, tmp_path / "v", shards=shards)
    (tmp_path / "v" / "shard-00000-of-00003").mkdir(parents=True)
    with pytest.raises(EncodingError, match=r"v holds 3 shards; give --ray 3"):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
    assert wanted_shards("auto", tmp_path / "v") == 3
    assert wanted_shards("auto", tmp_path / "w") == "auto"


class RayError(Exception):
    """As Ray's own; what happened in a task is its cause."""

    def __init__(self, cause: BaseException | None) -> None:
        super().__init__("a worker died")
        self.cause = cause


class FakeRay:
    """What is called of Ray; it does not start, or its tasks fail."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []
        self.cancelled: list[object] = []
        self.failure: BaseException | None = None
        self.exceptions = SimpleNamespace(RayError=RayError)

    def is_initialized(self) -> bool:
        return self.failure is not None

    def init(self, **how: object) -> None:
        self.started.append(how)
        raise RuntimeError("no further")

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": {"CPU": 4.0}}]

    def remote(self, **how: object) -> Callable[[object], object]:
        return lambda function: SimpleNamespace(remote=lambda *work: work[-1])

    def get(self, tasks: list[object]) -> object:
        raise self.failure

    def shutdown(self) -> None:
        pass

    def cancel(self, task: object, *, force: bool) -> None:
        assert force
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (RayError(EncodingError("NaN")), EncodingError, "^NaN$"),
        (RayError(ValueError("odd")), EncodingError, r"gave up on a shard \(odd\); the same command resumes"),
        (RayError(None), EncodingError, r"gave up on a shard \(a worker died\); the same command resumes"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_the_others_stop_when_one_fails(
    tmp_path: Path, folder: Path, corpus: Path, ray: FakeRay, failure: BaseException, error: type[BaseException], message: str
) -> None:
    ray.failure = failure
    with pytest.raises(error, match=message):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
    assert ray.cancelled == ["0/2", "1/2"]


def test_a_cluster_that_does_not_answer(
    tmp_path: Path, folder: Path, corpus: Path, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody else can listen there either.
        taken.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        for address in (at, f"ray://{at}"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            with pytest.raises(EncodingError, match=rf"no Ray cluster answers at {address} .*; look at RAY_ADDRESS"):
                encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
        assert ray.started == []
        taken.listen()
        with pytest.raises(EncodingError, match="Ray does not start: no further; look at RAY_ADDRESS"):
            encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
    assert "address" not in ray.started[0], "Ray reads RAY_ADDRESS itself"


@pytest.mark.parametrize("address", [None, "", "local"])
def test_without_an_address_no_other_ray_is_joined(
    tmp_path: Path, folder: Path, corpus: Path, ray: FakeRay, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EncodingError, match="no further"):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
    assert ray.started[0]["address"] == "local"


def test_without_ray(tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prune2vec\[ray\]'"):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
