"""A model's tokeniser and config with the tokens that a plan keeps, under their new numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, PlanError, UnsupportedModel
from prune2vec.models.cut import config_of_entries
from prune2vec.models.token_kinds import TokenVocabulary, token_numbers
from prune2vec.models.tokens import NO_TEXT_ROLES, ROLES, fast
from prune2vec.planning.plan import VocabularyCut
from prune2vec.progress import say
from prune2vec.pruning.parity import PROBE_TEXTS


def keep_tokens(tokenizer: PreTrainedTokenizerBase, cut: VocabularyCut, who: str) -> TokenVocabulary:
    """Leave a tokeniser only the tokens of a plan, in place; return the vocabulary that it had.

    Probe texts all of whose tokens stay are compared: they must keep them.

    Raises:
        CheckpointError: Such a text gets other tokens.
        ModelError: The tokeniser cannot be made, or is a slow one.
        PlanError: The plan is for another tokeniser, or keeps none of its padding, BOS or other tokens with a role.
        UnsupportedModel: It is of a kind whose vocabulary cannot be cut.
    """
    whole = TokenVocabulary(fast(tokenizer).backend_tokenizer, who)
    if whole.digest(cut.kept) != cut.digest:
        raise PlanError(
            f"the plan keeps {len(cut.kept):,} tokens of another tokeniser than that of {who}; make it again with prune2vec plan"
        )
    made, numbers = whole.trimmed(cut.kept), {old: new for new, old in enumerate(cut.kept)}
    for text in PROBE_TEXTS:
        before, after = whole.backend.encode(text).ids, made.encode(text).ids
        if numbers.keys() >= set(before) and [numbers[old] for old in before] != after:
            raise CheckpointError(f"{who}: {text[:40]!r} has other tokens after the cut, though all of its own stay")
    for role in ROLES:
        token = getattr(tokenizer, role, None)
        if token is None or whole.numbers.get(str(token)) in numbers:
            continue
        if role not in NO_TEXT_ROLES:
            raise PlanError(f"the plan does not keep {token!r}, the {role} of {who}; make it again with prune2vec plan")
        # transformers adds one to tokenisers that have no use for it.
        setattr(tokenizer, role, None)
    tokenizer._tokenizer = made
    return whole


def renumbered_config(config: Any, cut: VocabularyCut) -> Any:
    """Return a copy of a model's config for the tokens of a plan; numbers of tokens that nobody has are taken out."""
    numbers, entries = {old: new for new, old in enumerate(cut.kept)}, config.to_dict()
    changes: dict[str, Any] = {"vocab_size": len(numbers)}
    for key, listed in token_numbers(entries).items():
        stay = [numbers[old] for old in listed if old in numbers]
        changes[key] = stay if isinstance(entries[key], list) else next(iter(stay), None)
    try:
        return config_of_entries(config, {**entries, **changes})
    except StrictDataclassError:
        # A class that takes no None has its own default then.
        gone = [key for key, value in changes.items() if value is None]
        return config_of_entries(config, {key: value for key, value in {**entries, **changes}.items() if key not in gone})


def check_padding(model: PreTrainedModel, cut: VocabularyCut) -> None:
    """Refuse, with ``UnsupportedModel``, to renumber the padding of a model that counts positions from it (RoBERTa)."""
    tokens, padding = model.get_input_embeddings(), model.config.pad_token_id
    counted = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.padding_idx is not None]
    if padding is not None and any(module is not tokens for module in counted) and cut.kept.index(padding) != padding:
        raise UnsupportedModel(
            f"{model.config.model_type} counts positions from the number of its padding token ({padding}), which a cut of the vocabulary "
            "would change; keep the whole vocabulary"
        )


def tell_prompts(whole: TokenVocabulary, cut: VocabularyCut, prompts: Iterable[str]) -> None:
    """Say which prompts are spelt otherwise than the model learnt them, as the plan did not know them."""
    for prompt in filter(None, dict.fromkeys(prompts)):
        if not set(cut.kept).issuperset(whole.backend.encode(prompt, add_special_tokens=False).ids):
            say(
                f"the prompt {prompt!r} has tokens that do not stay, as the plan was made without it; it is spelt in smaller ones"
            )
