"""Load an encoder, and save one: written, reloaded, compared, and only then renamed into place."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, ConfigError, DataError, explained
from prune2vec.files import read_json, write_json, write_text
from prune2vec.forward.pooling import IN_FOLDERS
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.encoder_files import RECORD as RECORD
from prune2vec.models.families import without_head
from prune2vec.models.heads import HEADS, NORMALIZE, head_record, load_heads, state_width
from prune2vec.models.tokens import lower_casing
from prune2vec.outputs import ENCODER, staged_folder
from prune2vec.paths import check_is_encoder
from prune2vec.progress import quiet_transformers
from prune2vec.pruning.encoder_check import check_can_be_written, check_files, check_fits_together, source_of
from prune2vec.pruning.model_card import model_card
from prune2vec.pruning.parity import PROBE_TEXTS, Parity, compare_vectors, computing_in_float32, probe_prompts
from prune2vec.pruning.portable import UNEVEN_MODULE, EncoderParts, write_beside_weights, write_tokenizer
from prune2vec.public import public
from prune2vec.settings import Record

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PROBE = "probe.json"
_SHORT = PROBE_TEXTS[:2]
_HARMLESS = re.compile(rf"sentence_transformers\..*\b(Pooling|{'|'.join(HEADS)})")


@public("load", "folder")
def load_encoder(folder: str | Path, *, device: str = "auto", dtype: str = "auto") -> SentenceTransformer:
    """Load an encoder's folder as a ``SentenceTransformer``, ready to ``encode``.

    Code that comes with a folder is never run: ``trust_remote_code`` is passed for our own module alone.

    Args:
        folder: A folder written by ``prune`` or ``train``, or any other sentence-transformers folder or hub id.
        device: ``auto`` or a torch device.
        dtype: ``auto`` (bf16 where the hardware is fast at it, else fp32), ``float32``, ``bfloat16``, ``float16``.

    Raises:
        CheckpointError: It is not an encoder's folder, cannot be fetched, does not load, or its files do not fit each other: a
            tensor is missing, left over or of another shape, or a file has a value of the wrong type or size.
        ConfigError: There is no such device, or dtype.
        DataError: A file of it is no JSON.
        ModelError: Two tokens of its tokeniser have one number.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    place = pick_device(device)
    check_is_encoder(folder)
    with quiet_transformers():
        kinds = [str(module["type"]) for module in check_files(str(folder))]
    # Modules are our uneven one and stock ones after it that load no model of their own.
    ours = kinds[:1] == [UNEVEN_MODULE] and all(_HARMLESS.fullmatch(kind) for kind in kinds[1:])
    # Our module's class alone is trusted, whatever else the folder makes sentence-transformers build.
    distrust = {"trust_remote_code": False}
    with explained(CheckpointError, cannot_load(folder)), quiet_transformers():
        encoder = SentenceTransformer(
            str(folder),
            device=str(place),
            trust_remote_code=ours,
            model_kwargs={"dtype": pick_dtype(dtype, place), **distrust},
            processor_kwargs=dict(distrust),
            config_kwargs=dict(distrust),
        )
    check_fits_together(encoder, str(folder))
    modules: list[Any] = list(encoder)
    if len(modules) > 1 and isinstance(modules[1], Pooling):
        # No text passes BERT's pooler; where the folder holds none, it is of random numbers.
        without_head(modules[0].auto_model)
    # The library leaves the outermost module in the mode for training, which would switch the inner ones to it when set again.
    return encoder.eval()


def cannot_load(folder: str | Path) -> str:
    """Return the beginning of the error of an encoder that a library refuses, with what its own words leave out."""
    place = Path(folder)
    lacks = place.is_dir() and not any((*place.glob("tokenizer.json"), *place.glob("*/tokenizer.json")))
    return f"cannot load the encoder {folder}{', which has no tokenizer.json' if lacks else ''}"


def read_record(folder: str | Path) -> dict[str, Any]:
    """Return what ``prune2vec.json`` says of an encoder, without its format mark; empty for folders made elsewhere."""
    path = Path(folder) / RECORD
    if not path.is_file():
        return {}
    return {key: value for key, value in read_json(path).items() if key != "format"}


def save_encoder(
    encoder: SentenceTransformer,
    folder: Path,
    *,
    record: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] | None = None,
    heads: Sequence[nn.Module] | None = None,
) -> Parity:
    """Write an encoder portably, reload it, compare the vectors, and only then put it in place.

    An older encoder that prune2vec wrote there is replaced at the last moment.

    Args:
        encoder: Transformer, Pooling, any heads and, as a rule, Normalize.
        folder: Where to write.
        record: What ``prune2vec.json`` is to say of where the encoder comes from.
        extra: Further text files by name.
        heads: The encoder's heads in the dtypes in which they are to be stored; None takes them as they are.

    Returns:
        How well the reloaded encoder agrees with the one in memory (also written to ``parity.json``).

    Raises:
        CheckpointError: It cannot be written, or the reloaded encoder differs; nothing is left behind.
    """
    parts = parts_of(encoder, record or {})
    parts = parts if heads is None else replace(parts, heads=tuple(heads))
    dtype = str(next(encoder.parameters()).dtype).removeprefix("torch.")
    return write_checked(parts, folder, encode_probe(encoder), named="the encoder in memory", dtype=dtype, extra=extra)


def write_checked(
    parts: EncoderParts,
    folder: Path,
    reference: NDArray[np.float32],
    *,
    named: str,
    dtype: str = "float32",
    extra: Mapping[str, str] | None = None,
    release: bool = False,
) -> Parity:
    """Write ``parts`` into ``folder``, reloaded and compared with ``reference`` before it is renamed into place.

    It is a stock folder, unless the model's blocks are not all alike: then its first module is ours, and its config one that stock
    classes refuse.

    An fp32 comparison of an encoder that is stored in half precision holds one block in fp32 at a time, not the whole.

    Args:
        parts: What to write.
        folder: Where.
        reference: (text, dim) vectors of ``encode_probe`` that the reloaded encoder must give.
        named: What the reference is, for messages and ``parity.json``.
        dtype: The reference's, and that of the comparison.
        extra: Further text files by name.
        release: Let go of the model's weights once they are written, so that they are in memory once; its structure stays.

    Raises:
        ConfigError: There is no such pooling.
        CheckpointError: It cannot be written, or differs.
    """
    if parts.pooling not in IN_FOLDERS:
        raise ConfigError(f"sentence-transformers has no pooling {parts.pooling!r}; known: {', '.join(IN_FOLDERS)}")
    device, stored = str(parts.model.device), str(parts.model.dtype).removeprefix("torch.")
    with staged_folder(folder, ENCODER) as stage:
        with quiet_transformers():
            parts.model.save_pretrained(stage)
        write_beside_weights(parts, stage, layout=parts.layout)
        write_json(stage / RECORD, {"format": "prune2vec.encoder/1", **parts.record})
        for name, text in (extra or {}).items():
            write_text(stage / name, text)
        if release:
            parts.model.to("meta")  # type: ignore[arg-type]
        halves = dtype == "float32" and stored in ("bfloat16", "float16")
        reloaded = load_encoder(stage, device=device, dtype=stored if halves else dtype)
        first: Any = reloaded[0]
        if halves and parts.heads:
            # sentence-transformers rounded them to the model's dtype.
            for place, head in enumerate(load_heads(source_of(str(stage)), width=state_width(parts.model.config)), start=2):
                reloaded[place] = head.float().to(device)
        with computing_in_float32(first.auto_model) if halves else nullcontext():
            vectors = encode_probe(reloaded)
        parity = compare_vectors(reference, vectors, named=named, dtype=dtype)
        write_json(stage / "parity.json", asdict(parity))
        ProbeRecord(
            texts=PROBE_TEXTS,
            tokens=probe_tokens(reloaded, PROBE_TEXTS),
            settings=told_settings(parts_of(reloaded, {})),
            dtype=dtype,
            shape=vectors.shape,
            float32_base64=base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii"),
        ).save(stage / PROBE)
        write_text(stage / "README.md", model_card(parts, parity, name=folder.name))
    return parity


def encode_probe(
    encoder: SentenceTransformer, texts: Sequence[str] = PROBE_TEXTS, *, prompts: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """Return the vectors of the probe texts, plain and under every prompt of the encoder, as (text, dim) float32.

    ``prompts`` are others to put before the texts than the encoder's own.
    """
    was_training = encoder.training
    encoder.eval()
    own = probe_prompts({name: prompt or "" for name, prompt in encoder.prompts.items()})
    vectors = [
        encoder.encode(list(texts), prompt=prompt, convert_to_tensor=True, show_progress_bar=False, batch_size=4)
        for prompt in (own if prompts is None else prompts)
    ]
    encoder.train(was_training)
    return torch.cat([tensor.float().cpu() for tensor in vectors]).numpy()


def probe_tokens(encoder: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> tuple[tuple[int, ...], ...]:
    """Return the token numbers that sentence-transformers gives an encoder's model for texts behind a prompt, padding aside."""
    found = encoder.preprocess(list(texts), prompt=prompt or None)
    rows = zip(found["input_ids"], found["attention_mask"], strict=True)
    return tuple(tuple(ids[mask.bool()].tolist()) for ids, mask in rows)


def check_finite(encoder: SentenceTransformer, name: str | Path) -> None:
    """Refuse, with a ``CheckpointError``, an encoder whose vectors of short texts are not finite, before long work begins."""
    found = encoder.encode(list(_SHORT), convert_to_tensor=True, show_progress_bar=False)
    bad = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise CheckpointError(
            f"the vectors of {name} are not finite, first that of {_SHORT[bad[0]]!r}; its weights hold NaN, or need --dtype float32"
        )


def check_writable(encoder: SentenceTransformer) -> None:
    """Refuse, with a ``CheckpointError``, an encoder that ``save_encoder`` could not write as it is, before it is trained."""
    parts = parts_of(encoder, {})
    with TemporaryDirectory() as folder:
        write_tokenizer(parts.tokenizer, Path(folder), max_length=parts.max_length)
        written: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    written = lower_casing(written) if parts.lower_case else written
    for prompt in probe_prompts(parts.prompts):
        rows = written([prompt + text for text in PROBE_TEXTS], truncation=True, max_length=parts.max_length)["input_ids"]
        if probe_tokens(encoder, PROBE_TEXTS, prompt) != tuple(map(tuple, rows)):
            raise CheckpointError(
                "sentence-transformers gives this encoder other tokens than the tokeniser that would be written with it; "
                "has it a chat template, or does it cut texts at their beginning?"
            )
    if not encode_probe(encoder).any(axis=1).all():
        raise CheckpointError(
            "of a text under one of its prompts this encoder pools no token, as the prompt's last token takes in the text's first; let the "
            "prompt end with a line break, or pool it with the text (include_prompt)"
        )


def parts_of(encoder: SentenceTransformer, record: Mapping[str, Any]) -> EncoderParts:
    """Take an encoder of Transformer, one Pooling and heads apart; another, or unmerged adapters, is a CheckpointError."""
    modules: list[Any] = list(encoder)
    pooling = getattr(modules[1], "pooling_mode", "") if modules[1:] else ""
    poolings = [pooling] if isinstance(pooling, str) else list(pooling)
    kinds = [type(module).__name__ for module in modules]
    check_can_be_written(kinds, poolings)
    normalize = kinds[-1] == NORMALIZE
    if getattr(modules[0].auto_model, "_hf_peft_config_loaded", False):
        raise CheckpointError("the encoder has adapters beside its weights; merge adapters first, then save")
    return EncoderParts(
        model=modules[0].auto_model,
        tokenizer=modules[0].tokenizer,
        pooling=poolings[0],
        max_length=int(encoder.max_seq_length or 512),
        prompts={name: prompt or "" for name, prompt in encoder.prompts.items()},
        default_prompt=encoder.default_prompt_name,
        normalize=normalize,
        include_prompt=bool(modules[1].include_prompt),
        lower_case=bool(getattr(modules[0], "do_lower_case", False)),
        heads=tuple(modules[2 : len(modules) - normalize]),
        truncate_dim=encoder.truncate_dim,
        similarity=str(encoder.similarity_fn_name),
        record=record,
    )


def told_settings(parts: EncoderParts) -> dict[str, Any]:
    """Return how an encoder makes vectors of texts, JSON-ready; prompts without words are none."""
    return {
        "pooling": parts.pooling,
        "include_prompt": parts.include_prompt,
        "heads": [head_record(head).model_dump(mode="json") for head in parts.heads],
        "normalize": parts.normalize,
        "truncate_dim": parts.truncate_dim,
        "similarity": parts.similarity,
        "prompts": {name: prompt for name, prompt in parts.prompts.items() if prompt},
        "default_prompt": parts.default_prompt if parts.prompts.get(parts.default_prompt or "") else None,
        "max_length": parts.max_length,
        "lower_case": parts.lower_case,
    }


@dataclass(frozen=True, kw_only=True)
class ProbeRecord(Record):
    """``probe.json``: what an encoder made of the probe texts when it was written, so that whoever gets the folder can see it again.

    Attributes:
        texts: The texts.
        tokens: Their token numbers without a prompt, cut at the longest text.
        settings: As ``told_settings`` has them.
        dtype: In which the vectors were computed.
        shape: Of the vectors: (prompt * text, dim); of all texts without a prompt, then under each different one.
        float32_base64: Their numbers.
    """

    FORMAT = "prune2vec.probe/1"
    KIND, VERB = "record of probe texts", "prune"
    ERROR = DataError

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    settings: Mapping[str, Any]
    dtype: str
    shape: tuple[int, int]
    float32_base64: str

    def __post_init__(self) -> None:
        """Refuse numbers that are not as many as the shape says, and tokens of other texts."""
        if self.vectors.shape != self.shape:
            raise ValueError(f"shape is {list(self.shape)}, expected two lengths")
        if len(self.tokens) != len(self.texts):
            raise ValueError(f"tokens are those of {len(self.tokens)} texts, and there are {len(self.texts)}")

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, float32."""
        numbers = np.frombuffer(base64.b64decode(self.float32_base64), dtype="<f4")
        return numbers.reshape(self.shape).astype(np.float32)
