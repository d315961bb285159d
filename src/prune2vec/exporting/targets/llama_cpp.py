"""GGUF: one file for llama.cpp and everything built on it, from which a client without flags makes the encoder's vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import import_extra, markdown, shown
from prune2vec.exporting.target import ExportSource, Written, targets

if TYPE_CHECKING:
    from prune2vec.pruning.parity import Parity

MODEL = "model.gguf"
_NOT_RUN = (
    "only tokens, hyperparameters and tensors were checked, read back from the file: for llama.cpp's vectors install its binding "
    "(pip install xllamacpp) and export again, or compare with `prune2vec doctor ENCODER --against`"
)
_POOLED_PROMPTS = (
    "llama.cpp pools the tokens of a prompt too, which this encoder leaves out: texts behind a prompt get other vectors there. "
    "Train it with lasttoken pooling, for which it makes no difference, or export it to onnx"
)
_LENGTHS = (
    "llama.cpp's clients give vectors of length 1 or not, as they like; the encoder does not normalise: compare by cosine"
)
_COMPOSED = (
    "llama.cpp does not compose characters (NFC) as the tokeniser does: compose texts first if accents stand alone in them"
)

_BLANK_BEHIND = (
    "llama.cpp puts a blank behind the added tokens {}, the encoder none: texts that hold one get other vectors there"
)


@targets.register("gguf")
class GGUFTarget:
    """A GGUF file in fp16 or q8_0, for Llama-like, Qwen, Gemma and BERT encoders; mean, cls and lasttoken pooling."""

    precisions: tuple[str, ...] = ("fp16", "q8_0")

    def prepare(self) -> None:
        """Look whether the package that writes such files is there.

        Raises:
            MissingExtra: It is not installed.
        """
        import_extra("gguf")

    def dtype_for(self, folder: Path) -> str:
        """Return fp32: it holds all numbers of the others."""
        return "float32"

    def write(self, source: ExportSource, folder: Path) -> Written:
        """Write the file, read it back, and let llama.cpp run it where its binding is installed.

        Raises:
            CheckpointError: The file cannot tell the encoder or llama.cpp not compute it, a number is beyond fp16, what was
                written is not what the encoder holds, or llama.cpp's vectors are too far from the encoder's.
            UnsupportedModel: Nobody can tell which way the model looks.
        """
        from prune2vec.exporting.gguf_check import check_file, compare_with_llama_cpp
        from prune2vec.exporting.gguf_model import header_of, write_file
        from prune2vec.exporting.gguf_vocabulary import blank_behind, composes
        from prune2vec.pruning.portable import write_tokenizer

        parts, precision = source.parts, source.precision or self.precisions[0]
        header = header_of(parts)
        write_file(folder / MODEL, parts, header, name=source.name, precision=precision)
        check_file(folder / MODEL, parts, header, precision=precision)
        parity = compare_with_llama_cpp(folder / MODEL, source, precision=precision)
        # Who sends texts may have to cut them first.
        write_tokenizer(parts.tokenizer, folder, max_length=parts.max_length)
        notes = [_NOT_RUN] if parity is None else []
        notes += [_POOLED_PROMPTS] if parts.leaves_out_prompts else []
        notes += [] if parts.normalize else [_LENGTHS]
        notes += [_COMPOSED] if composes(parts.tokenizer) else []
        notes += [_BLANK_BEHIND.format(shown(", ".join(added), 60))] if (added := blank_behind(header)) else []
        usage = {"model": MODEL, "tokenizer": "tokenizer.json", "precision": precision, "prompts": dict(parts.prompts)}
        size = (folder / MODEL).stat().st_size
        readme = _readme(source, header, parity, precision=precision, size=size, notes=notes)
        return Written(readme=readme, usage=usage, parity=parity, notes=tuple(notes))


def _readme(
    source: ExportSource, header: dict[str, Any], parity: Parity | None, *, precision: str, size: int, notes: list[str]
) -> str:
    parts = source.parts
    lines = "\n".join(f"- {markdown(f'{name}: {prompt!r}')}" for name, prompt in parts.prompts.items() if prompt) or "- none"
    causal = next(value for key, value in header.items() if key.endswith(".attention.causal"))
    checked = (
        "Tokens, hyperparameters and tensors were read back from the file and compared with the encoder's."
        if parity is None
        else f"Run by {parity.reference} on {parity.texts} texts and compared with the encoder in fp32: smallest cosine "
        f"{parity.min_cosine:.6f}, largest difference {parity.max_difference:.2g}."
    )
    return f"""# {markdown(source.name)} in GGUF

A text encoder for llama.cpp, {size / 1e6:.1f} MB in {precision}. The file says its pooling ({parts.pooling}), the direction of its
attention ({"causal" if causal else "both ways"}) and its special tokens, so no flag has to.

```sh
llama-server -m {MODEL} --embedding --batch-size {parts.max_length} --ubatch-size {parts.max_length}
curl localhost:8080/v1/embeddings -H 'Content-Type: application/json' -d '{{"input": ["some text"]}}'
```

Longest text: {parts.max_length} tokens. Of longer ones the encoder keeps the beginning. llama.cpp does not cut them: it refuses those
above `--ubatch-size`, so cut them at that many tokens first (`tokenizer.json` is here for that).

llama.cpp adds no prompt. Put it before the text yourself:

{lines}

## Check

{checked}
{"".join(f"{chr(10)}- {markdown(note)}" for note in notes)}
"""
