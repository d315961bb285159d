"""What each verb imports, by names: a command that only encodes does not wait for a trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prune2vec.encoding.encode import encode_corpus
from prune2vec.evaluation.evaluate import evaluate_encoder
from tests.evaluation.helpers import QUICK
from tests.planning.made import curve_with_minima, made_profile
from tests.tiny_encoders import TINY_ENCODERS

# Imported by no verb that does not train, score MTEB's tasks, draw, or run on Ray.
NEVER = {"sentence_transformers", "datasets", "mteb", "peft", "sklearn", "pandas", "matplotlib", "ray", "onnx", "onnxruntime"}
NO_MODEL = {*NEVER, "torch", "transformers", "huggingface_hub", "safetensors", "scipy", "pyarrow"}
# Runs command lines one after the other, each of which finds what those before it imported, and notes the packages after each.
RUN = """
import json, sys
from pathlib import Path
from prune2vec.cli.app import main
lines, seen = json.loads(Path(sys.argv[1]).read_text()), []
for line in lines:
    code = main(line)
    assert code == 0, (line, code)
    seen.append(sorted({name.partition(".")[0] for name in sys.modules}))
Path(sys.argv[2]).write_text(json.dumps(seen))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an encoder, texts, vectors of them, results and a profile."""
    encoder = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "encoder")
    rows = [{"query": f"{word} fox", "positive": f"the {word} dog", "negative": "birds sing"} for word in ("quick", "lazy")]
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "corpus.txt").write_text("the quick brown fox\nthe lazy dog\n")
    encode_corpus(encoder, tmp_path / "corpus.txt", tmp_path / "vectors")
    evaluate_encoder(encoder, data=tmp_path / "heldout.jsonl", output=tmp_path / "results.json", settings=QUICK)
    made_profile(curve_with_minima(8, 2, 6)).save(tmp_path / "profile.json")
    return tmp_path


def test_each_verb_imports_what_it_uses(folder: Path) -> None:
    allowed = {
        "--help": {*NO_MODEL, "numpy", "pydantic"},
        "plan profile.json --method depth --depth 3 -o plan.json": {*NO_MODEL, "numpy"},
        "compare results.json results.json": NO_MODEL,
        "encode encoder corpus.txt -o more --dry-run": {*NEVER, "torch", "transformers"},
        "search vectors fox --corpus corpus.txt": NEVER,
        "encode encoder corpus.txt -o more": NEVER,
        "evaluate encoder --data heldout.jsonl -o again.json": NEVER,
    }
    (folder / "lines.json").write_text(json.dumps([line.split() for line in allowed]))
    done = subprocess.run(
        [sys.executable, "-c", RUN, "lines.json", "seen.json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads((folder / "seen.json").read_text())
    found = {line: sorted({*packages} & never) for (line, never), packages in zip(allowed.items(), seen, strict=True)}
    assert found == {line: [] for line in allowed}
