"""What the settings switch on in the trainer, seen in what it does."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import TrainerCallback

from prune2vec.data.triplet import Triplet, write_triplets
from prune2vec.errors import CheckpointError, ConfigError, TrainingError
from prune2vec.forward.packed import ATTENTION
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.fit import evaluators, explained_failures, fit, isolated_randomness, schedule
from prune2vec.training.importances.learnt_gates import Gates
from prune2vec.training.objective import build_loss
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train import prepare, train_encoder
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.training_data import TrainingData, TrainingTable
from tests.training.contexts import tiny_context
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_packed_loss import assert_equal_steps, columns, count_tokens, stepped
from tests.training.test_train import DATA, QUICK, curve, weights

FOUR: dict[str, Any] = {**QUICK, "steps": 4}


class Look(TrainerCallback):
    """Keeps what a test wants to see of the model in training."""

    def __init__(self) -> None:
        self.dtypes: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
        self.recomputes = False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for parameter in model.parameters():
            self.dtypes[parameter.requires_grad].add(parameter.dtype)
        self.recomputes = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in curve(output)]


class Stop(TrainerCallback):
    """Stops a training early, as others do that watch a score."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= 3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_callback_that_stops_the_training_is_named(small: Path, tmp_path: Path, method: str) -> None:
    settings = {**FOUR, "method": method, "save_every": 2}
    with pytest.raises(TrainingError, match=r"^a callback stopped the training after step 3 of 4") as caught:
        train_encoder(small, DATA, tmp_path / "encoder", callbacks=[Stop()], **settings)
    assert "from which the same command goes on after step" in caught.value.__notes__[0]
    train_encoder(small, DATA, tmp_path / "encoder", **settings)
    assert len(curve(tmp_path / "encoder")) == 4


@pytest.fixture(scope="module")
def plain(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plain") / "encoder"
    train_encoder(small, DATA, output, **FOUR, lora_dropout=0.0)
    return output


def test_adapters_are_fp32_beside_a_bf16_base(small: Path, tmp_path: Path, plain: Path) -> None:
    look = Look()
    train_encoder(small, DATA, tmp_path / "encoder", callbacks=[look], **{**FOUR, "dtype": "bfloat16"}, lora_dropout=0.0)
    assert look.dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
    assert losses(tmp_path / "encoder") == pytest.approx(losses(plain), rel=0.1)
    # The base was fp32 on disk: what is not adapted comes out as it went in, not rounded to bf16.
    assert torch.equal(weights(tmp_path / "encoder")["norm.weight"], weights(small)["norm.weight"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_training_moves_every_weight_in_fp32(small: Path, tmp_path: Path, dtype: str) -> None:
    look = Look()
    settings = {**FOUR, "method": "full", "learning_rate": 1e-3, "dtype": dtype}
    result = train_encoder(small, DATA, tmp_path / "encoder", callbacks=[look], **settings)
    assert look.dtypes == {True: {torch.float32}, False: set()}
    assert result.merge_difference is None
    same = [name for name, tensor in weights(tmp_path / "encoder").items() if torch.equal(tensor, weights(small)[name])]
    assert same == []


def test_checkpointing_activations_changes_no_loss(small: Path, tmp_path: Path, plain: Path) -> None:
    look = Look()
    train_encoder(small, DATA, tmp_path / "encoder", callbacks=[look], **FOUR, lora_dropout=0.0, gradient_checkpointing="on")
    assert look.recomputes
    assert losses(tmp_path / "encoder") == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.parametrize("packing", ["on", "off"])
def test_no_attention_of_a_training_is_cudnns(
    small: Path, tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, seen = torch.nn.functional.scaled_dot_product_attention, []

    def noted(*args: Any, **kwargs: Any) -> Any:
        # The trainer's and the library's, forward and once more for the backward pass, not those of the checks after it.
        if torch.is_grad_enabled():
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return kernel(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    train_encoder(small, DATA, tmp_path / "encoder", **FOUR, packing=packing, gradient_checkpointing="on")
    assert len(seen) > FOUR["steps"]
    assert not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_cached_run_equals_the_plain_one(small: Path, tmp_path: Path, plain: Path) -> None:
    train_encoder(small, DATA, tmp_path / "encoder", **FOUR, lora_dropout=0.0, cached=True, mini_batch_size=3)
    assert losses(tmp_path / "encoder") == pytest.approx(losses(plain), abs=1e-4)


def test_distillation_logs_both_parts_and_draws_nearer_to_the_teacher(small: Path, tmp_path: Path) -> None:
    teacher = save_tiny_encoder(tmp_path / "full", layers=3)
    train_encoder(small, DATA, tmp_path / "encoder", **QUICK, teacher=teacher, distil="vectors", distil_weight=20)
    lines = curve(tmp_path / "encoder")
    for line in lines:
        assert line["loss"] == pytest.approx(line["contrastive"] + line["distillation"], abs=2e-3)
    assert lines[-1]["distillation"] < lines[0]["distillation"]


def test_matryoshka_run_improves_short_vectors(small: Path, tmp_path: Path) -> None:
    train_encoder(small, DATA, tmp_path / "encoder", **QUICK, matryoshka_dims=(8,))
    assert losses(tmp_path / "encoder")[-1] < losses(tmp_path / "encoder")[0]


def test_instructions_are_trained_with_and_saved(small: Path, tmp_path: Path) -> None:
    train_encoder(small, DATA, tmp_path / "encoder", **FOUR, instruction="Find it")
    config = json.loads((tmp_path / "encoder" / "config_sentence_transformers.json").read_text())
    record = json.loads((tmp_path / "encoder" / "prune2vec.json").read_text())["train"]
    used = record["data"]["one"]["query_prompt"]
    assert used.startswith("Find it")
    assert config["prompts"] == {"query": used}


def test_held_out_rows_are_scored_at_checkpoints_and_the_end(small: Path, tmp_path: Path) -> None:
    write_triplets(rows(12, "held", start=90), tmp_path / "dev.jsonl")
    result = train_encoder(small, DATA, tmp_path / "encoder", **{**QUICK, "save_every": 5}, dev=tmp_path / "dev.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "encoder" / "dev.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert result.dev == {key: value for key, value in lines[-1].items() if key != "step"}
    assert all(0 < value <= 1 for value in result.dev.values())
    assert len(result.dev) == 1


def test_long_texts_are_cut_counted_and_told_once(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train_encoder(small, DATA, tmp_path / "encoder", **FOUR, max_length=12)
    lines = curve(tmp_path / "encoder")
    assert result.cut_texts == sum(line["cut"] for line in lines) > 0
    assert capsys.readouterr().err.count("longer than 12 tokens") == 1


def table(count: int) -> TrainingData:
    one = TrainingTable(rows=rows(count), query_prompt="", document_prompt="")
    return TrainingData(tables={"one": one}, left_out={}, digest="", settings=TrainSettings())


def test_linear_schedule_is_the_papers_line_over_three_epochs(small: Path, tmp_path: Path) -> None:
    settings = TrainSettings(steps=6, batch_size=8, warmup_steps=2, learning_rate=1.0)
    kwargs = schedule(settings, table(32))["lr_scheduler_kwargs"]
    # 3 epochs of 4 batches: the line from step 2 to zero at step 12 is at 6/10 at step 6.
    assert kwargs["lr_end"] == pytest.approx(0.6)
    assert schedule(settings, table(8))["lr_scheduler_kwargs"]["lr_end"] == 0.0
    train_encoder(small, rows(32), tmp_path / "encoder", **{**QUICK, "steps": 6, "warmup_steps": 2, "learning_rate": 1e-3})
    rates = [line["learning_rate"] for line in curve(tmp_path / "encoder")]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 9e-4, 8e-4, 7e-4])


def test_weights_on_disk_are_the_merged_ones(plain: Path) -> None:
    assert not [name for name in load_file(plain / "model.safetensors") if "lora" in name]


def test_linear_to_zero_is_a_line_that_ends_at_the_last_step(small: Path, tmp_path: Path) -> None:
    settings = {**FOUR, "steps": 6, "schedule": "linear-to-zero", "warmup_steps": 2, "learning_rate": 1e-3}
    train_encoder(small, DATA, tmp_path / "encoder", **settings)
    rates = [line["learning_rate"] for line in curve(tmp_path / "encoder")]
    falling = rates[rates.index(max(rates)) :]
    drops = [before - after for before, after in pairwise(falling)]
    assert drops == pytest.approx([1e-3 / 4] * len(drops))
    assert max(rates) == pytest.approx(1e-3)
    assert falling[-1] <= 1e-3 / 4 + 1e-9


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "full", "learning_rate": 1e-3},
        {"cached": True, "mini_batch_tokens": 60},
        {"matryoshka_dims": (8,), "instruction": "find the text:", "hard_negatives": 3},
        {"gradient_checkpointing": "on", "max_length": 8, "train_top": 1},
    ],
)
def test_packed_steps_have_the_losses_of_plain_ones(small: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    found = {}
    for packing in ("on", "off"):
        output = tmp_path / packing
        train_encoder(small, DATA, output, **{**QUICK, "steps": 5, "lora_dropout": 0.0, "packing": packing, **settings})
        found[packing] = losses(output)
        record = json.loads((output / "prune2vec.json").read_text())["train"]["packing"]
        assert record == {"packed": packing == "on", "obstacle": None if packing == "on" else "not wanted"}
        assert [file.name for file in output.rglob("*.json") if ATTENTION in file.read_text()] == []
    assert len(found["on"]) == 5
    assert found["on"] == pytest.approx(found["off"], rel=1e-4)


def test_packed_full_training_in_bf16_differs_by_less_than_bf16_does(small: Path, tmp_path: Path) -> None:
    found = []
    for number, (packing, dtype) in enumerate([("on", "bfloat16"), ("off", "bfloat16"), ("off", "float32")]):
        told = {**QUICK, "steps": 3, "method": "full", "learning_rate": 1e-3, "packing": packing, "dtype": dtype}
        train_encoder(small, DATA, tmp_path / str(number), **told)
        found.append(losses(tmp_path / str(number)))
    packed, plain, exact = found
    noise = max(abs(a - b) for a, b in zip(plain, exact, strict=True))
    assert 0 < noise < 0.01 * exact[0]
    assert max(abs(a - b) for a, b in zip(packed, plain, strict=True)) <= noise


def test_a_model_that_takes_no_packed_rows_is_trained_all_the_same(tmp_path: Path) -> None:
    base = save_tiny_encoder(tmp_path / "small", "gemma2")
    runs = [{"packing": "auto"}, {"packing": "off"}]
    for run in runs:
        train_encoder(base, DATA, tmp_path / run["packing"], **{**QUICK, "steps": 3, "lora_dropout": 0.0, **run})
    assert losses(tmp_path / "auto") == pytest.approx(losses(tmp_path / "off"), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_only_the_top_moves(tmp_path: Path, method: str) -> None:
    base = save_tiny_encoder(tmp_path / "deep", layers=4)
    settings = {**QUICK, "steps": 2, "learning_rate": 1e-2, "method": method, "train_top": 2}
    train_encoder(base, DATA, tmp_path / "encoder", **settings)
    before, after = weights(base), weights(tmp_path / "encoder")
    moved = {name.split(".")[1] for name in before if name.startswith("layers.") and not torch.equal(before[name], after[name])}
    assert moved == {"2", "3"}
    assert torch.equal(before["embed_tokens.weight"], after["embed_tokens.weight"])
    assert torch.equal(before["norm.weight"], after["norm.weight"]) is (method == "lora")


def test_a_top_of_more_layers_than_there_are_is_refused(small: Path, tmp_path: Path) -> None:
    for method in ("lora", "full"):
        with pytest.raises(ConfigError, match="train_top 3 is more than the encoder's 2 layers; leave it out to train all"):
            train_encoder(small, DATA, tmp_path / method, **{**QUICK, "method": method, "train_top": 3})


ROWS = [
    Triplet(anchor="fox", positive="the quick brown fox", negatives=("the lazy dog", "12 birds")),
    Triplet(anchor="file", positive="the file and the line", negatives=("the quick brown fox",)),
    Triplet(anchor="fox", positive="the fox sings", negatives=("12 birds",)),
    Triplet(anchor="not used", positive="not used either", negatives=()),
]


def test_ndcg_is_that_of_the_rows_own_documents(small: Path) -> None:
    encoder = load_encoder(small, device="cpu", dtype="float32")
    table = TrainingTable(rows=ROWS, query_prompt="find: ", document_prompt="")
    (evaluator,) = evaluators({"one": table}, rows=3, batch_size=2)
    found = evaluator(encoder)["one_cosine_ndcg@10"]
    documents = ["the quick brown fox", "the lazy dog", "12 birds", "the file and the line", "the fox sings"]
    wanted = {"fox": {0, 4}, "file": {3}}
    scores = []
    for query, relevant in wanted.items():
        row = (encoder.encode([query], prompt="find: ") @ encoder.encode(documents).T)[0]
        ranking = sorted(range(5), key=lambda index: -row[index])
        gain = sum(1 / math.log2(rank + 2) for rank, index in enumerate(ranking) if index in relevant)
        scores.append(gain / sum(1 / math.log2(rank + 2) for rank in range(len(relevant))))
    assert found == pytest.approx(sum(scores) / 2)


@pytest.mark.parametrize(
    ("fault", "expected", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), TrainingError, "out of GPU memory; set gradient_checkpointing"),
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "No space left on device; free some space"),
        (
            RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"),
            CheckpointError,
            "free some space and run again",
        ),
        (RuntimeError("shapes do not match"), RuntimeError, "shapes do not match"),
    ],
)
def test_faults_are_explained(tmp_path: Path, fault: Exception, expected: type[Exception], words: str) -> None:
    with pytest.raises(expected, match=words), explained_failures(tmp_path):
        raise fault


def test_a_real_refusal_to_allocate_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^out of memory; .*batch_size"), explained_failures(tmp_path):
        torch.empty(2**60, dtype=torch.uint8)


def test_a_real_full_disk_is_explained(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(CheckpointError, match="free some space"), explained_failures(tmp_path):
        torch.save({"weights": torch.zeros(1 << 20)}, "/dev/full")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()


def test_state_is_given_back_even_after_an_error() -> None:
    with isolated_randomness(7):
        expected = draw()
    with isolated_randomness(7):
        with pytest.raises(KeyError), isolated_randomness(1):
            draw()
            raise KeyError
        assert draw() == expected


def test_the_seed_decides() -> None:
    drawn = []
    for seed in (1, 1, 2, -3):
        with isolated_randomness(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2] != drawn[3]


class Bias:
    """One vector, added to the token states."""

    def __init__(self) -> None:
        self.restored: list[str] = []

    def install(self, encoder: SentenceTransformer) -> None:
        encoder.requires_grad_(False)
        self.value = nn.Parameter(torch.zeros(32))
        encoder[0].register_parameter("bias", self.value)
        encoder[0].register_forward_hook(self._add)

    def _add(self, module: nn.Module, args: object, output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**output, "token_embeddings": output["token_embeddings"] + self.value}

    def loss(self, loss: nn.Module) -> nn.Module:
        return loss

    def save(self, folder: Path) -> None:
        torch.save(self.value.detach(), folder / "bias.pt")

    def restore(self, folder: Path) -> None:
        self.restored.append(folder.name)
        self.value.data.copy_(torch.load(folder / "bias.pt"))


def run(small: Path, output: Path, steps: int) -> tuple[Bias, SentenceTransformer]:
    settings = TrainSettings(steps=steps, batch_size=8, save_every=2, dtype="float32", learning_rate=0.01, schedule="constant")
    encoder, job = prepare(small, DATA, output, settings)
    job = dataclasses.replace(job, identity={})
    part = Bias()
    fit(job, encoder, job.work.open({}, restart=False), part=part)
    return part, encoder


def test_only_the_part_is_trained_and_kept(small: Path, tmp_path: Path) -> None:
    part, encoder = run(small, tmp_path / "out", 4)
    assert part.value.abs().min() > 0
    assert [name for name, parameter in encoder.named_parameters() if parameter.requires_grad] == ["0.bias"]
    assert not any("lora" in name for name, _ in encoder.named_parameters())
    assert {file.suffix for file in (tmp_path / ".out.training" / "checkpoint-4").iterdir()} == {".pt", ".pth", ".json"}
    assert torch.equal(torch.load(tmp_path / ".out.training" / "checkpoint-4" / "bias.pt"), part.value)


def test_a_run_goes_on_from_the_parts_checkpoint(small: Path, tmp_path: Path) -> None:
    whole, _ = run(small, tmp_path / "whole", 6)
    run(small, tmp_path / "cut", 4)
    part, _ = run(small, tmp_path / "cut", 6)
    assert part.restored == ["checkpoint-4"]
    # The shorter run warmed up in fewer steps, so only near.
    assert (part.value - whole.value).abs().max() < 0.02
    assert part.value.abs().max() > 0.03


def test_gates_get_the_gradients_of_the_plain_step(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    encoder = context.encoder.train()
    gates = Gates(context, penalty=1e-2)
    gates.install(encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates.values.values():
            gate.add_(0.5 * torch.randn(gate.shape, generator=generator))
    loss = gates.loss(build_loss(encoder, TrainSettings(scale=20)))
    theirs = stepped(encoder, loss, columns(encoder))
    assert len(theirs[1]) == len(gates.values)
    with without_padding(loss, encoder, "on", max_length=64) as (packed, _), count_tokens(encoder) as counts:
        assert_equal_steps(stepped(encoder, packed, columns(encoder)), theirs)
    assert len(counts) == 1
