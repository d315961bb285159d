"""The list of export targets, and what each is given and gives back.

To add a target: a class like ``Target`` in a file of ``prune2vec.exporting.targets``, registered under its name. The
heavy libraries are imported in its methods, so that the names can be listed without them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prune2vec.errors import CheckpointError
from prune2vec.registry import Registry

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from prune2vec.pruning.parity import Parity
    from prune2vec.pruning.portable import EncoderParts


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """What a target is given.

    Attributes:
        name: What the README calls the encoder.
        encoder: On the CPU and in eval mode.
        parts: The same taken apart.
        precision: One of the target's; empty where it has none.
        force: Keep what the precision makes of the encoder, however far from it.
    """

    name: str
    encoder: SentenceTransformer
    parts: EncoderParts
    precision: str = ""
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a target has written.

    Attributes:
        readme: README.md of the folder.
        usage: What ``export.json`` says of how to use the folder.
        parity: How well it agrees with the encoder; None where only the structure could be checked.
        notes: What the user must know, one line each.
    """

    readme: str
    usage: Mapping[str, Any] = field(default_factory=dict)
    parity: Parity | None = None
    notes: tuple[str, ...] = ()


class Target(Protocol):
    """One form to export to.

    Attributes:
        precisions: Number formats that it can write, the usual one first; none where it writes an encoder's own.
    """

    precisions: tuple[str, ...]

    def prepare(self) -> None:
        """Fail early.

        Raises:
            MissingExtra: A library that the target needs is not installed.
        """

    def dtype_for(self, folder: Path) -> str:
        """Return the dtype in which the encoder of ``folder`` is to be loaded: ``float32``, ``bfloat16``, ..."""

    def write(self, source: ExportSource, folder: Path) -> Written:
        """Write the encoder into the existing, empty ``folder``, and check it.

        Raises:
            CheckpointError: The form cannot express the encoder, or what was written differs from it.
        """


def check_pooled(parts: EncoderParts, runtime: str, poolings: Collection[str]) -> None:
    """Refuse an encoder that pools in a way that ``runtime`` does not know, or has anything behind its pooling.

    Raises:
        CheckpointError: It is such a one.
    """
    from prune2vec.models.heads import head_words

    if parts.pooling not in poolings:
        raise CheckpointError(
            f"{runtime} cannot pool by {parts.pooling}; it has {', '.join(poolings)}: prune or train the encoder with one of these, "
            "or export it to onnx"
        )
    if parts.heads or parts.truncate_dim is not None:
        what = head_words(parts.heads) if parts.heads else f"a cut to {parts.truncate_dim} dimensions (truncate_dim)"
        raise CheckpointError(
            f"this encoder has {what} behind its pooling, for which {runtime} has no place: export it to onnx"
        )


targets: Registry[type[Target]] = Registry("export target", package="prune2vec.exporting.targets")


def short_window(config: Any, max_length: int) -> int | None:
    """Return how many tokens back a model's attention sees, where that is fewer than ``max_length``; None where it is not."""
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    return window if window is not None and (kinds is None or "sliding_attention" in kinds) and window < max_length else None
