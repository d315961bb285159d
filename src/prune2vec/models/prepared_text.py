"""The text settings made ready for one tokeniser: what a profile measures, ``slim`` ranks by and ``prune`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prune2vec.data.instructions import E5_TEXTS, Instructions
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError
from prune2vec.models.end_of_text import chat_template, end_with_eos, own_ending, with_suffix
from prune2vec.models.load import within_context
from prune2vec.models.text_settings import E5, PAPER_POOLING, SAVED, PromptTemplate, TextSettings
from prune2vec.models.tokens import prompt_ids

# Beginnings of texts: a prompt's last token merges with one of these if with any.
_BEGINNINGS = ("a", "The", "in", "12", " x", "\n", "é", "東", "(", "_")


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


def check_servable(settings: TextSettings) -> None:
    """Refuse the pooling that is for profiles only.

    Raises:
        ConfigError: No encoder's folder can hold it.
    """
    if settings.pooling == PAPER_POOLING:
        raise ConfigError(
            f"the plan was measured with {PAPER_POOLING}, which no runtime pools by; give --pooling weightedmean, the nearest "
            "that is served, or mean or lasttoken, or measure with one of them"
        )


def prepare_text(settings: TextSettings, tokenizer: PreTrainedTokenizerBase, *, context: int) -> PreparedText:
    """Make the settings ready for a tokeniser, and refuse what no encoder's folder could hold.

    Args:
        settings: As decided.
        tokenizer: The model's fast tokeniser.
        context: Most tokens that the model's positions allow.

    Raises:
        ConfigError: A prompt's last token would merge with a text's first one, or a text's end is several tokens.
        ModelError: The chat template is missing or unusable.
    """
    chosen = settings.model_copy(update={"max_length": within_context(settings.max_length, context)})
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
    if chosen.pooling != PAPER_POOLING and not chosen.include_prompt:
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
