"""The small files of a sentence-transformers encoder: their forms, and the text settings of one that is given as the model."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, UnsupportedModel
from prune2vec.files import read_json
from prune2vec.models.source import ModelSource
from prune2vec.models.text_settings import E5, PAPER_POOLING, SAVED, Pooling, TextSettings

_POOLINGS = tuple(name for name in get_args(Pooling) if name != PAPER_POOLING)
RECORD = "prune2vec.json"
_FLAG, _FLAG_END = "pooling_mode_", "_tokens"
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
    tokenizer_args: dict[str, Any] = {}
    config_args: dict[str, Any] = {}


class EncoderForm(FileForm):
    """``config_sentence_transformers.json``."""

    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None
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


def encoder_text_settings(source: ModelSource, tokenizer: PreTrainedTokenizerBase, *, context: int) -> TextSettings | None:
    """Return the text settings of a sentence-transformers folder or hub id; None for a plain language model.

    The tokeniser's own limit, and the most tokens that the model's positions allow (``context``), count where it states none.

    Raises:
        UnsupportedModel: The encoder does something with texts or vectors that a cut would lose: a Dense head, two
            poolings at once, lower case, shortened vectors, another similarity than cosine.
        CheckpointError: One of its files is missing or broken.
        DataError: One of its files is not JSON.
        ModelError: One of its files cannot be fetched.
    """
    modules = read_form(source, "modules.json", list[ModuleForm])
    if modules is None:
        return None
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    normalize = kinds == ["Transformer", "Pooling", "Normalize"]
    if not normalize and kinds != ["Transformer", "Pooling"]:
        raise UnsupportedModel(
            f"{source.name} is an encoder of {', '.join(kinds) or 'no module'}; a cut keeps Transformer, Pooling and Normalize alone, and "
            "would lose the rest: cut the language model that it was made from"
        )
    found = read_pooling(source, modules[1]["path"])
    if found is None:
        raise CheckpointError(
            f"{source.name}: {modules[1]['path']}/config.json is missing, though modules.json names it; fetch the encoder again"
        )
    pooling, modes = found[0], [mode.removeprefix(_FLAG).removesuffix(_FLAG_END).removesuffix("_token") for mode in found[1]]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UnsupportedModel(
            f"{source.name} pools by {' and '.join(modes) or pooling['pooling_mode']}; expected one of {', '.join(_POOLINGS)}"
        )
    transformer = read_form(source, "sentence_bert_config.json", TextsForm) or {}
    if transformer.get("do_lower_case"):
        raise UnsupportedModel(f"{source.name} lowers the case of texts (do_lower_case), which a cut would not keep")
    return TextSettings.build(
        {
            "pooling": modes[0],
            "instruction": SAVED,
            "max_length": transformer.get("max_seq_length") or min(tokenizer.model_max_length, context),
            "normalize": normalize,
            "include_prompt": pooling.get("include_prompt", True),
            **_prompts(source, normalize=normalize),
        },
        where=f"{source.name}: its sentence-transformers files",
    )


def _prompts(source: ModelSource, *, normalize: bool) -> dict[str, Any]:
    """Return an encoder's prompts, or the instruction by data set that ``prune2vec.json`` tells of."""
    whole = read_form(source, "config_sentence_transformers.json", EncoderForm) or {}
    if whole.get("truncate_dim"):
        raise UnsupportedModel(
            f"{source.name} shortens its vectors (truncate_dim), which a cut would not keep; take that key out"
        )
    # Of normalised vectors the dot product is the cosine.
    if whole.get("similarity_fn_name") not in (None, "cosine", *(["dot"] if normalize else [])):
        raise UnsupportedModel(
            f"{source.name} compares vectors by {whole['similarity_fn_name']} (similarity_fn_name), and a cut would compare them by "
            "cosine; take that key out if that is meant"
        )
    # sentence-transformers has these two in every encoder, and takes them for queries and documents whatever else is there.
    prompts = {"query": "", "document": "", **{name: prompt or "" for name, prompt in whole.get("prompts", {}).items()}}
    default = whole.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{source.name}: config_sentence_transformers.json: default_prompt_name is {default!r}, which is none of its prompts "
            f"({', '.join(prompts)})"
        )
    text = (read_form(source, RECORD, OwnForm) or {}).get("text") or {}
    if text.get("instruction") == E5 and text.get("wrapper", "none") == "none":
        # One instruction a data set stands in no prompt.
        return {name: text[name] for name in ("instruction", "symmetric", "separator") if name in text}
    return {"prompts": prompts, "default_prompt": default}
