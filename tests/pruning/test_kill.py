"""SIGKILL at random moments of prune: never a half-written folder, and the same command again gives the same one."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from prune2vec.outputs import RECORD
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny

# Says when the imports are over, so that the kill falls into the work itself.
CODE = (
    "import sys; from pathlib import Path\n"
    "import sentence_transformers\n"
    "from prune2vec.pruning.prune import prune_model\n"
    "print('ready', flush=True)\n"
    "prune_model(sys.argv[1], sys.argv[2], Path(sys.argv[3]), max_length=128)"
)


def contents(folder: Path) -> dict[str, bytes]:
    # The model card names the folder, so the copy made in this process differs there, and in the record of the files.
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("README.md", RECORD)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_prune_killed_at_random(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    plan = plan_for(model, range(3))
    plan.save(tmp_path / "plan.json")
    whole = contents(prune_model(str(model), plan, tmp_path / "whole", max_length=128))
    generator, killed = random.Random(0), tmp_path / "killed"
    arguments = [sys.executable, "-c", CODE, str(model), str(tmp_path / "plan.json"), str(killed)]
    for _ in range(4):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(generator.uniform(0.05, 0.8))
            except subprocess.TimeoutExpired:
                process.kill()
        if killed.exists():
            assert contents(killed).keys() == whole.keys()
            load_encoder(killed, device="cpu").encode("a")
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    assert contents(killed) == whole
    assert not list(tmp_path.glob(".*"))
