"""The text settings of an encoder that is given as the model: what its sentence-transformers files say."""

from __future__ import annotations

from typing import Any, get_args

from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import ModelError, UnsupportedModel
from prune2vec.files import read_json
from prune2vec.models.source import ModelSource
from prune2vec.models.text_settings import PAPER_POOLING, SAVED, Pooling, TextSettings

_POOLINGS = tuple(name for name in get_args(Pooling) if name != PAPER_POOLING)
_FLAG, _FLAG_END = "pooling_mode_", "_tokens"


def encoder_text_settings(source: ModelSource, tokenizer: PreTrainedTokenizerBase, *, context: int) -> TextSettings | None:
    """Return the text settings of a sentence-transformers folder or hub id; None for a plain language model.

    Args:
        source: The model.
        tokenizer: Its tokeniser, whose own limit counts where the encoder states none.
        context: Most tokens that the model's positions allow.

    Raises:
        UnsupportedModel: The encoder does something with texts or vectors that a cut would lose: a Dense head, two
            poolings at once, lower case.
        ModelError: One of its files is broken.
        DataError: One of its files is not JSON.
    """
    modules = _read(source, "modules.json", kind=list)
    if modules is None:
        return None
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] if isinstance(module, dict) else "" for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModel(
            f"{source.name} is an encoder of {', '.join(kinds) or 'no module'}; a cut keeps Transformer, Pooling and Normalize alone, and "
            "would lose the rest: cut the language model that it was made from"
        )
    pooling = _read(source, f"{modules[1].get('path', '')}/config.json", kind=dict) or {}
    transformer = _read(source, "sentence_bert_config.json", kind=dict) or {}
    whole = _read(source, "config_sentence_transformers.json", kind=dict) or {}
    if transformer.get("do_lower_case"):
        raise UnsupportedModel(f"{source.name} lowers the case of texts (do_lower_case), which a cut would not keep")
    return TextSettings.build(
        {
            "pooling": _pooling(pooling, source),
            "instruction": SAVED,
            "max_length": transformer.get("max_seq_length") or min(tokenizer.model_max_length, context),
            "normalize": len(kinds) > 2,
            "include_prompt": pooling.get("include_prompt", True),
            "prompts": {name: prompt or "" for name, prompt in (whole.get("prompts") or {}).items()},
            "default_prompt": whole.get("default_prompt_name"),
        },
        where=f"{source.name}: its sentence-transformers files",
    )


def _pooling(config: dict[str, Any], source: ModelSource) -> str:
    """Return the pooling by its name, from the entry of newer releases or the flags of older ones."""
    flags = [name.removeprefix(_FLAG).removesuffix(_FLAG_END) for name, on in config.items() if name.startswith(_FLAG) and on]
    named = config.get("pooling_mode", flags or ["mean"])
    modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UnsupportedModel(
            f"{source.name} pools by {' and '.join(map(str, modes))}; expected one of {', '.join(_POOLINGS)}"
        )
    return str(modes[0])


def _read(source: ModelSource, file: str, *, kind: type) -> Any:
    try:
        found = read_json(source.fetch(file))
    except FileNotFoundError:
        return None
    except ModelError as error:
        # Of a hub model in the cache, read without a network, what was never fetched is taken not to be there.
        if source.revision is None or not isinstance(error.__cause__, LocalEntryNotFoundError):
            raise
        return None
    if not isinstance(found, kind):
        raise ModelError(f"{source.name}: {file} holds {type(found).__name__}, expected {kind.__name__}")
    return found
