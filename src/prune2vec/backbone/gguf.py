"""GGUF files as a source: dequantised, repaired and checked once, then kept as a safetensors folder in a cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.errors import MissingExtra, ModelError, reason_of
from prune2vec.files import digest_file, write_json
from prune2vec.outputs import CONVERSION, staged_folder
from prune2vec.progress import progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Raise it when the conversion changes, so that old copies are not used any more.
_VERSION = "1"
_RECORD = "conversion.json"
# Text that a byte-level tokeniser must give back unchanged; blanks before digits are where SmolLM2's conversion fails.
_ROUND_TRIPS = ("Hello, world!", "a  b   c", "in  2024,   365 days", "naïve café — 東京\n\tdef f(x):\n        return 42")


def cache_folder() -> Path:
    """Return where converted models are kept: ``$PRUNE2VEC_CACHE``, else ``prune2vec`` in the user's cache folder."""
    chosen = os.environ.get("PRUNE2VEC_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune2vec"


def converted(path: Path) -> Path:
    """Return the folder of the safetensors copy of a GGUF file, made on first use and found by the file's digest.

    Raises:
        MissingExtra: The ``gguf`` package is not installed.
        ModelError: The file is not a GGUF model that transformers can read, or its tokeniser fails a round trip.
    """
    digest = digest_file(path)
    folder = cache_folder() / f"{path.stem}-{digest[:16]}-v{_VERSION}"
    if not (folder / _RECORD).is_file():
        _convert(path, folder, digest)
    return folder


def _convert(path: Path, folder: Path, digest: str) -> None:
    from prune2vec.backbone.quiet import quiet_transformers

    metadata = _metadata(path)
    with (
        staged_folder(folder, CONVERSION) as stage,
        progress(f"converting {path.name}", total=3) as advance,
        quiet_transformers(),
    ):
        tokenizer, repairs = _tokenizer(path, metadata)
        tokenizer.save_pretrained(stage)
        advance(1)
        model = _model(path)
        advance(1)
        _keep_finer_embeddings(model, path)
        model.save_pretrained(stage)
        record = {
            "source": path.name,
            "sha256": digest,
            "tokenizer_repairs": repairs,
            "pre_tokenizer": metadata.get("tokenizer.ggml.pre"),
        }
        write_json(stage / _RECORD, record)
        advance(1)


def _metadata(path: Path) -> dict[str, Any]:
    """Return the scalar and text entries of the file's header (the long token lists are left unread)."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtra("reading GGUF files needs the gguf package: pip install 'prune2vec[gguf]'") from error
    try:
        fields = GGUFReader(str(path)).fields
    except (ValueError, OSError, IndexError) as error:
        raise ModelError(f"{path} is not a readable GGUF file ({error})") from error
    return {name: field.contents() for name, field in fields.items() if len(field.data) == 1}


def _model(path: Path) -> PreTrainedModel:
    """Return the dequantised base model in fp32, with a config that no longer calls itself quantised."""
    import torch
    from transformers import AutoModel

    try:
        quantised = AutoModel.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot read {path.name}: {reason_of(error)}") from error
    config = type(quantised.config).from_dict(
        {
            key: value
            for key, value in quantised.config.to_dict().items()
            if key not in ("quantization_config", "_model_name_or_path")
        }
    )
    model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), strict=True)
    return model


def _keep_finer_embeddings(model: PreTrainedModel, path: Path) -> None:
    """Use the output matrix as embeddings where it is the same matrix at a higher precision.

    Converters store tied embeddings twice when they quantise the two differently. They count as tied when 64 rows
    of both point the same way (cosine over 0.99).
    """
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(str(path)).tensors}
    output, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
    if output is None or embedding is None or output.n_bytes <= embedding.n_bytes:
        return
    rows = slice(0, 64)
    a, b = (torch.from_numpy(dequantize(tensor.data[rows], tensor.tensor_type).copy()) for tensor in (output, embedding))
    if torch.nn.functional.cosine_similarity(a, b, dim=1).min() > 0.99:
        finer = torch.from_numpy(dequantize(output.data, output.tensor_type).copy())
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(finer)  # type: ignore[operator]


def _tokenizer(path: Path, metadata: dict[str, Any]) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Return the file's tokeniser, repaired and checked, and what was repaired."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    loaded = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    backend, repairs = loaded.backend_tokenizer, []
    if metadata.get("tokenizer.ggml.pre") in ("smollm", "starcoder", "refact", "command-r"):
        _split_digits(backend)
        repairs.append("single-digit split restored")
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=loaded.bos_token,
        eos_token=loaded.eos_token,
        unk_token=loaded.unk_token,
        pad_token=loaded.pad_token or loaded.eos_token,
        chat_template=loaded.chat_template,
        model_max_length=int(context) if context else 2048,
        padding_side="right",
    )
    repairs.append("model_max_length and padding side set")
    _check_tokenizer(tokenizer, metadata, path)
    return tokenizer, repairs


def _split_digits(backend: Tokenizer) -> None:
    """Split every digit off before the byte-level step, as these models were trained; GGUF keeps only the recipe's name."""
    from tokenizers import pre_tokenizers

    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )


def _check_tokenizer(tokenizer: PreTrainedTokenizerFast, metadata: dict[str, Any], path: Path) -> None:
    for text in _ROUND_TRIPS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if back.strip() != text.strip():
            raise ModelError(f"{path.name}: its tokeniser turns {text!r} into {back!r}; use the original model folder instead")
    for role in ("bos", "eos"):
        declared = metadata.get(f"tokenizer.ggml.{role}_token_id")
        found = getattr(tokenizer, f"{role}_token_id")
        if declared is not None and found != declared:
            raise ModelError(f"{path.name}: {role} token is {found} after conversion, {declared} in the file")
    _check_bos(tokenizer, metadata, path)


def _check_bos(tokenizer: PreTrainedTokenizerFast, metadata: dict[str, Any], path: Path) -> None:
    declared = metadata.get("tokenizer.ggml.add_bos_token")
    added = tokenizer("text")["input_ids"][:1] == [tokenizer.bos_token_id]
    if declared is not None and bool(declared) != added:
        raise ModelError(f"{path.name}: the file says add_bos_token={bool(declared)}, the converted tokeniser does {added}")
