"""An encoder's heads, its modules behind the pooling: found in its files, loaded, run, known again, and written.

They are sentence-transformers' own without its imports of seconds (``HEAD_CLASSES``), or, of an encoder that the library loaded, its
classes of the same names. The L2 normalisation at an encoder's very end is not one of them: it is the text setting ``normalize``.
"""

from __future__ import annotations

import copy
import hashlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_length

from prune2vec.errors import CheckpointError, UnsupportedModel, reason_of
from prune2vec.files import write_json
from prune2vec.models.encoder_files import (
    VECTOR,
    DenseForm,
    DropoutForm,
    FileForm,
    LayerNormForm,
    ModuleForm,
    NormalizeForm,
    read_form,
)
from prune2vec.models.source import ModelSource
from prune2vec.models.text_settings import Head
from prune2vec.models.weight_files import WeightFiles

NORMALIZE = "Normalize"
HEADS: dict[str, type[FileForm]] = {
    "Dense": DenseForm,
    "LayerNorm": LayerNormForm,
    "Dropout": DropoutForm,
    NORMALIZE: NormalizeForm,
}
"""What may stand behind the pooling, by sentence-transformers' name of the class, and the form of its file."""
STOCK = ("sentence_transformers.", "prune2vec.")
_FIRST = ("Transformer", "UnevenTransformer")

Features = dict[str, Tensor]


class VectorModule(nn.Module):
    """Makes other vectors of those it is given, in a dictionary under ``sentence_embedding``, as in a ``SentenceTransformer``.

    Tensors, values and ``settings`` are those of sentence-transformers' class of the same name.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def get_config_dict(self) -> dict[str, Any]:
        """Return its settings, as sentence-transformers asks for them."""
        return dict(self.settings)


class Dense(VectorModule):
    """A linear layer, an activation and perhaps what it was given added: (row, in_features) to (row, out_features)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, activation_function: nn.Module, use_residual: bool = False
    ) -> None:
        kind, residual = type(activation_function), {"use_residual": True} if use_residual else {}
        name = f"{kind.__module__}.{kind.__name__}"
        super().__init__(in_features=in_features, out_features=out_features, bias=bias, activation_function=name, **residual)
        self.in_features, self.out_features, self.use_residual = in_features, out_features, use_residual
        self.activation_function = activation_function
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        if use_residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        vectors = features[VECTOR]
        found = self.activation_function(self.linear(vectors))
        if self.use_residual:
            found = found + (self.residual(vectors) if hasattr(self, "residual") else vectors)
        return {**features, VECTOR: found}

    def get_embedding_dimension(self) -> int:
        """Return the width of its vectors, for which sentence-transformers asks."""
        return self.out_features


class LayerNorm(VectorModule):
    """A layer norm of vectors of ``dimension`` numbers."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension=dimension)
        self.dimension, self.norm = dimension, nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: self.norm(features[VECTOR])}


class Dropout(VectorModule):
    """A dropout, which does nothing but in training."""

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout=dropout)
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: self.dropout_layer(features[VECTOR])}


class Normalize(VectorModule):
    """An L2 normalisation before the last head."""

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: unit_length(features[VECTOR], dim=-1)}


HEAD_CLASSES: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (Dense, LayerNorm, Dropout, Normalize)}


def encoder_modules(source: ModelSource) -> list[dict[str, Any]] | None:
    """Return the entries of a model's ``modules.json``; None for a language model, which has none.

    Raises:
        UnsupportedModel: Its modules are others than a Transformer, a pooling and heads, and a cut would lose one.
        CheckpointError: The file has a value of the wrong type.
        DataError: It is no JSON.
        ModelError: It cannot be fetched.
    """
    modules: list[dict[str, Any]] | None = read_form(source, "modules.json", list[ModuleForm])
    if modules is None:
        return None
    kinds = [kind_of(module) for module in modules]
    if len(kinds) < 2 or kinds[0] not in _FIRST or kinds[1] != "Pooling" or not set(kinds[2:]) <= set(HEADS):
        raise UnsupportedModel(
            f"{source.name} is an encoder of {', '.join(kinds) or 'no module'}; a cut keeps Transformer, Pooling and then any of "
            f"{', '.join(HEADS)}, and would lose the rest: cut the language model that it was made from"
        )
    for module in modules:
        if not module["type"].startswith(STOCK):
            raise UnsupportedModel(
                f"{source.name} brings a class of its own for a module ({module['type']}), which nobody but its code can run; "
                "cut the language model that it was made from"
            )
    return modules


def kind_of(module: dict[str, Any]) -> str:
    """Return the name of the class in an entry of ``modules.json``, whichever release wrote its path."""
    return str(module["type"]).rpartition(".")[2]


def read_head(source: ModelSource, module: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a head by its entry in ``modules.json``, checked.

    Raises:
        CheckpointError: Its file is missing or has a value of the wrong type.
        UnsupportedModel: It does not go from vector to vector, or its activation is none of torch's, which sentence-transformers
            would replace by another without a word.
        DataError: Its file is no JSON.
        ModelError: Its file cannot be fetched.
    """
    kind, file = kind_of(module), f"{module['path']}/config.json"
    found = read_form(source, file, HEADS[kind])
    if found is None and kind not in (NORMALIZE, "Dropout"):
        raise CheckpointError(f"{source.name}: {file} is missing, though modules.json names it; fetch the encoder again")
    config: dict[str, Any] = HEADS[kind].model_validate(found or {}).model_dump()
    at = f"{source.name}/{file}"
    names = config.pop("module_input_name", VECTOR), config.pop("module_output_name", None) or VECTOR
    if names != (VECTOR, VECTOR):
        raise UnsupportedModel(
            f"{at}: this {kind} goes from {names[0]} to {names[1]}; expected one that changes {VECTOR} itself"
        )
    check_activation(config, at)
    return {name: config[name] for name in HEADS[kind].model_fields if name in config}


def check_activation(config: Mapping[str, Any], at: str) -> nn.Module | None:
    """Return a new activation by its path in torch, if one is named; ``UnsupportedModel`` if torch has no such class."""
    name = config.get("activation_function")
    if name is None:
        return None
    try:
        found = pkgutil.resolve_name(name) if name.startswith("torch.nn.") else None
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found()
        reason = "it is no class of torch.nn"
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        reason = reason_of(error)
    raise UnsupportedModel(f"{at}: activation_function {name!r} cannot be made ({reason}); expected a class of torch.nn")


def load_heads(source: ModelSource, *, width: int) -> tuple[nn.Module, ...]:
    """Return the heads of an encoder in order, on the CPU, in eval mode and in the dtype that they are stored in.

    None for a language model. ``width`` is that of its states.

    Raises:
        UnsupportedModel: As ``encoder_modules`` and ``read_head``.
        CheckpointError: A tensor is missing, damaged, left over or of another shape, holds NaN or infinity, or the heads do not
            fit each other.
        DataError: A file is no JSON.
        ModelError: A file cannot be fetched.
    """
    modules = (encoder_modules(source) or [])[2:]
    if modules and kind_of(modules[-1]) == NORMALIZE:
        # Its settings hold nothing, but could say that it normalises something else.
        read_head(source, modules[-1])
        modules = modules[:-1]
    if not modules:
        return ()
    heads = tuple(_load_head(source, module) for module in modules)
    check_widths(heads, width, source.name)
    return heads


def _load_head(source: ModelSource, module: dict[str, Any]) -> nn.Module:
    kind, at, config = kind_of(module), f"{source.name}/{module['path']}", read_head(source, module)
    if "activation_function" in config:
        config["activation_function"] = check_activation(config, at)
    with torch.device("meta"):
        # Nothing is drawn for weights that are replaced.
        made = HEAD_CLASSES[kind](**config)
    if made.state_dict():
        files = WeightFiles.find(replace(source, name=at), module["path"])
        state = dict(files.read(files.file_of))
        try:
            made.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{at}: its weights do not fit its config.json ({reason_of(error)})") from error
        bad = next((name for name, tensor in state.items() if not torch.isfinite(tensor).all()), None)
        if bad is not None:
            raise CheckpointError(f"{at}: {bad} holds NaN or infinity; the weights are damaged, fetch or train them again")
    return made.eval()


def check_widths(heads: Iterable[nn.Module], width: int, who: str) -> None:
    """Refuse, with a ``CheckpointError``, heads that do not fit each other and vectors of ``width`` dimensions."""
    for head in heads:
        taken = getattr(head, "in_features", getattr(head, "dimension", width))
        if taken != width:
            raise CheckpointError(f"{who}: its {type(head).__name__} is for vectors of {taken} dimensions, and gets {width}")
        width = getattr(head, "out_features", width)


def state_width(config: Any) -> int:
    """Return the width of a model's final states."""
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def read_out(
    vectors: Float[Tensor, "row dim"],
    heads: Sequence[nn.Module],
    *,
    normalize: bool = False,
    truncate_dim: int | None = None,
) -> Float[Tensor, "row out"]:
    """Return an encoder's vectors of what was pooled, as sentence-transformers does: the heads, L2 normalisation, the cut."""
    for head in heads:
        vectors = head({VECTOR: vectors})[VECTOR]
    vectors = unit_length(vectors, dim=1) if normalize else vectors
    return vectors[:, :truncate_dim]


def in_fp32(heads: Iterable[nn.Module]) -> tuple[nn.Module, ...]:
    """Return copies of heads that compute in fp32: what is pooled is fp32."""
    return tuple(copy.deepcopy(head).float() for head in heads)


def head_config(head: nn.Module) -> dict[str, Any]:
    """Return the settings of a head as every release of sentence-transformers reads them."""
    entries: dict[str, Any] = head.get_config_dict()  # type: ignore[operator]
    return {name: value for name, value in entries.items() if not name.startswith("module_")}


def head_record(head: nn.Module) -> Head:
    """Return what a head is known again by."""
    digest = hashlib.sha256()
    state = head.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return Head(kind=type(head).__name__, config=head_config(head), digest=digest.hexdigest() if state else "")


def write_head(head: nn.Module, folder: Path) -> None:
    """Write a head into a new folder: its weights in their dtype, its settings in the form that every release reads."""
    folder.mkdir(parents=True)
    if config := head_config(head):
        write_json(folder / "config.json", config)
    if state := head.state_dict():
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def head_words(heads: Iterable[nn.Module]) -> str:
    """Return heads in words: ``Dense 768 -> 3072, Dense 3072 -> 768``."""
    return ", ".join(
        f"{type(head).__name__} {head.in_features} -> {head.out_features}"
        if hasattr(head, "out_features")
        else type(head).__name__
        for head in heads
    )
