"""Which tokens stay: the most frequent ones of the user's texts, with all that they are made of (arithmetic on token counts)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, PlainSerializer, model_validator
from tokenizers import Encoding, Tokenizer

from prune2vec.data.instructions import E5_TEXTS, Instructions
from prune2vec.data.plain_texts import read_texts
from prune2vec.errors import DataError, ModelError, PlanError, explained
from prune2vec.models.source import ModelSource, resolve_source
from prune2vec.models.text_settings import SAVED, PromptTemplate, TextSettings
from prune2vec.models.token_kinds import TokenVocabulary, lowered, token_numbers
from prune2vec.planning.plan import VocabularyCut
from prune2vec.planning.shares import amount_text, share_of
from prune2vec.profiling.profile import Profile
from prune2vec.progress import say
from prune2vec.settings import Settings, parse_amount

ALL: Final = "all"
ENOUGH: Final = Fraction(999, 1000)
"""Share of the texts' tokens that stays where nothing else is asked for, and under which no budget goes by itself."""
# Of a vocabulary of a given size, the most that is spent on characters that the texts do not have.
_ALPHABET_SHARE = 4
_AT_ONCE = 1000


def _read_size(value: Any) -> Any:
    """Read a number of tokens (``32k``), a share of the texts' tokens (``99.9%``, ``0.999``) or ``all``."""
    text = str(value).strip().lower()
    if value is None or text == ALL:
        return value if value is None else ALL
    try:
        size = parse_amount(text) if re.fullmatch(r"\d{1,18}(\.\d{1,18})?[km]|\d{1,18}", text) else share_of(text)
    except ValueError as error:
        expected = "tokens such as 32k, a share of the texts' tokens such as 99.9%, or all"
        raise ValueError(f"expected {expected}, got {value!r}") from error
    if not 1 <= size <= 10**7 if isinstance(size, int) else not 0 < size <= 1:
        raise ValueError(f"expected 1 to 10M tokens, or a share of the texts' tokens over 0% and up to 100%, got {value!r}")
    return size


Tokens = Annotated[
    int | Fraction | Literal["all"],
    BeforeValidator(_read_size),
    PlainSerializer(lambda size: size if isinstance(size, str) else amount_text(size)),
]


def _read_sources(value: Any) -> Any:
    if not isinstance(value, str):
        return value or ()
    return (value,) if os.path.exists(value) else tuple(filter(None, map(str.strip, value.split(","))))


_Sources = Annotated[tuple[str, ...], BeforeValidator(_read_sources)]


class VocabularyOptions(Settings):
    """The vocabulary: which tokens stay. It is cut where texts are given."""

    vocabulary: Tokens | None = None
    """Tokens that stay: a number (32k), the share of the texts' tokens that they must cover (99.9%), or all. Unset: with a
    budget on parameters or memory as many as let the method's own cut fit it, but never fewer than cover 99.9%, and the rest is
    cut from the blocks; without one those that cover 99.9%."""
    texts: _Sources = ()
    """Texts on which tokens are counted: documents or triplets (.txt, .jsonl, .csv, .parquet, .md, ...), a folder of them, a hub
    data set, or several of these, separated by commas."""
    model: str | None = None
    """Where the model is now, if not where it was when it was profiled; only its tokeniser is read."""

    @model_validator(mode="after")
    def _has_texts(self) -> Self:
        if self.vocabulary not in (None, ALL) and not self.texts:
            raise ValueError("vocabulary: tokens are counted on texts, and none are given; give texts, or vocabulary all")
        return self

    @property
    def cuts(self) -> bool:
        """Whether tokens may go."""
        return bool(self.texts) and self.vocabulary != ALL

    def parameters(self) -> dict[str, Any]:
        """Return what a plan says of them."""
        said = self.model_dump(include={"vocabulary"}, exclude_none=True)
        return {**said, "texts": ", ".join(self.texts)} if self.cuts else {}


@dataclass(frozen=True, kw_only=True)
class CountedTokens:
    """How often the texts have each token of a model.

    Attributes:
        tokens: The model's vocabulary.
        counts: By number of a token that has an embedding, how often the texts have it.
        always: Tokens that stay whatever is cut.
        options: What was asked for.
        text: How an encoder reads texts: up to which length, and whether in lower case.
    """

    tokens: TokenVocabulary
    counts: Mapping[int, int]
    always: frozenset[int]
    options: VocabularyOptions
    text: TextSettings

    def asked(self) -> tuple[int, ...] | None:
        """Return the tokens that stay if a size or a share was asked for; None where that is left to the budget."""
        size = self.options.vocabulary
        if size is None:
            return None
        return self.covering(size) if isinstance(size, Fraction) else self.most(int(size))

    def covering(self, share: Fraction) -> tuple[int, ...]:
        """Return the fewest tokens, the most frequent first, that are this share of the texts' tokens, in order of number.

        All characters of the tokeniser stay, where no bytes spell them.
        """
        always = self._with_parts([*self.always, *self.tokens.alphabet()])
        return self._filled(always, self._by_count(), wanted=share * sum(self.counts.values()))

    def most(self, size: int) -> tuple[int, ...]:
        """Return the ``size`` most frequent tokens with all that they are made of, in order of number; fewer if there are fewer.

        Where no bytes spell them, the tokeniser's own characters take up to a quarter, in its order.

        Raises:
            PlanError: Those that must stay are more.
        """
        always = self._with_parts(self.always)
        if len(always) > size:
            raise PlanError(
                f"a vocabulary of {size:,} tokens is too small: special tokens, bytes or the texts' characters, and what stands around "
                f"texts are {len(always):,}; give that many or more"
            )
        return self._filled(always, [*self.tokens.alphabet()[: size // _ALPHABET_SHARE], *self._by_count()], size=size)

    def _by_count(self) -> list[int]:
        # Of those that no text has, the tokeniser's own order is the best guess.
        return sorted(self.counts, key=lambda number: (-self.counts[number], number))

    def _filled(
        self, kept: set[int], order: Iterable[int], *, size: int | None = None, wanted: Fraction | None = None
    ) -> tuple[int, ...]:
        """Add tokens with their parts until there are ``size``, or until they cover ``wanted`` tokens of the texts."""
        covered = sum(self.counts[number] for number in kept)
        for number in order:
            if len(kept) == size or (wanted is not None and covered >= wanted):
                break
            more = self._with_parts([number]) - kept
            if size is None or len(kept) + len(more) <= size:
                kept |= more
                covered += sum(self.counts[one] for one in more)
        return tuple(sorted(kept))

    def _with_parts(self, numbers: Iterable[int]) -> set[int]:
        return {part for number in numbers if number in self.counts for part in self.tokens.parts(number)}

    def cut(self, kept: tuple[int, ...]) -> VocabularyCut:
        """Return the plan's record of these tokens; the texts are read again, to see which of them change."""
        whole, trimmed = (_as_read(backend, self.text) for backend in (self.tokens.backend, self.tokens.trimmed(kept)))
        stay, texts, changed, before, after = frozenset(kept), 0, 0, 0, 0
        for text, encoding in _encoded(self.options, whole, "looking which texts change"):
            texts, before = texts + 1, before + len(encoding.ids)
            if stay.issuperset(encoding.ids):
                after += len(encoding.ids)
            else:
                changed, after = changed + 1, after + len(trimmed.encode(text).ids)
        return VocabularyCut(
            kept=kept,
            digest=self.tokens.digest(kept),
            texts=texts,
            changed=changed,
            tokens_before=before,
            tokens_after=after,
        )


def counted_tokens(options: VocabularyOptions, profile: Profile) -> CountedTokens:
    """Count the tokens of the texts as the model's tokeniser makes them, each text as long as the encoder reads it.

    What stands before texts stays whole: its tokens, and those with a role, are among those that always stay.

    Raises:
        ModelError: The model cannot be found, or has no ``tokenizer.json``.
        UnsupportedModel: Its tokeniser is of another kind.
        DataError: The texts cannot be read, or there is none.
        PlanError: The profile does not tell how many token embeddings there are.
    """
    shape, name = profile.shape, options.model or str(profile.model.get("name"))
    if not shape.token_rows:
        raise PlanError(
            f"the profile does not tell how many token embeddings {name} has (it was made by an earlier release), or the model has "
            "more than one table of them; measure it again, or keep the whole vocabulary (--vocabulary all)"
        )
    source = resolve_source(name, revision=profile.model.get("revision"))
    if not source.has("tokenizer.json"):
        advice = "make one: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        raise ModelError(f"{source.name} has no tokenizer.json, whose vocabulary could be cut; {advice}")
    with explained(ModelError, f"{source.name}: cannot read tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(source.fetch("tokenizer.json")))
    tokens = TokenVocabulary(tokenizer, name)
    whole, found = _as_read(tokens.backend, profile.text), Counter[int]()
    for _, encoding in _encoded(options, whole, "counting tokens"):
        found.update(encoding.ids)
    if not found:
        raise DataError(f"{', '.join(options.texts)}: no text to count tokens on; give texts that the encoder is to read")
    prompts = [number for text in _around(profile.text, source) for number in whole.encode(text, add_special_tokens=False).ids]
    always = tokens.required([*_roles(source, tokens), *prompts], found) | tokens.spelling([*found, *prompts])
    return CountedTokens(
        tokens=tokens,
        counts={number: found[number] for number in tokens.tokens if number < shape.token_rows},
        always=frozenset(always),
        options=options,
        text=profile.text,
    )


def _as_read(backend: Tokenizer, text: TextSettings) -> Tokenizer:
    """Return a copy that takes texts as an encoder reads them, cut at its length, and pads none."""
    made = Tokenizer.from_str((lowered(backend) if text.lower_case else backend).to_str())
    made.no_padding()
    made.enable_truncation(text.max_length)
    return made


def _encoded(options: VocabularyOptions, backend: Tokenizer, what: str) -> Iterator[tuple[str, Encoding]]:
    say(f"{', '.join(options.texts)}: {what}")
    texts = (one.text for one in chain.from_iterable(map(read_texts, options.texts)) if one.text.strip())
    while some := list(islice(texts, _AT_ONCE)):
        yield from zip(some, backend.encode_batch_fast(some), strict=True)


def _around(text: TextSettings, source: ModelSource) -> tuple[str, ...]:
    """Return all that stands before and behind texts."""
    layout = PromptTemplate(separator=text.separator)
    if text.wrapper != layout.wrapper:
        # Heavy, and needed where a template has to be rendered alone.
        from prune2vec.models.load import load_tokenizer
        from prune2vec.models.prepared_text import chat_template

        layout = chat_template(load_tokenizer(source), wrapper=text.wrapper, separator=text.separator)
    if text.instruction == SAVED:
        return (layout.prefix, layout.suffix, *text.prompts.values())
    given = Instructions.parse(text.instruction, symmetric=text.symmetric)
    words = E5_TEXTS if given.kind == "e5" else (given.text,)
    return (layout.prefix, layout.suffix, *(layout.before(one, given.separator) for one in words))


def _roles(source: ModelSource, tokens: TokenVocabulary) -> Iterator[int]:
    """Yield the numbers of the tokens that a file of the model names: BOS, padding, ..."""
    for file in ("config.json", "generation_config.json"):
        if source.has(file):
            yield from chain.from_iterable(token_numbers(source.entries(file)).values())
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in source.entries(file).items() if source.has(file) else ():
            name = value.get("content") if isinstance(value, Mapping) else value
            if key.endswith("_token") and isinstance(name, str) and name in tokens.numbers:
                yield tokens.numbers[name]
