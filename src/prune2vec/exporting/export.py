"""Load an encoder, let a target write it, and put the folder in place only when all went well."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import ConfigError
from prune2vec.exporting.target import ExportSource, Target, targets
from prune2vec.files import write_json, write_text
from prune2vec.models.heads import head_record
from prune2vec.outputs import EXPORT, check_ours, locked, staged_folder
from prune2vec.paths import check_outside
from prune2vec.pruning.encoder import load_encoder, parts_of
from prune2vec.pruning.parity import Parity
from prune2vec.public import public

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has made; ``parity`` is None where only the structure could be checked, ``notes`` are one line each."""

    folder: Path
    target: str
    parity: Parity | None = None
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """Return the result as lines of text."""
        lines = [f"note: {note}" for note in self.notes]
        if self.parity is not None:
            lines.append(
                f"checked against {self.parity.reference} on {self.parity.texts} texts in {self.parity.dtype}: "
                f"largest difference {self.parity.max_difference:.2g}, smallest cosine {self.parity.min_cosine:.6f}"
            )
        return "\n".join([*lines, str(self.folder)])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "output": str(self.folder),
            "target": self.target,
            "parity": asdict(self.parity) if self.parity is not None else None,
            "notes": list(self.notes),
        }


@public("export", "folder", "output")
def export_encoder(
    folder: str | Path, *, target: str, output: str | Path, precision: str | None = None, force: bool = False
) -> Exported:
    """Write an encoder's folder in the form of another runtime.

    Args:
        folder: A folder written by ``prune`` or ``train``, or another sentence-transformers folder.
        target: Name of the form: ``vllm``, ``onnx``, ``gguf``.
        output: Folder to write; an earlier export there is replaced.
        precision: For ``onnx``: ``fp32``, ``fp16`` or ``int8``; for ``gguf``: ``fp16`` or ``q8_0``; None for the target's usual one.
        force: Keep a lower precision whose vectors are further from those in fp32 than the target allows.

    Raises:
        ConfigError: There is no such target, or it has no such precision.
        MissingExtra: A library that the target needs is not installed.
        CheckpointError: It is no encoder's folder, the target's form cannot express it, or the result differs from it.
    """
    check_outside(output, folder)
    with locked(Path(output)):
        form = prepared(target, Path(output), precision)
        encoder = load_encoder(folder, device="cpu", dtype=form.dtype_for(Path(folder)))
        name = Path(folder).resolve().name
        return write_export(form, encoder, target=target, output=Path(output), name=name, precision=precision, force=force)


def prepared(target: str, output: Path, precision: str | None = None) -> Target:
    """Return the target called ``target`` when nothing stands in its way; dry runs stop here.

    Raises:
        ConfigError: There is no such target, or it has no such precision.
        MissingExtra: A library that it needs is not installed.
        CheckpointError: ``output`` holds something else than an export of ours.
    """
    form = targets.get(target)()
    if precision is not None and precision not in form.precisions:
        has = (
            f"expected one of {', '.join(form.precisions)}" if form.precisions else "it writes the encoder's own; leave it out"
        )
        raise ConfigError(f"the export target {target} has no precision {precision!r}; {has}")
    check_ours(output, EXPORT)
    form.prepare()
    return form


def write_export(
    form: Target,
    encoder: SentenceTransformer,
    *,
    target: str,
    output: Path,
    name: str,
    precision: str | None = None,
    force: bool = False,
) -> Exported:
    """Write an encoder in memory (on the CPU) in the dtype that it is loaded in; the README calls it ``name``.

    Raises:
        CheckpointError: The target's form cannot express the encoder, or the result differs from it.
    """
    encoder.eval()
    parts = parts_of(encoder, {})
    with staged_folder(output, EXPORT) as stage:
        precision = precision or next(iter(form.precisions), "")
        source = ExportSource(name=name, encoder=encoder, parts=parts, precision=precision, force=force)
        written = form.write(source, stage)
        made = Exported(folder=output, target=target, parity=written.parity, notes=written.notes)
        record = {
            "format": "prune2vec.export/1",
            "target": target,
            "encoder": name,
            "dim": encoder.get_embedding_dimension(),
            "max_length": parts.max_length,
            "pooling": parts.pooling,
            "heads": [head_record(head).model_dump(mode="json") for head in parts.heads],
            "normalize": parts.normalize,
            "similarity": parts.similarity,
            **written.usage,
            **{key: value for key, value in made.to_json().items() if key in ("parity", "notes")},
        }
        write_json(stage / "export.json", record)
        write_text(stage / "README.md", written.readme)
    return made
