"""The small files of a sentence-transformers encoder: what form each has, and how one is read."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prune2vec.errors import CheckpointError
from prune2vec.files import read_json
from prune2vec.models.source import ModelSource
from prune2vec.models.text_settings import Similarity

RECORD, TEXTS = "prune2vec.json", "sentence_bert_config.json"
# Older releases named the file by the kind of the model.
_TEXTS_BY_KIND = tuple(
    f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
VECTOR = "sentence_embedding"
"""sentence-transformers' name for what an encoder gives of a text."""
_FLAG = "pooling_mode_"
# Beyond any text; a model that reads so many tokens has no use for a limit.
_Count = Annotated[int, Field(gt=0, lt=1 << 31)]


class FileForm(BaseModel):
    """What sentence-transformers and transformers understand of a file; other keys pass."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class ModuleForm(FileForm):
    """One module of ``modules.json``."""

    type: str
    path: str
    name: str


class TextsForm(FileForm):
    """``sentence_bert_config.json``."""

    max_seq_length: _Count | None = None
    do_lower_case: bool = False
    model_args: dict[str, Any] = {}
    model_kwargs: dict[str, Any] = {}
    tokenizer_args: dict[str, Any] = {}
    processor_kwargs: dict[str, Any] = {}
    config_args: dict[str, Any] = {}
    config_kwargs: dict[str, Any] = {}


class EncoderForm(FileForm):
    """``config_sentence_transformers.json``."""

    model_type: str = "SentenceTransformer"
    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    similarity_fn_name: Similarity | None = None
    truncate_dim: _Count | None = None


class PoolingForm(FileForm):
    """A pooling's ``config.json``."""

    word_embedding_dimension: _Count | None = None
    embedding_dimension: _Count | None = None
    pooling_mode: Any = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True


class DenseForm(FileForm):
    """A dense head's ``config.json``; without an activation sentence-transformers takes tanh."""

    in_features: _Count
    out_features: _Count
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: str = VECTOR
    module_output_name: str | None = None
    use_residual: bool = False


class LayerNormForm(FileForm):
    """A normalising head's ``config.json``."""

    dimension: _Count


class DropoutForm(FileForm):
    """A dropout's ``config.json``; it does nothing but in training."""

    dropout: Annotated[float, Field(ge=0, le=1)] = 0.2


class NormalizeForm(FileForm):
    """The ``config.json`` of an L2 normalisation, which older releases do not write."""

    module_input_name: str = VECTOR
    module_output_name: str | None = None


class TokenizerForm(FileForm):
    """``tokenizer_config.json``."""

    model_max_length: Annotated[float, Field(gt=0)] | None = None
    padding_side: Literal["left", "right"] = "right"
    truncation_side: Literal["left", "right"] = "right"


class OwnForm(FileForm):
    """``prune2vec.json``."""

    text: dict[str, Any] | None = None
    text_format: dict[str, Any] = {}
    train: dict[str, Any] | None = None


class RouterForm(FileForm):
    """``router_config.json``: the type of each module by its folder."""

    types: dict[str, str] | None = None


def read_form(source: ModelSource, file: str, form: Any) -> Any:
    """Return what one of a model's JSON files holds, compared with its form; None where the model has no such file.

    Raises:
        CheckpointError: A value has the wrong type or size; its key is named.
        DataError: It is no JSON.
        ModelError: It cannot be fetched.
    """
    try:
        path = source.fetch(file.lstrip("/"))
    except FileNotFoundError:
        return None
    content = read_json(path)
    try:
        TypeAdapter(form).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        raise CheckpointError(f"{path}: {key}{first['msg']}, got {reprlib.repr(first['input'])}") from error
    return content


def read_texts(source: ModelSource, folder: str = "") -> dict[str, Any]:
    """Return the file on texts of the Transformer in a folder, under any of its names; empty without. Errors as ``read_form``."""
    for name in (TEXTS, *_TEXTS_BY_KIND):
        if found := read_form(source, f"{folder}/{name}", TextsForm):
            return dict(found)
    return {}


def read_pooling(source: ModelSource, folder: str) -> tuple[dict[str, Any], list[str]] | None:
    """Return a pooling's file and the poolings that it names, in the entry of newer releases or the flags of older ones.

    None where there is no such file.

    Raises:
        CheckpointError: It names none.
    """
    file = f"{folder}/config.json"
    content = read_form(source, file, PoolingForm)
    if content is None:
        return None
    named = content.get("pooling_mode")
    if named and isinstance(named, str | list):
        # What is no pooling is refused by sentence-transformers, in words.
        return content, [named] if isinstance(named, str) else list(map(str, named))
    flags = [key for key in PoolingForm.model_fields if key.startswith(_FLAG) and content.get(key)]
    if not named and not flags:
        raise CheckpointError(
            f"{source.name}/{file} names no pooling; expected pooling_mode, or one pooling_mode_... that is true"
        )
    return content, flags
