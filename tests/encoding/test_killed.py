"""SIGKILL at random moments of an encoding: nothing finished is lost, repeated or half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from prune2vec.encoding.store import Store
from prune2vec.pruning.encoder import load_encoder
from tests.encoding.conftest import read_all
from tests.encoding.test_engine import texts

# Imports once, then forks a child for every attempt, so that a dozen kills take seconds. The parent never computes.
CODE = """
import os, random, signal, sys, time
import sentence_transformers
from prune2vec.encoding.encode import encode_corpus
from prune2vec.encoding.store import Store
from prune2vec.progress import set_enabled

encoder, corpus, output, kills = sys.argv[1:]
draw = random.Random(0)
set_enabled(False)


def written():
    path = os.path.join(output, "_manifest.json")
    return open(path).read().count('"file"') if os.path.exists(path) else 0


for number in range(1000):
    child = os.fork()
    if not child:
        try:
            encode_corpus(encoder, corpus, output, part_rows=25, token_budget=128, dtype="float32", device="cpu")
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    # Now a moment after a few more parts, however slow the machine, now at any moment, loading included.
    wanted = 0 if number % 2 else written() + draw.randint(1, 4)
    deadline = time.monotonic() + draw.uniform(0.1, 0.8) if number % 2 else None
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if deadline is None and written() >= wanted:
            deadline = time.monotonic() + draw.uniform(0.0, 0.05)
        if number < int(kills) and deadline is not None and time.monotonic() >= deadline:
            break
        time.sleep(0.002)
    if ended[0]:
        print(f"ended {os.waitstatus_to_exitcode(ended[1])}", flush=True)
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", written(), flush=True)
"""
ROWS = 700


def test_killed_at_random(tmp_path: Path, folder: Path) -> None:
    some = texts(ROWS)
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"_id": f"d{row}", "text": text}) for row, text in enumerate(some)))
    words = [sys.executable, "-c", CODE, folder, tmp_path / "c.jsonl", tmp_path / "v", "5"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    said = [line.split() for line in done.stdout.splitlines()]
    assert said[-1] == ["ended", "0"], done.stdout + done.stderr
    parts = [int(count) for word, count in said[:-1]]
    assert parts == sorted(parts), "a finished part is never given up"
    assert len(parts) >= 2, "too fast to be killed: draw shorter times"
    assert any(0 < count < ROWS / 25 for count in parts), "no kill fell between two parts"
    store = Store.load(tmp_path / "v")
    ids, vectors = read_all(store)
    assert store.complete
    assert ids == [f"d{row}" for row in range(ROWS)]
    expected = load_encoder(folder, device="cpu", dtype="float32").encode(some, prompt_name="document")
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)
    assert {path.name for path in (tmp_path / "v").iterdir()} == {
        "_manifest.json",
        *(part["file"] for part in store.parts),
    }
