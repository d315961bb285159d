"""Whether an encoder's folder or hub id holds all that its files tell of, and nothing else: asked before it is loaded.

sentence-transformers takes what it finds: holes in the weights are filled with random numbers, layers that are left over are
dropped, a key that is missing has a default. Here the first such thing is an error that names file, and key or tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, ConfigError, ModelError, explained
from prune2vec.forward.batches import rope_factor
from prune2vec.models.encoder_files import (
    RECORD,
    TEXTS,
    DenseForm,
    EncoderForm,
    ModuleForm,
    OwnForm,
    RouterForm,
    TextsForm,
    TokenizerForm,
    read_form,
    read_pooling,
    read_texts,
)
from prune2vec.models.families import without_head
from prune2vec.models.heads import HEADS, STOCK, check_activation, check_widths, kind_of
from prune2vec.models.load import check_numbers, embedding_rows
from prune2vec.models.source import HUB_ID, ModelSource
from prune2vec.models.tensor_check import check_loaded
from prune2vec.models.weight_files import NoSafetensors, WeightFiles, check_depth, layers_in
from prune2vec.outputs import changed_files
from prune2vec.paths import as_path
from prune2vec.progress import quiet_transformers, say

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_WRITABLE = (("Transformer", "UnevenTransformer"), ("Pooling",), tuple(HEADS))
_NOT_FIRST = ("Pooling", "WeightedLayerPooling", "Normalize", "Dense", "Dropout", "LayerNorm")
_FORMS: dict[str, Any] = {
    TEXTS: TextsForm,
    "config_sentence_transformers.json": EncoderForm,
    "tokenizer_config.json": TokenizerForm,
    "special_tokens_map.json": dict[str, Any],
    "config.json": dict[str, Any],
    RECORD: OwnForm,
}


def check_files(encoder: str) -> list[dict[str, Any]]:
    """Check the small files of an encoder (folder or hub id), and its weights against the model that ``config.json`` tells of.

    Returns:
        What its ``modules.json`` holds.

    Raises:
        CheckpointError: There are none, one has a value of the wrong type or size, or a tensor is missing, left over or of
            another shape.
        DataError: One is no JSON.
    """
    source = source_of(encoder)
    try:
        modules: list[dict[str, Any]] | None = read_form(source, "modules.json", list[ModuleForm])
        for name, form in _FORMS.items():
            read_form(source, name, form)
        if modules is None:
            raise CheckpointError(
                f"{encoder} is not an encoder: no modules.json is there, or none can be fetched; expected the name of one on the hub, "
                "or a folder made by prune2vec prune or train"
            )
        _check_modules(source, modules)
        for kind, path in _with_routes(source, modules):
            if kind.endswith(".Pooling"):
                read_pooling(source, path)
            if kind.startswith(STOCK) and kind.endswith(".Dense"):
                check_activation(read_form(source, f"{path}/config.json", DenseForm) or {}, f"{source.name}/{path}")
            # The uneven one compares its tensors itself.
            if kind.endswith("Transformer"):
                _check_weights(source, path, compare=kind.endswith(".Transformer"))
    except ModelError as error:
        raise CheckpointError(str(error)) from error
    return modules


def source_of(encoder: str) -> ModelSource:
    """Return where the files of an encoder are, a folder or a hub id."""
    on_hub = not os.path.isdir(encoder) and HUB_ID.fullmatch(encoder)
    return ModelSource(name=encoder, location=encoder, revision="main" if on_hub else None)


def _check_modules(source: ModelSource, modules: list[dict[str, Any]]) -> None:
    """Refuse names that modules cannot have, and modules that could not follow each other."""
    at, names = f"{source.name}/modules.json", [module["name"] for module in modules]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{at}: two modules have one name ({', '.join(names)})")
    for module in modules:
        try:
            as_path(module["path"] or ".")
        except ConfigError as error:
            raise CheckpointError(f"{at}: path: {error}; fetch it again") from error
    # Others than sentence-transformers' own may make anything.
    stock = all(module["type"].startswith(STOCK) for module in modules)
    if stock and not _can_follow(source, modules):
        kinds = list(map(kind_of, modules))
        raise CheckpointError(
            f"{at}: its modules are {', '.join(kinds) or 'none'}; expected Transformer, then Pooling, and perhaps heads: "
            "fetch it again, or make it again with prune2vec prune"
        )


def _can_follow(source: ModelSource, modules: list[dict[str, Any]]) -> bool:
    """Return whether each of sentence-transformers' own modules gets what it takes from those before it."""
    kinds = list(map(kind_of, modules))
    if not kinds or kinds[0] in _NOT_FIRST:
        return False
    texts = read_texts(source, modules[0]["path"])
    makes_vectors = kinds[0] not in _WRITABLE[0] or texts.get("module_output_name") == "sentence_embedding"
    before_normalize = kinds[: kinds.index("Normalize")] if "Normalize" in kinds else kinds
    return makes_vectors or "Pooling" in before_normalize


def check_can_be_written(kinds: Sequence[str], poolings: Sequence[str]) -> None:
    """Refuse, with a CheckpointError, modules other than Transformer, Pooling and heads, and several poolings side by side."""
    others = [kind for place, kind in enumerate(kinds) if kind not in _WRITABLE[min(place, 2)]]
    if others or len(kinds) < 2:
        what = f"{others[0]} is another ({', '.join(kinds)})" if others else f"there is {', '.join(kinds)} alone"
        raise CheckpointError(f"encoders of Transformer, Pooling and then {', '.join(HEADS)} can be written, and {what}")
    if len(poolings) > 1:
        raise CheckpointError(f"can write one pooling; this encoder has {', '.join(poolings)}")


def check_trainable(folder: Path) -> None:
    """Check an encoder's files, and that what is trained of it can be written; nothing is loaded.

    Raises:
        CheckpointError: The files do not fit each other, or it has modules or poolings that cannot be written.
        DataError: A file of it is no JSON.
    """
    modules, source = check_files(str(folder)), source_of(str(folder))
    pooling = read_pooling(source, modules[1]["path"]) if modules[1:] else None
    check_can_be_written(list(map(kind_of, modules)), pooling[1] if pooling is not None else [])


def _with_routes(source: ModelSource, modules: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield type and path of each module, those that a router chooses from among them."""
    for module in modules:
        yield module["type"], module["path"]
        routes = read_form(source, f"{module['path']}/router_config.json", RouterForm) or {}
        for name, kind in (routes.get("types") or {}).items():
            yield kind, f"{module['path']}/{name}".lstrip("/")


def _check_weights(source: ModelSource, folder: str, *, compare: bool) -> None:
    """Compare the tensors of an encoder's model with those its class has, without reading their values.

    Before any of it is built, a number of layers that no file could hold and damaged weights are refused.
    """
    at = f"{source.name}/{folder}".rstrip("/")
    entries = read_form(source, f"{folder}/config.json", dict[str, Any])
    if entries is None:
        return
    try:
        files = WeightFiles.find(source, folder)
        names = list(files.file_of)
        files.check_whole()
    except NoSafetensors:
        names = []
    if names:
        check_depth(at, entries, lambda: names)
    if not compare:
        return
    with explained(CheckpointError, f"{at}/config.json"):
        config = AutoConfig.from_pretrained(source.location, subfolder=folder, trust_remote_code=False)
    auto: Any = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
    with explained(CheckpointError, f"cannot load the encoder {at}"), quiet_transformers():
        model, info = auto.from_pretrained(
            source.location,
            subfolder=folder,
            config=config,
            device_map={"": "meta"},
            output_loading_info=True,
            # Collected instead of raised, so that the first is told by its name.
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    try:
        check_loaded(at, without_head(model), info)
    except ModelError as error:
        told, held = getattr(config, "num_hidden_layers", None), layers_in(names)
        counts = f" (it says {told} layers, they hold {held})" if told != held and held else ""
        raise CheckpointError(f"{error}{counts}") from error
    texts = read_texts(source, folder)
    limit, positions = texts.get("max_seq_length"), getattr(model.config, "max_position_embeddings", None)
    if limit and isinstance(positions, int) and 0 < positions * rope_factor(model.config) < limit:
        raise CheckpointError(
            f"{at}/sentence_bert_config.json: max_seq_length is {limit}, and the model has {positions} positions"
        )


def check_fits_together(encoder: SentenceTransformer, name: str) -> None:
    """Check that a loaded encoder's parts fit each other, as ``check_parts`` does; say which of our files were changed."""
    modules: list[Any] = list(encoder)
    model, tokenizer = getattr(modules[0], "auto_model", None), getattr(modules[0], "tokenizer", None)
    if model is not None and tokenizer is not None:
        pooled = getattr(modules[1], "embedding_dimension", None) if modules[1:] else None
        check_parts(name, model, tokenizer, width=modules[0].get_embedding_dimension(), pooled=pooled)
        if pooled is not None:
            check_widths(modules[2:], modules[1].get_embedding_dimension(), name)
    check_unchanged(name)


def check_parts(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, width: int, pooled: int | None
) -> None:
    """Check that an encoder's tokeniser, its model and the states that its pooling is for fit each other.

    ``width`` is that of the model's states, ``pooled`` that of the pooling; None where it tells none.

    Raises:
        CheckpointError: The tokeniser has tokens that the model has no embedding for, or the pooling is for another width.
        ModelError: Two tokens of the tokeniser have one number.
    """
    check_numbers(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False) if tokenizer.is_fast else None, name)
    # Tokens that were added to the vocabulary may never come up in a text; an engine refuses a text that has one.
    rows, entries = embedding_rows(model), int(tokenizer.vocab_size)
    if entries > rows:
        raise CheckpointError(f"{name}: its tokeniser has {entries} entries, and the model's embedding has {rows} rows")
    if pooled not in (None, width):
        raise CheckpointError(f"{name}: its pooling is for states of {pooled} dimensions, and its model's have {width}")


def check_unchanged(name: str) -> None:
    """Say which files of ours were changed since the encoder was written."""
    changed = changed_files(Path(name), suffix=".json")
    if changed:
        say(f"{name}: {', '.join(changed)} changed since prune2vec wrote and compared this encoder; its vectors may differ")
