"""The wrapper around a text, taken literally from the model's own chat template."""

from __future__ import annotations

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import ConfigError, ModelError
from prune2vec.records.text_format import TextFormat

_MARK = "\u2402text\u2403"


def text_format(tokenizer: PreTrainedTokenizerBase, *, wrapper: str = "none", separator: str = "\n") -> TextFormat:
    """Return the text format for ``wrapper``: ``none``, or ``chat`` for the user turn of the tokeniser's chat template.

    A BOS token that the tokeniser adds by itself is left out of the prefix, and white space after the last token of
    the turn out of the suffix (L3Prune wraps in the same way).

    Raises:
        ConfigError: The wrapper is unknown.
        ModelError: ``chat`` is asked for but there is no chat template, or it does not show the text once.
    """
    if wrapper == "none":
        return TextFormat(separator=separator)
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
    return TextFormat(wrapper="chat", prefix=prefix, suffix=suffix.rstrip(), separator=separator)
