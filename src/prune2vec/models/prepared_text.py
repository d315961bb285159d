"""The text settings made ready for one tokeniser: what a profile measures, ``slim`` ranks by and ``prune`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prune2vec.data.instructions import E5_TEXTS, Instructions
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, ModelError
from prune2vec.models.text_settings import E5, PAPER_POOLING, SAVED, PromptTemplate, TextSettings, Wrapper
from prune2vec.models.tokens import fast, lower_casing, prompt_ids
from prune2vec.progress import say

# Beginnings of texts: a prompt's last token merges with one of these if with any.
_BEGINNINGS = ("a", "The", "in", "12", " x", "\n", "é", "東", "(", "_")
_MARK = "\u2402text\u2403"


@dataclass(frozen=True, kw_only=True)
class PreparedText:
    """How texts reach one model.

    Attributes:
        settings: The text settings, their length within the model's positions.
        tokenizer: The tokeniser as an encoder's folder holds it: it ends texts by itself.
        layout: What stands around a text. Its suffix is in the tokeniser already, the profile-only pooling aside.
        instructions: Chosen by triplet; None where an encoder's own prompts stand.
    """

    settings: TextSettings
    tokenizer: PreTrainedTokenizerBase
    layout: PromptTemplate
    instructions: Instructions | None

    @property
    def suffix(self) -> str:
        """What must still be put behind a text before it is tokenised."""
        return self.layout.suffix if self.settings.pooling == PAPER_POOLING else ""

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts that an encoder's folder holds; E5's instructions, one a data set, are none of them."""
        if self.instructions is None:
            return dict(self.settings.prompts)
        given = self.instructions
        plain = self.layout.before()
        if given.kind != "literal":
            return {"query": plain, "document": plain}
        query = self.layout.before(given.text, given.separator)
        return {"query": query, "document": query if given.both_sides else plain}

    @property
    def default_prompt(self) -> str | None:
        """Name of the prompt that applies when none is asked for: a wrapper's prefix must be there even then."""
        if self.instructions is None:
            return self.settings.default_prompt
        return "document" if self.layout.prefix else None

    def before(self, triplet: Triplet) -> tuple[str, str]:
        """Return what stands before a triplet's query, and before its documents."""
        if self.instructions is None:
            return saved_prompts(self.settings.prompts, self.settings.default_prompt)
        query, document = self.instructions.for_triplet(triplet)
        own = self.instructions.separator
        return self.layout.before(query, own), self.layout.before(document, own)


def saved_prompts(prompts: Mapping[str, str | None], default: str | None) -> tuple[str, str]:
    """Return the prompts that sentence-transformers' ``encode_query`` and ``encode_document`` choose of an encoder's."""
    plain = prompts.get(default or "") or ""
    document = next((prompts[name] for name in ("document", "passage", "corpus") if name in prompts), plain)
    return prompts.get("query", plain) or "", document or ""


def prepare_text(settings: TextSettings, tokenizer: PreTrainedTokenizerBase, *, context: int) -> PreparedText:
    """Make the settings ready for a tokeniser, and refuse what no encoder's folder could hold.

    ``context`` are the most tokens that the model's positions allow.

    Raises:
        ConfigError: A prompt's last token would merge with a text's first one, or a text's end is several tokens.
        ModelError: The chat template is missing or unusable.
    """
    if settings.max_length > context:
        say(f"texts are cut at {context} tokens instead of {settings.max_length}: the model has no positions beyond")
    chosen = settings.model_copy(update={"max_length": min(settings.max_length, context)})
    tokenizer = lower_casing(tokenizer) if chosen.lower_case else tokenizer
    layout = chat_template(tokenizer, wrapper=chosen.wrapper, separator=chosen.separator)
    saved = chosen.instruction == SAVED
    if saved and layout.prefix:
        if any(chosen.prompts.values()):
            raise ConfigError(
                f"wrapper {chosen.wrapper!r} and an encoder's own prompts exclude each other; give an instruction too"
            )
        # Without prompts of the encoder's own the wrapper is all that stands before a text.
        saved, chosen = False, chosen.model_copy(update={"instruction": "none", "prompts": {}, "default_prompt": None})
    instructions = None if saved else Instructions.parse(chosen.instruction, symmetric=chosen.symmetric)
    layout = end_with_eos(layout, tokenizer, append_eos=chosen.append_eos, pooling=chosen.pooling)
    if chosen.pooling != PAPER_POOLING:
        tokenizer = with_suffix(tokenizer, layout.suffix)
    made = PreparedText(settings=chosen, tokenizer=tokenizer, layout=layout, instructions=instructions)
    # An encoder's own prompts may well merge with its texts: what it leaves out then is left out here too.
    if chosen.pooling != PAPER_POOLING and not chosen.include_prompt and instructions is not None:
        by_data_set = E5_TEXTS if chosen.instruction == E5 else ()
        prompts = [*made.prompts.values(), *(layout.before(text) for text in by_data_set)]
        _check_prompts(dict.fromkeys(prompts), tokenizer, pooling=chosen.pooling)
    return made


def _check_prompts(prompts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, pooling: str) -> None:
    """Refuse a prompt whose last token would merge with a text's first one.

    sentence-transformers leaves as many tokens out of the pooling as the prompt has alone, so a merged token would be lost.
    Not so where the last token alone is pooled and that is the text's ending.
    """
    ending = own_ending(tokenizer)
    if pooling == "lasttoken" and ending:
        return
    for prompt in filter(None, prompts):
        if len(ending) > 1:
            raise ConfigError(
                f"texts end with {' '.join(ending)}, and sentence-transformers counts all but the last as part of the prompt {prompt!r}, "
                "so that the text's first tokens would not be pooled; use lasttoken pooling, or no prompt"
            )
        alone = prompt_ids(tokenizer, prompt)
        for text in _BEGINNINGS:
            if tokenizer(prompt + text)["input_ids"][: len(alone)] != alone:
                raise ConfigError(
                    f"the prompt {prompt!r} does not end between two tokens (before {text!r}), so the text's first word would not be "
                    "pooled; end it with a line break: separator '\\n'"
                )


def own_ending(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokens that the tokeniser puts behind every text by itself: often EOS, in Qwen3-Embedding another one.

    Raises:
        ModelError: The tokeniser is a slow one, or the text's own tokens are not among those of the whole.
    """
    whole = fast(tokenizer)("a").tokens()
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

    ``append_eos="auto"`` is on for the pooling ``"lasttoken"``, unless the wrapper or the tokeniser ends a text already or the
    tokeniser has no EOS token; off for the other poolings.

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


def chat_template(tokenizer: PreTrainedTokenizerBase, *, wrapper: Wrapper = "none", separator: str = "\n") -> PromptTemplate:
    """Return the text format for ``wrapper``: ``none``, or ``chat`` for the user turn of the tokeniser's chat template.

    A BOS token that the tokeniser adds by itself is left out of the prefix, and white space after the last token of
    the turn out of the suffix (L3Prune wraps in the same way).

    Raises:
        ModelError: ``chat`` is asked for but there is no chat template, or it does not show the text once.
    """
    if wrapper == "none":
        return PromptTemplate(separator=separator)
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
