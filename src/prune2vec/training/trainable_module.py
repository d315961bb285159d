"""Training something that is put into a frozen encoder, in place of adapters or its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from torch import nn


class TrainableModule(Protocol):
    """What is trained, and alone is kept in checkpoints."""

    def install(self, encoder: SentenceTransformer) -> None:
        """Freeze the encoder and put the part in; called once, with torch's generator seeded."""

    def loss(self, loss: nn.Module) -> nn.Module:
        """Return the loss to minimise, given that of the encoder."""

    def save(self, folder: Path) -> None:
        """Write the part into an existing folder."""

    def restore(self, folder: Path) -> None:
        """Read back what ``save`` wrote, into the installed part."""


class ModuleTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer with checkpoints that hold one part instead of the whole encoder."""

    part: TrainableModule

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.part.save(folder)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        self.part.restore(Path(checkpoint_path))
