"""The whole chain with fewer tokens, verb by verb."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Cli
from tests.token_samples import TEXTS, save_model


def test_the_chain_of_a_trimmed_encoder(cli: Cli, tmp_path: Path, triplets_file: Path) -> None:
    save_model(tmp_path / "model")
    measured = ("--groups", "2", "--group-size", "8", "--max-length", "64", "--dtype", "float32")
    assert cli("profile", "model", "--texts", triplets_file, *measured, "-o", "profile.json").code == 0
    planned = cli("plan", "profile.json", "--method", "depth", "--depth", "2", "--vocabulary", "400", "--texts", triplets_file)
    assert planned.code == 0, planned.err
    assert "400 of" in planned.out
    dry = cli("prune", "model", "plan.json", "-o", "small", "--dry-run")
    assert "2 of 5 layers, 400 of" in dry.out
    pruned = cli("prune", "model", "plan.json", "-o", "small", "--json")
    assert pruned.code == 0, pruned.err
    assert pruned.data["parity"]["max_difference"] <= 1e-6
    steps = ("--steps", "2", "--batch-size", "4", "--max-length", "64", "--dtype", "float32")
    trained = cli("train", "small", "--data", triplets_file, "-o", "encoder", *steps, "--json")
    assert trained.code == 0, trained.err
    ran = cli("evaluate", "encoder", "--data", triplets_file, "-o", "r.json", "--speed-texts", "4", "--json")
    assert ran.code == 0, ran.err
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS))
    )
    encoded = cli("encode", "encoder", "corpus.jsonl", "-o", "vectors", "--json")
    assert encoded.code == 0, encoded.err
    exported = cli("export", "encoder", "--target", "onnx", "-o", "onnx", "--json")
    assert exported.code == 0, exported.err
    # And once more: a trimmed encoder is a model like any other.
    assert cli("profile", "encoder", "--texts", triplets_file, *measured, "-o", "again.json").code == 0
    again = cli("plan", "again.json", "--method", "depth", "--depth", "1", "--vocabulary", "300", "--texts", triplets_file)
    assert again.code == 0, again.err
    last = cli("prune", "encoder", "plan.json", "-o", "smaller", "--json")
    assert last.code == 0, last.err
