"""A written GGUF file against the encoder that it was made of: read back number by number, and run by llama.cpp where it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, shown
from prune2vec.exporting.gguf_model import BLOCK, FAMILIES, rope_parts, rows_of, stored_type, tensors_of
from prune2vec.exporting.gguf_vocabulary import spelled
from prune2vec.exporting.onnx_precision import sample_texts
from prune2vec.exporting.other_vectors import LEAST_COSINES, has_llama_cpp, llama_cpp_vectors, longest_of, texts_and_vectors
from prune2vec.exporting.target import ExportSource
from prune2vec.models.gguf import StoredModel, Values
from prune2vec.models.gguf_config import ARCHITECTURES
from prune2vec.models.gguf_file import GGUFFile
from prune2vec.models.tokens import token_ids
from prune2vec.pruning.parity import Parity, cosines
from prune2vec.pruning.portable import EncoderParts

# Half a step of 8 bits and the rounding of a block's scale to fp16, of the largest number in the block.
_Q8_STEP = 0.0045
# One is added to Gemma's norms and taken off again in fp32.
_SHIFT = 1e-6


def check_file(path: Path, parts: EncoderParts, header: Mapping[str, Any], *, precision: str) -> None:
    """Read a file back and compare what it holds with the encoder.

    Raises:
        CheckpointError: Something in it differs by more than its rounding.
        ModelError: It cannot be read.
    """
    file = GGUFFile.open(path)
    for key, value in header.items():
        if key not in file.metadata or not _same(file.metadata[key], value):
            raise _differs(key, shown(file.metadata.get(key), 60), shown(value, 60))
    arch = FAMILIES[parts.model.config.model_type].arch
    if arch not in ARCHITECTURES:
        # Models of this architecture are written and not read, so names and values are those of the file.
        rows = len(header["tokenizer.ggml.tokens"])
        found, vocab = dict(spelled(header)), {token: row for token, row in parts.tokenizer.get_vocab().items() if row < rows}
        if found != vocab:
            raise _differs("its vocabulary", f"{len(found)} tokens", f"the tokeniser's {len(vocab)}")
        for name, values in tensors_of(parts.model):
            _compare(name, file.values(file.tensors[name]), values, file.tensors[name].kind)
        return
    # Both were compared; the reader takes causal models alone, and says that it carries no pooling over.
    for key in ("attention.causal", "pooling_type"):
        del file.metadata[f"{arch}.{key}"]
    model = StoredModel.of(file)
    _check_config(model.config, parts)
    _check_tokens(model.tokenizer, parts)
    state = parts.model.state_dict()
    for name, values in model.tensors():
        _compare(name, values, state[name].float().numpy(), stored_type(name, values, precision).name)


def _same(found: Any, value: Any) -> bool:
    """Return whether a value of the file is the one that was written; numbers are in fp32 there."""
    if isinstance(value, float):
        return bool(np.float32(value) == np.float32(found))
    if isinstance(value, list) and value and isinstance(value[0], float):
        return np.array_equal(np.asarray(found, np.float32), np.asarray(value, np.float32))
    return bool(found == value)


def _differs(what: str, found: str, expected: str) -> CheckpointError:
    return CheckpointError(f"{what} in the written GGUF file: {found}, expected {expected}; nothing was kept, please report it")


def _check_config(config: Any, parts: EncoderParts) -> None:
    """Compare what the reader makes of the metadata with the encoder's config, window and type of model aside."""
    ours = parts.model.config
    names = [*FAMILIES[ours.model_type].keys.values(), "vocab_size", "query_pre_attn_scalar", "attention_bias", "mlp_bias"]
    for name in names:
        found, value = (getattr(one, name, None) for one in (config, ours))
        if value is not None and found is not None and not np.isclose(found, value, rtol=1e-6, atol=0):
            raise _differs(name, str(found), str(value))
    for found, value in zip(rope_parts(config), rope_parts(ours), strict=True):
        # The reader finds Llama 3's factor by the table of frequencies, which it compares itself.
        keys = ("rope_theta", *(["factor"] if value.get("rope_type") == "linear" else []))
        if any(not np.isclose(found[key], value[key], rtol=1e-6, atol=0) for key in keys):
            raise _differs("rope_parameters", str(found), str(value))


def _check_tokens(tokenizer: PreTrainedTokenizerBase, parts: EncoderParts) -> None:
    """Compare the tokeniser that the reader makes with the encoder's: every token, and what texts become.

    Texts that hold an added token are left out: the reader cuts some of them into pieces, which llama.cpp does not.
    """
    added: dict[int, Any] = parts.tokenizer.added_tokens_decoder
    rows = rows_of(parts.model)
    vocab = tokenizer.get_vocab()
    for token, row in parts.tokenizer.get_vocab().items():
        if row < rows and row not in added and vocab.get(token) != row:
            raise _differs(f"token {shown(token)!r}", f"row {vocab.get(token)}", f"row {row}")
    words = [str(token) for token in added.values()]
    texts = [prompt + text for prompt, text in sample_texts(parts) if not any(word in prompt + text for word in words)]
    for text, theirs, ours in zip(texts, token_ids(tokenizer, texts), token_ids(parts.tokenizer, texts), strict=True):
        if theirs != ours:
            raise _differs(f"the tokens of {shown(text, 40)!r}", shown(theirs, 60), shown(ours, 60))


def _compare(name: str, found: Values, values: Values, kind: str) -> None:
    """Compare a tensor of the file with the model's, to what its dtype rounds off."""
    if kind == "F16":
        same = np.array_equal(found, values.astype(np.float16).astype(np.float32))
    elif kind == "Q8_0":
        read, written = (array.reshape(-1, BLOCK) for array in (found, values))
        same = bool((np.abs(read - written) <= _Q8_STEP * np.abs(written).max(axis=1, keepdims=True) + 1e-7).all())
    else:
        same = np.allclose(found, values, rtol=0, atol=_SHIFT)
    if not same:
        raise _differs(f"tensor {name}", f"values up to {np.abs(found - values).max():.2g} away", f"the encoder's in {kind}")


def compare_with_llama_cpp(path: Path, source: ExportSource, *, precision: str) -> Parity | None:
    """Compare the vectors that llama.cpp makes of the probe texts with the encoder's; None where its binding is not installed.

    Raises:
        CheckpointError: llama.cpp does not take the file, or the vectors are too far from the encoder's.
    """
    if not has_llama_cpp():
        return None
    texts, reference = texts_and_vectors(source.encoder, source.parts)
    vectors = llama_cpp_vectors(path, texts, tokens=longest_of(source.parts, texts))
    cosine = cosines(reference, vectors)
    least = LEAST_COSINES[precision]
    if not np.isfinite(vectors).all():
        raise CheckpointError(f"NaN or infinity in llama.cpp's vectors in {precision}; nothing was kept: export it to onnx")
    if cosine.min() < least and not source.force:
        raise CheckpointError(
            f"llama.cpp's vectors in {precision} have a cosine of {cosine.min():.4f} to the encoder's, at least {least} is expected; "
            "nothing was kept: export it to onnx, or call prune2vec.export with force=True and evaluate what it wrote"
        )
    lengths = np.linalg.norm(reference, axis=1, keepdims=True)
    return Parity(
        reference="llama.cpp",
        texts=len(vectors),
        dtype=precision,
        max_difference=float(np.abs(reference / lengths - vectors).max()),
        min_cosine=float(cosine.min()),
    )
