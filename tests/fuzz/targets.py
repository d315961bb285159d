"""What is damaged, which command line then meets it, and how to tell that a success was none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from prune2vec.evaluation.results import METRICS, Results
from prune2vec.models.shape import ModelShape
from prune2vec.planning.plan import PruningPlan
from tests.fuzz.mutations import damage_bytes, damage_json, damage_safetensors, damage_yaml
from tests.tiny import save_tiny

Damage = Callable[[Path, random.Random], None]
Oracle = Callable[[Path, Path, Path], str]
"""(folder of the try, damaged file, the file as it was) -> what is wrong with an exit of 0, or nothing."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        file: What is damaged, in the folder of a try.
        damage: How.
        command: The command lines that read it; one of them is drawn.
        oracle: Looks at a success.
    """

    file: str
    damage: Damage
    command: Sequence[str]
    oracle: Oracle


def prepare(folder: Path) -> None:
    """Write a good file of every kind; all later work starts from a copy."""
    from prune2vec import plan, profile, prune

    save_tiny(folder / "model")
    save_tiny(folder / "sharded", max_shard_size="40KB")
    rows = [{"anchor": f"query {n}", "positive": f"answer {n}", "negative": f"other {n}"} for n in range(4)]
    (folder / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "{n}", "text": "the {n} birds"}}\n' for n in range(3)), encoding="utf-8"
    )
    profile(folder / "model", folder / "triplets.jsonl", groups=2, group_size=2, scorers="redundancy,redundancy-iterative",
            dtype="float32", output=folder / "profile.json")  # fmt: skip
    plan(folder / "profile.json", method="depth", depth=3, output=folder / "plan.json")
    prune(folder / "model", folder / "plan.json", folder / "small", pooling="mean")
    side = {"texts_per_s": 10.0, "tokens_per_s": 200.0}
    own = {"data": {"source": "dev", "queries": 3, "documents": 9, "digest": "0"}, "metrics": dict.fromkeys(METRICS, 0.5)}
    Results(
        encoder={"path": "small"}, size={"parameters": 100, "disk_bytes": 400}, memory={"process": 9, "cuda": None},
        speed={"queries": side, "documents": side}, retrieval={**own, "bm25": {"metrics": own["metrics"]}},
    ).save(folder / "results.json")  # fmt: skip
    (folder / "recipe.yaml").write_text(
        "model: model\ndata:\n  train: triplets.jsonl\n  dev: triplets.jsonl\nprofile:\n  groups: 1\n  group-size: 2\n"
        "variants:\n  - name: full\n    method: full\n  - name: small\n    method: depth\n    parameters: {depth: 2}\n"
        "train:\n  steps: 2\n  batch-size: 2\n  learning-rate: 0.001\n",
        encoding="utf-8",
    )
    (folder / "plan.yaml").write_text("method: depth\ndepth: 3\nmax-layers: 4\noutput: new.json\n", encoding="utf-8")
    _gguf(folder / "model.gguf")


def _gguf(path: Path) -> None:
    try:
        from tests.gguf_files import write_gguf
    except ImportError:  # The extra is not installed.
        return
    write_gguf(path)


def same(first: Any, second: Any) -> bool:
    """Return whether two JSON values are equal, 1 and true being different and 1 and 1.0 not."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def plan_as_written(folder: Path, file: Path, good: Path) -> str:
    """A plan that was taken says what its file says."""
    written = json.loads(file.read_text(encoding="utf-8"))
    read = PruningPlan.load(file).to_json()
    written["width_cut"] = str(Fraction(str(written["width_cut"])))
    written.setdefault("num_layers", read["num_layers"])
    # What earlier releases did not write has its former meaning.
    written.setdefault("vocabulary", None)
    absent = {field.name: field.default for field in fields(ModelShape) if field.default is not MISSING}
    written["shape"] = {**json.loads(json.dumps(absent)), **written["shape"]}
    return "" if same(read, written) else "the plan was read as something else than is written"


def profile_as_written(folder: Path, file: Path, good: Path) -> str:
    """A profile that was taken has numbers where numbers are."""
    written, was = json.loads(file.read_text(encoding="utf-8")), json.loads(good.read_text(encoding="utf-8"))
    for key, value in was["layer_loss"].items():
        found = written["layer_loss"][key]
        if len(found) != len(value) or any(isinstance(one, bool | str) for one in found):
            return f"layer_loss.{key} was taken as {str(found)[:80]}"
    return ""


def results_as_written(folder: Path, file: Path, good: Path) -> str:
    """Results that were taken are what the file says."""
    written, read = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(Results.load(file).to_json()))
    own = {key: value for key, value in read.items() if key in written and key not in ("score", "score_name", "task_mean")}
    return "" if same(own, {key: written[key] for key in own}) else "the results were read as something else than is written"


def anything(folder: Path, file: Path, good: Path) -> str:
    """Whatever was taken is as good as the other."""
    return ""


def loads_strictly(folder: Path, file: Path, good: Path) -> str:
    """A model that was taken is one that transformers loads without a hole: nothing missing, misshapen or left over."""
    from transformers import AutoModelForCausalLM

    try:
        _, told = AutoModelForCausalLM.from_pretrained(file.parent, output_loading_info=True, local_files_only=True)
    except Exception as error:
        return f"taken, but transformers refuses it: {type(error).__name__}: {error}"
    holes = {kind: names for kind, names in told.items() if names and kind != "error_msgs"}
    return f"taken with holes: {holes}" if holes else ""


def vectors_of_the_folder(folder: Path, file: Path, good: Path) -> str:
    """An encoder that was taken has no hole, and its vectors are those that sentence-transformers computes from that folder."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    try:
        _, told = AutoModel.from_pretrained(folder / "small", output_loading_info=True, local_files_only=True)
        encoder = SentenceTransformer(str(folder / "small"), device="cpu", model_kwargs={"dtype": torch.float32})
        texts = [json.loads(line)["text"] for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
        expected = encoder.encode(texts, prompt_name="document" if "document" in encoder.prompts else None)
    except Exception as error:
        return f"taken, but the library refuses it: {type(error).__name__}: {error}"
    holes = {kind: names for kind, names in told.items() if names and kind != "error_msgs"}
    parts = sorted((folder / "out").rglob("*.parquet"))
    found = np.array([row for part in parts for row in pq.read_table(part)["vector"].to_pylist()], dtype=np.float32)
    if holes:
        return f"taken with holes: {holes}"
    if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-4):
        return "the vectors are not those of the folder"
    return ""


def refused(folder: Path, file: Path, good: Path) -> str:
    """A damaged file was taken: its tensors must be those of the good one."""
    from gguf import GGUFReader

    found, was = ({one.name: np.array(one.data) for one in GGUFReader(path).tensors} for path in (file, good))
    equal = found.keys() == was.keys() and all(np.array_equal(found[name], was[name]) for name in was)
    return "" if equal else "a damaged GGUF was taken"


_PROFILE = "profile {at} --texts triplets.jsonl --groups 1 --group-size 2 --dtype float32 -o new.json"
_PRUNE = "prune {at} plan.json -o out"
_ENCODE = "encode small corpus.jsonl -o out --dtype float32"
_MODEL = tuple(line.format(at="model") for line in (_PROFILE, _PRUNE))
_SHARDED = tuple(line.format(at="sharded") for line in (_PROFILE, _PRUNE))

RECORDS: Sequence[Target] = (
    Target("plan.json", damage_json, ("plan show plan.json",), plan_as_written),
    Target("plan.json", damage_json, ("prune model plan.json -o out",), plan_as_written),
    Target("profile.json", damage_json, ("plan profile.json -o new.json", "plan profile.json --method effir -o new.json",
           "plan profile.json --method drop --drop 1M -o new.json"), profile_as_written),
    Target("results.json", damage_json, ("compare results.json -o out",), results_as_written),
    Target("recipe.yaml", damage_yaml, ("run recipe.yaml -o out --dry-run",), anything),
    Target("plan.yaml", damage_yaml, ("plan profile.json --config plan.yaml",), anything),
)  # fmt: skip
"""Records and recipes."""

LOADED: Sequence[Target] = (
    Target("model/config.json", damage_json, _MODEL, loads_strictly),
    Target("model/model.safetensors", damage_safetensors, _MODEL, loads_strictly),
    Target("model/tokenizer.json", damage_json, _MODEL, anything),
    Target("model/tokenizer_config.json", damage_json, _MODEL, anything),
    Target("sharded/model.safetensors.index.json", damage_json, _SHARDED, loads_strictly),
    Target("small/config.json", damage_json, (_ENCODE,), vectors_of_the_folder),
    Target("small/model.safetensors", damage_safetensors, (_ENCODE,), vectors_of_the_folder),
    Target("small/modules.json", damage_json, (_ENCODE,), vectors_of_the_folder),
    Target("small/1_Pooling/config.json", damage_json, (_ENCODE,), vectors_of_the_folder),
    Target("small/sentence_bert_config.json", damage_json, (_ENCODE,), vectors_of_the_folder),
    Target("small/config_sentence_transformers.json", damage_json, (_ENCODE,), vectors_of_the_folder),
    Target("small/tokenizer.json", damage_json, (_ENCODE,), anything),
    Target("small/prune2vec.json", damage_json, (_ENCODE,), anything),
    Target("model.gguf", damage_bytes, (_PROFILE.format(at="model.gguf"),), refused),
)
"""Models and encoders."""

OPTIONS: Sequence[Target] = tuple(
    Target("", lambda path, draw: None, (line,), anything)
    for line in (
        "profile model --texts triplets.jsonl -o new.json --dry-run",
        "profile model --texts triplets.jsonl -o new.json --groups 1 --group-size 2",
        "plan profile.json -o new.json",
        "plan show plan.json",
        "slim model plan.json --texts triplets.jsonl -o new.json --dry-run",
        "prune model plan.json -o out",
        "train small --data triplets.jsonl -o out --dry-run",
        "evaluate small --data triplets.jsonl -o new.json --dry-run",
        "encode small corpus.jsonl -o out",
        "mine docstrings -o out --dry-run",
        "mine negatives triplets.jsonl --model small -o new.jsonl --dry-run",
        "compare results.json -o out",
        "run recipe.yaml -o out --dry-run",
        "init -o new.yaml",
        "demo -o out --dry-run",
        "export small --target onnx -o out --dry-run",
        "methods",
    )
)
"""Command lines that one or two options are added to."""
