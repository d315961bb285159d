"""Time and memory of a training step: packed texts against the plain sentence-transformers recipe, same batches and loss.

The plain side is the recipe as a user writes it: SentenceTransformerTrainer, MultipleNegativesRankingLoss, LoRA by peft.
The others have the same trainer, arguments, rows and seeds. A round is an epoch over one batch of every table of the data,
tokenising and optimiser included; sides take turns (A B A B). Tokens count without padding. Peak memory is that of a fresh
process a side that runs one round: resident memory, or what torch allocated on a GPU.

python benchmarks/train_speed.py --data DATA --out benchmarks/results/train-speed.json
python benchmarks/train_speed.py --synthetic-8b-cut 5 25 --out benchmarks/results/train-speed-8b.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before torch is imported: spinning threads would slow down both sides.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from common import abab, human_bytes, markdown_table, run_child, synchronised, write_result
from datasets import Dataset, DatasetDict
from peft import LoraConfig, TaskType
from random_model import LIKE, write_random_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from prune2vec.data.reader import load_triplets
from prune2vec.data.triplet import Triplet
from prune2vec.forward.backbone import load_backbone
from prune2vec.machine import pick_device
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.training.adapters import add_lora
from prune2vec.training.objective import pooled_in_fp32
from prune2vec.training.packed_loss import PackedLoss, token_pass
from prune2vec.training.train_settings import TrainSettings

PLAIN = "sentence-transformers"
SIDES = (PLAIN, "sorted", "packed", "top")
COLUMNS = ("anchor", "positive", "negative")
_MADE = 4
Tables = dict[str, list[dict[str, str]]]


class Losses(TrainerCallback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Take a step's loss."""
        if logs and "loss" in logs:
            self.values.append(logs["loss"])


def real_tables(data: Path, batch: int, seed: int) -> Tables:
    """Return one batch of every data set, drawn without repeated texts."""
    rows = load_triplets(data, require_negative=True)
    random.Random(seed).shuffle(rows)
    by_name: dict[str, list[Triplet]] = {}
    seen: set[str] = set()
    for row in rows:
        taken = by_name.setdefault(row.dataset or "data", [])
        texts = {row.anchor, row.positive, row.negatives[0]}
        if len(taken) < batch and not texts & seen:
            taken.append(row)
            seen |= texts
    full = {name: taken for name, taken in sorted(by_name.items()) if len(taken) == batch}
    return {
        name: [dict(zip(COLUMNS, (row.anchor, row.positive, row.negatives[0]), strict=True)) for row in taken]
        for name, taken in full.items()
    }


def made_tables(batch: int, length: int, seed: int) -> Tables:
    """Return a few batches of made texts, every one at least ``length`` tokens long; several, as a round starts a trainer."""
    draw = random.Random(seed)
    words = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")
    rows = [{name: " ".join(draw.choices(words, k=length)) for name in COLUMNS} for _ in range(_MADE * batch)]
    return {f"made{number}": rows[number * batch : (number + 1) * batch] for number in range(_MADE)}


def plain_recipe(encoder: SentenceTransformer, options: argparse.Namespace) -> nn.Module:
    """Prepare an encoder and its loss as a user of sentence-transformers does."""
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION, r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear"
    )
    encoder.add_adapter(config)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if options.mini_batch:
        return CachedMultipleNegativesRankingLoss(encoder, scale=50.0, mini_batch_size=options.mini_batch)
    return MultipleNegativesRankingLoss(encoder, scale=50.0)


def our_recipe(encoder: SentenceTransformer, options: argparse.Namespace, top: int | None) -> nn.Module:
    """Prepare an encoder and its loss as ``prune2vec train`` does."""
    add_lora(encoder, TrainSettings(train_top=top))
    if options.mini_batch:
        return CachedMultipleNegativesRankingLoss(encoder, scale=50.0, mini_batch_size=options.mini_batch)
    return MultipleNegativesRankingLoss(encoder, scale=50.0)


class Side:
    """One way to train, on an encoder of its own."""

    def __init__(self, name: str, folder: Path, tables: Tables, options: argparse.Namespace) -> None:
        self.losses = Losses()
        self._name = name
        self._budget = options.token_budget
        self._encoder = load_encoder(folder, device=options.device, dtype=options.dtype)
        self._encoder.max_seq_length = options.max_length
        torch.manual_seed(options.seed)
        if name == PLAIN:
            loss = plain_recipe(self._encoder, options)
        else:
            loss = our_recipe(self._encoder, options, options.top if name == "top" else None)
        self._trainer: Any = self._make_trainer(loss, tables, options)

    def _make_trainer(self, loss: nn.Module, tables: Tables, options: argparse.Namespace) -> SentenceTransformerTrainer:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=tempfile.mkdtemp(prefix="train-speed-"),
            max_steps=len(tables),
            per_device_train_batch_size=options.batch,
            batch_sampler="no_duplicates",
            multi_dataset_batch_sampler="proportional",
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            activation_checkpointing=options.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
            seed=options.seed,
            use_cpu=self._encoder.device.type == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = DatasetDict({name: Dataset.from_list(rows) for name, rows in tables.items()})
        self._encoder.model_card_data.local_files_only = True
        self._encoder.model_card_data.widget = [{"text": ""}]
        trainer = SentenceTransformerTrainer(model=self._encoder, args=arguments, train_dataset=data, loss=loss)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self.losses)
        self._loss: Any = trainer.loss
        return trainer

    @contextmanager
    def _ready(self) -> Iterator[None]:
        if self._name == PLAIN:
            yield
            return
        packs = self._name != "sorted"
        with pooled_in_fp32(self._encoder), token_pass(self._encoder, packs=packs, token_budget=self._budget) as one:
            self._trainer.loss = PackedLoss(self._loss, self._encoder, one)
            yield
            self._trainer.loss = self._loss

    def round(self) -> None:
        """Train for one epoch."""
        with self._ready():
            self._trainer.train()

    def tokens(self, tables: Tables) -> int:
        """Return the tokens of a round without padding."""
        texts = [text for rows in tables.values() for row in rows for text in row.values()]
        encoded = self._encoder.tokenizer(texts, truncation=True, max_length=self._encoder.max_seq_length)
        return sum(map(len, encoded["input_ids"]))


def cut_encoder(model: str, layers: int, folder: Path) -> Path:
    """Write the encoder of a model's first layers."""
    backbone = load_backbone(model, dtype="float32", device="cpu")
    plan = PruningPlan(
        model=backbone.identity(),
        shape=backbone.shape,
        keep_layers=tuple(range(min(layers, backbone.shape.num_layers))),
        drop_attention=(),
        drop_mlp=(),
        neurons={},
        method="depth",
    )
    return prune_model(model, plan, folder)


def random_encoder(layers: int, folder: Path, options: argparse.Namespace) -> Path:
    """Write an encoder of Llama 3 8B's shape, cut to ``layers``, with random weights."""
    sizes = replace(LIKE["8B"], layers=layers)
    if options.hidden:
        sizes = replace(sizes, hidden=options.hidden, intermediate=3 * options.hidden, heads=8, kv_heads=2, vocabulary=49152)
    plain = write_random_model(folder.parent / f"{folder.name}-plain", sizes, seed=options.seed)
    module = Transformer(str(plain), max_seq_length=options.max_length, model_kwargs={"dtype": torch.bfloat16})
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[module, pooling, Normalize()], device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def child(options: argparse.Namespace, tables: Tables) -> None:
    """Run one round of one side and print its losses and, on a GPU, its peak."""
    side = Side(options.child, options.encoder, tables, options)
    side.round()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    print(json.dumps({"losses": side.losses.values, "cuda_peak": peak}))


def peak_of(side: str, folder: Path, options: argparse.Namespace) -> int:
    """Return the peak memory of a fresh process in which a side trains for a round, in bytes."""
    given = {name: getattr(options, name) for name in ("batch", "max_length", "dtype", "device", "seed", "top", "mini_batch")}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--gradient-checkpointing"] if options.gradient_checkpointing else []
    words += ["--token-budget", str(options.token_budget)] if options.token_budget else []
    words += ["--data", str(options.data)] if options.data else []
    done = run_child([str(Path(__file__)), "--child", side, "--encoder", str(folder), *words])
    peak = json.loads(done.stdout.splitlines()[-1])["cuda_peak"]
    return int(peak or done.peak_rss)


def measured(folder: Path, tables: Tables, options: argparse.Namespace) -> dict[str, Any]:
    """Return steps a second, tokens a second, peak memory and losses of all sides on one encoder."""
    peaks = {name: peak_of(name, folder, options) for name in options.sides}
    sides = {name: Side(name, folder, tables, options) for name in options.sides}
    tokens = sides[options.sides[0]].tokens(tables)
    work: dict[str, Callable[[], object]] = {name: synchronised(side.round) for name, side in sides.items()}
    found = abab(work, options.rounds, warmup=options.warmup)
    return {
        name: {
            **found[name],
            "s_per_step": found[name]["median"] / len(tables),
            "hours_per_1000_steps": found[name]["median"] / len(tables) * 1000 / 3600,
            "tokens_per_s": tokens / found[name]["median"],
            "peak_bytes": peaks[name],
            "losses": sides[name].losses.values,
        }
        for name in options.sides
    }


def rows_of(case: str, found: dict[str, Any], tables: Tables) -> Iterator[Sequence[object]]:
    """Yield the table's rows of one encoder; the last columns compare the losses of the first and of the last round."""
    for name, side in found.items():
        first, last = side["losses"][: len(tables)], side["losses"][-len(tables) :]
        yield (
            f"{case}, {name}",
            f"{side['s_per_step']:.2f}",
            f"{side['tokens_per_s']:.0f}",
            f"{side['ratio']:.2f}",
            human_bytes(side["peak_bytes"]),
            f"{side['hours_per_1000_steps']:.2f}",
            f"{first[0]:.5f}",
            f"{sum(last) / len(last):.3f}",
        )


HEADER = (
    "encoder, side",
    "s a step",
    "tokens/s",
    "ratio",
    "peak memory",
    "h for 1000 steps",
    "first loss",
    "last round's loss",
)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or file of triplets; every data set in it gives one batch")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", type=int, nargs="+", default=[7, 30], help="depths of the model to train")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 8], help="rows a step at each depth")
    parser.add_argument("--synthetic-8b-cut", type=int, nargs="+", metavar="LAYERS", help="train random weights of 8B's shape")
    parser.add_argument("--synthetic-batch", type=int, default=64, help="rows a step of it, as in the paper")
    parser.add_argument("--hidden", type=int, help="a small hidden size for it, to try the script")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[PLAIN, "packed"], help="the first is compared with")
    parser.add_argument("--top", type=int, default=4, help="layers that the side top trains")
    parser.add_argument("--mini-batch", type=int, default=0, help="GradCache with so many rows in memory; 0 is without")
    parser.add_argument("--token-budget", type=int, help="tokens of one forward pass of ours; default: as train does")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batch", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--encoder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = str(pick_device(options.device))
    if not options.data and not options.synthetic_8b_cut and not options.child:
        parser.error("give --data, or --synthetic-8b-cut")
    return options


def tables_for(options: argparse.Namespace) -> Tables:
    """Return the batches of a round."""
    if options.data:
        return real_tables(options.data, options.batch, options.seed)
    return made_tables(options.batch, options.max_length, options.seed)


def cases_of(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Return layers and rows a step of every encoder to train."""
    if options.synthetic_8b_cut:
        return [(layers, options.synthetic_batch) for layers in options.synthetic_8b_cut]
    return list(zip(options.layers, options.batches, strict=True))


def main() -> None:
    """Measure, print the table, write."""
    options = parsed()
    if options.child:
        child(options, tables_for(options))
        return
    cuts = options.synthetic_8b_cut
    result: dict[str, Any] = {}
    lines: list[Sequence[object]] = []
    for layers, batch in cases_of(options):
        options.batch = batch
        tables = tables_for(options)
        with tempfile.TemporaryDirectory(prefix="train-speed-") as place:
            folder = Path(place) / "encoder"
            random_encoder(layers, folder, options) if cuts else cut_encoder(options.model, layers, folder)
            found = measured(folder, tables, options)
        case = f"{layers} layers, {batch} x 3 texts"
        result[case] = {"steps_per_round": len(tables), "sides": found}
        lines += rows_of(case, found, tables)
        if options.out:  # After each case: the next one may not fit into the machine.
            settings = {name: str(value) for name, value in vars(options).items()}
            write_result(options.out, {"settings": settings, "cases": result})
    print(markdown_table(HEADER, lines))


if __name__ == "__main__":
    main()
