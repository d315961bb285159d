"""What ends every text: the model's own ending, its end-of-text token, or the end of a chat turn."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prune2vec.errors import ConfigError, ModelError
from prune2vec.models.text_settings import PromptTemplate


def own_ending(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokens that the tokeniser puts behind every text by itself: often EOS, in Qwen3-Embedding another one.

    Raises:
        ModelError: The tokeniser is a slow one, or the text's own tokens are not among those of the whole.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} has no character offsets; convert it to a fast tokeniser (tokenizer.json)"
        )
    whole = tokenizer("a").tokens()
    bare = tokenizer("a", add_special_tokens=False).tokens()
    for begin in range(len(whole)):
        if whole[begin : begin + len(bare)] == bare:
            return tuple(whole[begin + len(bare) :])
    raise ModelError(
        f"{type(tokenizer).__name__} makes other tokens of a text where it adds special tokens; nobody can tell its ending"
    )


def end_with_eos(
    layout: PromptTemplate, tokenizer: PreTrainedTokenizerBase, *, append_eos: str, pooling: str
) -> PromptTemplate:
    """Return the text format with the tokeniser's EOS token as suffix, where it is wanted and not there yet.

    Args:
        layout: What stands around a text so far.
        tokenizer: The model's.
        append_eos: ``"auto"`` is on for the pooling ``"lasttoken"``, unless the wrapper or the tokeniser ends a text already or
            the tokeniser has no EOS token; off for the other poolings.
        pooling: Name of the pooling.

    Raises:
        ConfigError: ``"on"``, but there is no EOS token, or the wrapper or the tokeniser ends a text with something else.
    """
    own = own_ending(tokenizer)
    if append_eos == "off" or (append_eos == "auto" and (pooling != "lasttoken" or layout.suffix or own)):
        return layout
    eos = tokenizer.eos_token
    if eos is None:
        if append_eos == "auto":
            return layout
        raise ConfigError("append_eos is on, but the tokeniser has no EOS token; set append_eos to off")
    if layout.suffix not in ("", eos):
        raise ConfigError(
            f"append_eos is on, but the wrapper ends texts with {layout.suffix!r}; set one of the two to off or none"
        )
    if own and own[-1] != eos:
        raise ConfigError(
            f"append_eos is on, but the tokeniser ends every text with {own[-1]!r} by itself, not with its EOS token {eos!r}; "
            "set append_eos to auto"
        )
    return layout if own else replace(layout, suffix=str(eos))


def with_suffix(tokenizer: PreTrainedTokenizerBase, suffix: str) -> PreTrainedTokenizerBase:
    """Return the tokeniser with a post-processor that ends every text with ``suffix``, a single special token.

    What the tokeniser put before and behind a text by itself stays, and so do all its special tokens.

    Raises:
        ConfigError: The suffix is several tokens or an ordinary one; sentence-transformers could not tell it from the prompt.
    """
    if not suffix:
        return tokenizer
    ids = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] not in tokenizer.all_special_ids:
        raise ConfigError(
            f"the wrapper ends with {suffix!r}, {len(ids)} tokens; an encoder's folder can hold one special token there: use --wrapper none"
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    before = list(takewhile(lambda token: token in tokenizer.all_special_tokens, tokenizer("a").tokens()))
    behind = [suffix, *own_ending(tokenizer)]
    pairs = [(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys([*before, *behind])]
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind], pair=[*before, "$A", *behind, "$B", *behind], special_tokens=pairs
    )
    copy = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", model_max_length=tokenizer.model_max_length)
    roles: dict[str, Any] = {role: token for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    copy.add_special_tokens(roles)
    # Those without a role count as special too: prompt_ids and sentence-transformers ask for the last token of a prompt.
    there = tokenizer.get_vocab()
    others = [token for token in tokenizer.all_special_tokens if token in there and token not in roles.values()]
    if others:
        copy.add_special_tokens({"extra_special_tokens": others})
    return copy


_MARK = "\u2402text\u2403"


def chat_template(tokenizer: PreTrainedTokenizerBase, *, wrapper: str = "none", separator: str = "\n") -> PromptTemplate:
    """Return the text format for ``wrapper``: ``none``, or ``chat`` for the user turn of the tokeniser's chat template.

    A BOS token that the tokeniser adds by itself is left out of the prefix, and white space after the last token of
    the turn out of the suffix (L3Prune wraps in the same way).

    Raises:
        ConfigError: The wrapper is unknown.
        ModelError: ``chat`` is asked for but there is no chat template, or it does not show the text once.
    """
    if wrapper == "none":
        return PromptTemplate(separator=separator)
    if wrapper != "chat":
        raise ConfigError(f"no wrapper is called {wrapper!r}; known: none, chat")
    if not tokenizer.chat_template:
        raise ModelError(f"{tokenizer.name_or_path or 'the model'} has no chat template; use --wrapper none")
    turn = [{"role": "user", "content": _MARK}]
    try:
        rendered = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=False))
    except (TemplateError, ValueError, TypeError) as error:
        raise ModelError(f"the chat template cannot render a user turn ({error}); use --wrapper none") from error
    if rendered.count(_MARK) != 1:
        raise ModelError(f"the chat template shows a text {rendered.count(_MARK)} times instead of once; use --wrapper none")
    prefix, suffix = rendered.split(_MARK)
    bos = tokenizer.bos_token
    if bos and prefix.startswith(bos) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        prefix = prefix.removeprefix(bos)
    return PromptTemplate(wrapper="chat", prefix=prefix, suffix=suffix.rstrip(), separator=separator)
