"""Whether an encoder's folder or hub id holds all that its files tell of, and nothing else: asked before it is loaded.

sentence-transformers takes what it finds: holes in the weights are filled with random numbers, layers that are left over are
dropped, a key that is missing has a default. Here the first such thing is an error that names file, and key or tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

from prune2vec.errors import CheckpointError, ConfigError, reason_of
from prune2vec.files import read_json
from prune2vec.models.encoder_text import (
    RECORD,
    EncoderForm,
    FileForm,
    ModuleForm,
    PoolingForm,
    RouterForm,
    TextsForm,
    TokenizerForm,
    check_form,
    pooling_names,
)
from prune2vec.models.load import check_numbers
from prune2vec.models.quiet import quiet_transformers
from prune2vec.models.rope import rope_entries
from prune2vec.models.uneven import misfit
from prune2vec.outputs import changed_files
from prune2vec.paths import as_path
from prune2vec.progress import say

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_WRITABLE = (("Transformer", "UnevenTransformer"), ("Pooling",), ("Normalize",))
_STOCK = ("sentence_transformers.", "prune2vec.")
_NOT_FIRST = ("Pooling", "WeightedLayerPooling", "Normalize", "Dense", "Dropout", "LayerNorm")
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


class _Record(FileForm):
    text_format: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] | None = None


_FORMS: dict[str, Any] = {
    "modules.json": list[ModuleForm],
    "sentence_bert_config.json": TextsForm,
    "config_sentence_transformers.json": EncoderForm,
    "tokenizer_config.json": TokenizerForm,
    "special_tokens_map.json": dict[str, Any],
    "config.json": dict[str, Any],
    RECORD: _Record,
}


def check_files(encoder: str) -> None:
    """Check an encoder's small files, and its weights against the model that ``config.json`` tells of.

    Args:
        encoder: Folder or hub id.

    Raises:
        CheckpointError: There are none, one has a value of the wrong type or size, or a tensor is missing, left over or of
            another shape.
        DataError: One is no JSON.
    """
    for name, form in _FORMS.items():
        _checked(encoder, name, form)
    modules = _checked(encoder, "modules.json", list[ModuleForm])
    if modules is None:
        raise CheckpointError(
            f"{encoder} is not an encoder: no modules.json is there, or none can be fetched; expected the name of one on the hub, "
            "or a folder made by prune2vec prune or train"
        )
    names = [module["name"] for module in modules]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{encoder}/modules.json: two modules have one name ({', '.join(names)})")
    _check_order(encoder, modules)
    for kind, path in _parts(encoder, modules):
        if kind.endswith(".Pooling"):
            _poolings(encoder, f"{path}/config.json")
        if kind.endswith("Transformer") and encoder_file(encoder, f"{path}/config.json".lstrip("/")) is not None:
            _check_depth(encoder, path)
            # The uneven one compares its tensors itself.
            if kind.endswith(".Transformer"):
                _check_weights(encoder, path)


def _check_order(encoder: str, modules: list[dict[str, Any]]) -> None:
    """Refuse modules that could not follow each other, as each takes what those before it make, and names no folder can have.

    Modules that are not sentence-transformers' own may make anything.
    """
    at = f"{encoder}/modules.json"
    for module in modules:
        try:
            as_path(module["path"] or ".")
        except ConfigError as error:
            raise CheckpointError(f"{at}: path: {error}; fetch it again") from error
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if not all(module["type"].startswith(_STOCK) for module in modules):
        return
    texts = _checked(encoder, f"{modules[0]['path']}/sentence_bert_config.json".lstrip("/"), TextsForm) if modules else None
    of_tokens = kinds[:1] and kinds[0] in _WRITABLE[0] and (texts or {}).get("module_output_name") != "sentence_embedding"
    before = kinds[: kinds.index("Normalize")] if "Normalize" in kinds else kinds
    if not kinds or kinds[0] in _NOT_FIRST or (of_tokens and "Pooling" not in before):
        raise CheckpointError(
            f"{at}: its modules are {', '.join(kinds) or 'none'}; expected Transformer, then Pooling, and perhaps Normalize: "
            "fetch it again, or make it again with prune2vec prune"
        )


def check_can_be_written(kinds: Sequence[str], poolings: Sequence[str], truncate_dim: int | None) -> None:
    """Refuse an encoder that ``save_encoder`` cannot write; training asks before its first step.

    Args:
        kinds: The class names of its modules.
        poolings: The ways in which it pools.
        truncate_dim: Dimensions to which it cuts its vectors, if it does.

    Raises:
        CheckpointError: It has other modules than Transformer, Pooling and perhaps Normalize, pools in several ways side by side,
            or cuts its vectors, which other runtimes would not do.
    """
    others = [kind for place, kind in enumerate(kinds) if kind not in _WRITABLE[min(place, 2)]]
    if others or len(kinds) < 2:
        what = f"{others[0]} is another ({', '.join(kinds)})" if others else f"there is {', '.join(kinds)} alone"
        raise CheckpointError(f"encoders of Transformer, Pooling and Normalize can be written, and {what}")
    if len(poolings) > 1:
        raise CheckpointError(f"can write one pooling; this encoder has {', '.join(poolings)}")
    if truncate_dim is not None:
        raise CheckpointError(
            f"this encoder cuts its vectors to {truncate_dim} dimensions (truncate_dim), which other runtimes do not do; take the "
            "entry out of its config_sentence_transformers.json, and cut the vectors that it gives then"
        )


def check_trainable(folder: Path) -> None:
    """Check an encoder's files, and that what is trained of it can be written; nothing is loaded.

    Raises:
        CheckpointError: The files do not fit each other, or it has modules, poolings or a cut that cannot be written.
        DataError: A file of it is no JSON.
    """
    check_files(str(folder))
    modules = read_json(folder / "modules.json")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    pooling = f"{modules[1]['path']}/config.json" if modules[1:] else ""
    settings = _checked(str(folder), "config_sentence_transformers.json", EncoderForm) or {}
    check_can_be_written(kinds, _poolings(str(folder), pooling), settings.get("truncate_dim"))


def _parts(encoder: str, modules: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield type and path of each module, those that a router chooses from among them."""
    for module in modules:
        yield module["type"], module["path"]
        routes = _checked(encoder, f"{module['path']}/router_config.json".lstrip("/"), RouterForm) or {}
        for name, kind in (routes.get("types") or {}).items():
            yield kind, f"{module['path']}/{name}".lstrip("/")


def encoder_file(encoder: str, name: str) -> Path | None:
    """Return a file of the encoder, fetched if need be; None where it has none of that name.

    Raises:
        CheckpointError: It cannot be fetched.
    """
    from sentence_transformers.util import load_file_path

    path = Path(encoder) / name
    if Path(encoder).is_dir():
        # A name that no file system takes is that of no file, where Path.is_file raises.
        return path if os.path.isfile(path) else None
    try:
        found = load_file_path(encoder, Path(name).name, subfolder=str(Path(name).parent).removeprefix("."))
    except Exception as error:  # Whatever the hub's client raises of a repository that is not there, or of the network.
        raise CheckpointError(f"cannot fetch {name} of the encoder {encoder}: {reason_of(error)}") from error
    return Path(found) if found is not None else None


def _checked(encoder: str, name: str, form: Any) -> Any:
    """Return a file's JSON if it has the form; None where there is no such file."""
    file = encoder_file(encoder, name)
    if file is None:
        return None
    content = read_json(file)
    check_form(file, content, form)
    return content


def _poolings(encoder: str, name: str) -> list[str]:
    """Return the poolings that a pooling's file names.

    Raises:
        CheckpointError: There is a file and it names none.
    """
    content = _checked(encoder, name, PoolingForm)
    return pooling_names(f"{encoder}/{name}", content) if content is not None else []


def _check_depth(encoder: str, subfolder: str) -> None:
    """Refuse a number of layers that no file could hold before any is built, and damaged weights."""
    config = _checked(encoder, f"{subfolder}/config.json".lstrip("/"), dict[str, Any]) or {}
    names = _tensor_names(encoder, subfolder)
    for key in _DEPTHS:
        if names and isinstance(config.get(key), int) and len(names) < config[key]:
            at = Path(encoder) / subfolder / "config.json"
            raise CheckpointError(f"{at} says {config[key]} layers ({key}), its weights hold {_layers(names)}")


def _check_weights(encoder: str, subfolder: str) -> None:
    """Compare the tensors of an encoder's model with those its class has, without reading their values."""
    at = str(Path(encoder) / subfolder)
    try:
        config = AutoConfig.from_pretrained(encoder, subfolder=subfolder, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{at}/config.json: {reason_of(error)}") from error
    layers, found = getattr(config, "num_hidden_layers", None), _layers(_tensor_names(encoder, subfolder))
    auto: Any = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
    try:
        with quiet_transformers():
            model, info = auto.from_pretrained(
                encoder,
                subfolder=subfolder,
                config=config,
                device_map={"": "meta"},
                output_loading_info=True,
                # Collected instead of raised, so that the first is told by its name.
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
    except Exception as error:
        raise CheckpointError(f"cannot load the encoder {at}: {reason_of(error)}") from error
    wrong = misfit(info, model, decoder=auto is AutoModel)
    if wrong:
        counts = f" (it says {layers} layers, they hold {found})" if layers != found and found else ""
        raise CheckpointError(f"{at} {wrong}; its weights do not fit the structure that its config.json tells{counts}")
    texts = _checked(encoder, f"{subfolder}/sentence_bert_config.json".lstrip("/"), TextsForm) or {}
    limit, positions = texts.get("max_seq_length"), getattr(model.config, "max_position_embeddings", None)
    # Scaled rotary embeddings reach further than the positions that some configs tell.
    factor = max([1.0, *(float(entry.get("factor") or 1) for entry in rope_entries(model.config))])
    if limit and isinstance(positions, int) and 0 < positions * factor < limit:
        raise CheckpointError(
            f"{at}/sentence_bert_config.json: max_seq_length is {limit}, and the model has {positions} positions"
        )


def check_fits_together(encoder: SentenceTransformer, name: str) -> None:
    """Check that a loaded encoder's tokeniser, model and pooling fit each other; say which of our files were changed.

    Args:
        encoder: In memory.
        name: Its folder or hub id.

    Raises:
        CheckpointError: The tokeniser has tokens that the model has no embedding for, or the pooling is for another width.
        ModelError: Two tokens of the tokeniser have one number.
    """
    modules: list[Any] = list(encoder)
    model, tokenizer = getattr(modules[0], "auto_model", None), getattr(modules[0], "tokenizer", None)
    if model is not None and tokenizer is not None:
        check_numbers(tokenizer, name)
        # Tokens that were added to the vocabulary may never come up in a text; an engine refuses a text that has one.
        rows, entries = int(model.get_input_embeddings().weight.shape[0]), int(tokenizer.vocab_size)
        if entries > rows:
            raise CheckpointError(f"{name}: its tokeniser has {entries} entries, and the model's embedding has {rows} rows")
        pooled = getattr(modules[1], "embedding_dimension", None) if modules[1:] else None
        width = modules[0].get_embedding_dimension()
        if pooled not in (None, width):
            raise CheckpointError(f"{name}: its pooling is for states of {pooled} dimensions, and its model's have {width}")
    changed = changed_files(Path(name), suffix=".json")
    if changed:
        say(f"{name}: {', '.join(changed)} changed since prune2vec wrote and compared this encoder; its vectors may differ")


def _tensor_names(encoder: str, subfolder: str) -> list[str]:
    """Return the names of the tensors in an encoder's safetensors files, none where there are no such files."""
    at = Path(encoder) / subfolder
    single = encoder_file(encoder, f"{subfolder}/{_SINGLE}".lstrip("/"))
    files: dict[str, Path | None] = {_SINGLE: single} if single is not None else {}
    index = _checked(encoder, f"{subfolder}/{_INDEX}".lstrip("/"), dict[str, Any]) if not files else None
    if index is not None:
        try:
            weight_map = TypeAdapter(dict[str, str]).validate_python(index.get("weight_map"), strict=True)
        except ValidationError as error:
            raise CheckpointError(f"{at / _INDEX}: weight_map: expected the file of each tensor by its name") from error
        files = {name: encoder_file(encoder, f"{subfolder}/{name}".lstrip("/")) for name in dict.fromkeys(weight_map.values())}
    names: list[str] = []
    for name, file in files.items():
        if file is None:
            raise CheckpointError(f"{at / name} is missing, though {_INDEX} names it")
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; fetch them with git lfs pull")
        try:
            with safe_open(file, framework="pt") as tensors:
                names += tensors.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {reason_of(error)}; fetch or make it again") from error
    return names


def _layers(names: list[str]) -> int:
    """Return how many numbered blocks tensors of these names belong to."""
    numbers = [next((int(part) for part in name.split(".") if part.isdigit()), -1) for name in names]
    return max(numbers, default=-1) + 1
