"""Shards on a real Ray: a worker that is killed is started again, and the vectors are those of one machine, each once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prune2vec.encoding import EncodeSettings, Store, encode_corpus
from prune2vec.encoding.on_ray import ShardEncoder, _share, encode_on_ray
from prune2vec.errors import ConfigError, DataError, MissingExtra
from prune2vec.searching import VectorFolder

# In a process of its own: Ray leaves sockets and threads behind that pytest would report.
KILLED = """
import os, signal, sys
from pathlib import Path
import prune2vec.encoding.store as store
from prune2vec.encoding import on_ray
from prune2vec.encoding.on_ray import ShardEncoder, encode_on_ray
import ray

encoder, corpus, output, marks = sys.argv[1:]
plain = on_ray._encode_shard

def dying(work, shard):
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
    return plain(work, shard)

on_ray._encode_shard = dying
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(encode_on_ray(encoder, corpus, output, shards=2, part_rows=8, dtype="float32", device="cpu").render())
ray.shutdown()
"""


def test_a_killed_worker_is_started_again_and_goes_on(tmp_path: Path, folder: Path, corpus: Path) -> None:
    (tmp_path / "marks").mkdir()
    words = [sys.executable, "-c", KILLED, folder, corpus, tmp_path / "v", tmp_path / "marks"]
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "57 vectors of 32 dimensions in 2 shards, 8 parts" in done.stdout
    # Each part was written once: the second worker of shard 1 began with its part 1.
    assert (tmp_path / "marks" / "1-2").read_text().split() == ["0", "1", "2", "3"]
    encode_corpus(folder, corpus, tmp_path / "whole", dtype="float32", device="cpu")
    ids, vectors = Store.load(tmp_path / "whole").read()
    shards = VectorFolder.open(tmp_path / "v")
    names = shards.ids(range(shards.rows))
    order = [shards.corpus_row(row) for row in range(shards.rows)]
    assert sorted(order) == list(range(len(ids)))
    assert [names[row] for row in range(shards.rows)] == [ids[row] for row in order]
    found = np.concatenate([store.read()[1] for store in shards.stores.values()])
    np.testing.assert_allclose(found, vectors[order], atol=1e-6, rtol=0)


def test_the_work_can_be_pickled(tmp_path: Path, folder: Path, corpus: Path) -> None:
    settings = EncodeSettings(dtype="float32", device="cpu")
    work = ShardEncoder(encoder=str(folder), corpus=str(corpus), output=str(tmp_path / "v"), settings=settings)
    assert pickle.loads(pickle.dumps(work))("1/2").rows == 28


@pytest.mark.parametrize(
    ("cluster", "asked", "count", "needs"),
    [
        ({"CPU": 2.0}, "auto", 1, {"num_cpus": 2}),
        ({"CPU": 16.0}, "auto", 4, {"num_cpus": 4}),
        ({"CPU": 16.0}, 2, 2, {"num_cpus": 8}),
        ({"CPU": 2.0}, 8, 8, {"num_cpus": 1}),
        ({"CPU": 16.0, "GPU": 4.0}, "auto", 4, {"num_cpus": 4, "num_gpus": 1}),
        ({"CPU": 16.0, "GPU": 4.0}, 9, 9, {"num_cpus": 4, "num_gpus": 1}),
    ],
)
def test_what_a_shard_asks_of_the_cluster(cluster: dict[str, float], asked: int | str, count: int, needs: object) -> None:
    assert _share(cluster, asked) == (count, needs)


def test_errors_before_ray_starts(tmp_path: Path, folder: Path, corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"shard 1/3 together with Ray"):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2, shard="1/3")
    with pytest.raises(DataError, match="cannot read"):
        encode_on_ray(folder, tmp_path / "no.jsonl", tmp_path / "v", shards=2)


def test_without_ray(tmp_path: Path, folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prune2vec\[ray\]'"):
        encode_on_ray(folder, corpus, tmp_path / "v", shards=2)
