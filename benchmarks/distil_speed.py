"""Steps a second of learning a teacher's vectors from plain texts: ``train`` against a plain sentence-transformers script.

The plain side is the script as a user writes it: SentenceTransformerTrainer, EmbedDistillLoss, the teacher's vectors in the
column ``label``, all weights trained. Ours has the same trainer, arguments, texts, vectors, seeds and dtype. The vectors are
there beforehand on both sides (random ones: the time does not depend on what they are). A round is some steps, tokenising and
optimiser included; sides take turns (A B A B). Tokens count without padding.

python benchmarks/distil_speed.py --texts TEXTS --out benchmarks/results/distil-speed.json
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before torch is imported: spinning threads would slow down both sides.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from common import abab, markdown_table, synchronised, write_result
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from train_speed import Losses, cut_encoder
from transformers import PrinterCallback

from prune2vec.data.plain_texts import load_texts
from prune2vec.machine import pick_device
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.packed_loss import PackedLoss, token_pass
from prune2vec.training.train_settings import TrainSettings

PLAIN, OURS = "sentence-transformers", "prune2vec"


class Side:
    """One of the two ways, on an encoder of its own."""

    def __init__(
        self, name: str, folder: Path, texts: Sequence[str], vectors: NDArray[np.float32], options: argparse.Namespace
    ) -> None:
        self.losses = Losses()
        self._name = name
        self._encoder = load_encoder(folder, device=options.device, dtype="float32")
        self._encoder.max_seq_length = options.max_length
        labels: list[Any] = vectors.tolist() if name == PLAIN else [[number] for number in range(len(texts))]
        rows = Dataset.from_dict({"text": list(texts), "label": labels})
        loss = (
            EmbedDistillLoss(self._encoder) if name == PLAIN else build_loss(self._encoder, TrainSettings(teacher="t"), vectors)
        )
        arguments = SentenceTransformerTrainingArguments(
            output_dir=tempfile.mkdtemp(prefix="distil-speed-"),
            max_steps=len(texts) // options.batch,
            per_device_train_batch_size=options.batch,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            seed=options.seed,
            use_cpu=self._encoder.device.type == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        self._encoder.model_card_data.local_files_only = True
        self._encoder.model_card_data.widget = [{"text": ""}]
        self._trainer: Any = SentenceTransformerTrainer(model=self._encoder, args=arguments, train_dataset=rows, loss=loss)
        self._trainer.remove_callback(PrinterCallback)
        self._trainer.add_callback(self.losses)
        self._loss: Any = self._trainer.loss

    @contextmanager
    def _ready(self) -> Iterator[None]:
        if self._name == PLAIN:
            yield
            return
        with pooled_in_fp32(self._encoder), token_pass(self._encoder, packs=True) as one:
            self._trainer.loss = PackedLoss(self._loss, self._encoder, one)
            yield
            self._trainer.loss = self._loss

    def round(self) -> None:
        """Train for one epoch."""
        with self._ready():
            self._trainer.train()


def chosen_texts(source: Path, count: int, seed: int) -> list[str]:
    """Return so many distinct texts of a source, drawn."""
    texts = sorted({one.text for one in load_texts(source)})
    return random.Random(seed).sample(texts, count)


def real_tokens(encoder: SentenceTransformer, texts: Sequence[str], limit: int) -> int:
    """Return the tokens of texts without padding."""
    return sum(map(len, encoder.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return what each side took, and the losses of its steps."""
    texts = chosen_texts(options.texts, options.batch * options.steps, options.seed)
    with tempfile.TemporaryDirectory(prefix="distil-speed-") as place:
        folder = cut_encoder(options.model, options.layers, Path(place) / "encoder")
        plain = load_encoder(folder, device="cpu", dtype="float32")
        vectors = np.random.default_rng(options.seed).normal(size=(len(texts), plain.get_embedding_dimension() or 0))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tokens = real_tokens(plain, texts, options.max_length)
        sides = {name: Side(name, folder, texts, vectors.astype(np.float32), options) for name in (PLAIN, OURS)}
        found = abab({name: synchronised(side.round) for name, side in sides.items()}, options.rounds, warmup=1)
    return {
        name: {
            **found[name],
            "steps_per_s": options.steps / found[name]["median"],
            "tokens_per_s": tokens / found[name]["median"],
            "losses": side.losses.values,
        }
        for name, side in sides.items()
    }


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="plain texts, or triplets, of which each side is one")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.device = str(pick_device(options.device))
    return options


def main() -> None:
    """Measure, print the table, write."""
    options = parsed()
    found = measured(options)
    lines = [
        (name, f"{side['steps_per_s']:.3f}", f"{side['tokens_per_s']:.0f}", f"{side['ratio']:.2f}", f"{side['losses'][0]:.5f}")
        for name, side in found.items()
    ]
    print(markdown_table(("side", "steps/s", "tokens/s", "ratio", "first loss"), lines))
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items()}
        write_result(options.out, {"settings": settings, "sides": found})


if __name__ == "__main__":
    main()
